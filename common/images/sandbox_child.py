"""The decoding process: `python -m common.images.sandbox_child`, started by `sandbox.ImageDecoder` and nobody else.

Standard input is a connected socket to the parent. The process answers one message at a time and ends when the
parent closes its end. Before the first foreign byte it gives up: memory above 512 MiB, files it could write, every
descriptor beyond the three it has (so no file, no socket, no network), new processes, core dumps, new privileges.
"""

import ctypes
import resource
import signal
import socket
import sys
from io import BytesIO
from typing import Final

from PIL import Image, ImageCms, MpoImagePlugin, TiffImagePlugin  # noqa: F401 - loaded now, the door closes later

from common.images.decode import decode_untrusted
from common.images.framing import receive, send
from common.images.untrusted import DecodedImage, ImageLimits, ImageRejected

# A legal picture of 16,777,216 pixels takes at most 370 MiB of address space, measured (lossless WebP with alpha).
ADDRESS_SPACE_BYTES: Final = 512 * 1024 * 1024

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


def main(arguments: list[str]) -> None:
    """Serve until the parent closes. `arguments` are the four numbers of `ImageLimits`, in order."""
    limits = ImageLimits(*(int(argument) for argument in arguments))
    with socket.socket(fileno=sys.stdin.fileno()) as parent:
        die_with_parent()
        warm_up(limits)
        confine()
        send(parent, {"ready": True})
        serve(parent, limits)


def serve(parent: socket.socket, limits: ImageLimits) -> None:
    """Answer every message of the parent, in order, until it closes."""
    while True:
        try:
            _, data = receive(parent, max_body_bytes=limits.max_bytes)
        except EOFError:
            return
        try:
            decoded = decode_untrusted(data, limits=limits)
        except ImageRejected as rejection:
            send(parent, {"code": rejection.code, "detail": rejection.detail})
        else:
            send(parent, _header(decoded), decoded.png)
            del decoded
        del data


def warm_up(limits: ImageLimits) -> None:
    """Decode one small picture of each kind, so that all code is loaded before `confine` forbids opening files."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    side = max(16, limits.min_side)
    for mode, kind in (("RGBA", "PNG"), ("CMYK", "JPEG"), ("RGB", "JPEG"), ("RGBA", "WEBP")):
        buffer = BytesIO()
        Image.new(mode, (side, side)).save(buffer, format=kind, icc_profile=profile, exif=exif.tobytes())
        decode_untrusted(buffer.getvalue(), limits=limits)


def die_with_parent() -> None:
    """Ask Linux for SIGKILL when the parent's starting thread ends. Elsewhere the closed socket has to do."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def confine() -> None:
    """Give up what decoding does not need. There is no way back."""
    limits = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_NPROC, 0),
    ]
    if sys.platform == "linux":  # macOS refuses a limit below what its shared cache already maps.
        limits.append((resource.RLIMIT_AS, ADDRESS_SPACE_BYTES))
    for what, value in limits:
        resource.setrlimit(what, (value, value))


def _header(decoded: DecodedImage) -> dict[str, object]:
    return {
        "width": decoded.width,
        "height": decoded.height,
        "source_format": decoded.source_format,
        "has_alpha": decoded.has_alpha,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
