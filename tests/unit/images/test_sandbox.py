"""The decoding child: what it may do, what happens when it fails, and that nobody notices."""

import os
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms

from common.images.decode import decode_untrusted
from common.images.sandbox import DecodedImage, DecoderUnavailable, ImageDecoder, ImageLimits, ImageRejected
from tests.unit.images.files import GREY, GREY_ALPHA, RGB, bomb, chunk, corners, png, saved

pytestmark = pytest.mark.processes

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def decoder() -> Iterator[ImageDecoder]:
    with ImageDecoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def shared_decoder() -> Iterator[ImageDecoder]:
    with ImageDecoder() as decoder:
        yield decoder


def legal_files() -> dict[str, bytes]:
    """One file for every way through the decoder, since the child cannot load code later."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = corners()
    palette = chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", b"\x80\x80")
    facts: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": profile}
    return {
        "png": saved(picture, **facts),
        "palette": png(32, 32, depth=8, colour=3, rows=b"\x01" * 32, before=palette),
        "1-bit": saved(picture.convert("1")),
        "grey": saved(picture.convert("L")),
        "grey alpha": saved(picture.convert("LA"), **facts),
        "16-bit grey": png(32, 32, depth=16, colour=GREY, rows=b"\x80\0" * 32),
        "16-bit grey alpha": png(32, 32, depth=16, colour=GREY_ALPHA, rows=b"\x80\0\x80\0" * 32),
        "16-bit colour with key": png(
            32, 32, depth=16, colour=RGB, rows=bytes(6) * 32, before=chunk(b"tRNS", struct.pack(">3H", 0, 0, 0))
        ),
        "rgba": saved(picture.convert("RGBA"), **facts),
        "text": png(32, 32, depth=8, colour=GREY, rows=bytes(32), before=chunk(b"iTXt", b"k\0\0\0\0\0v\xc3\xa4")),
        "xmp": png(
            32,
            32,
            depth=8,
            colour=GREY,
            rows=bytes(32),
            before=chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'),
        ),
        "jpeg": saved(picture, "JPEG", **facts),
        "progressive": saved(picture, "JPEG", progressive=True),
        "grey jpeg": saved(picture.convert("L"), "JPEG"),
        "cmyk": saved(picture.convert("CMYK"), "JPEG"),
        "phone": saved(picture, "MPO", save_all=True, append_images=[picture]),
        "webp": saved(picture, "WEBP", **facts),
        "lossless webp": saved(picture.convert("RGBA"), "WEBP", lossless=True),
    }


@pytest.mark.parametrize("name", sorted(legal_files()))
def test_the_child_decodes_as_the_function_does(shared_decoder: ImageDecoder, name: str) -> None:
    data = legal_files()[name]
    assert shared_decoder.decode(data) == decode_untrusted(data, limits=ImageLimits())


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"text", "unsupported_media_type"),
        (bomb(50_000, 50_000), "image_too_large"),
        (saved(corners())[:-40], "image_unreadable"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20 * 1024 * 1024), "image_too_large"),
    ],
)
def test_a_refusal_crosses_the_pipe_and_costs_no_child(shared_decoder: ImageDecoder, data: bytes, code: str) -> None:
    shared_decoder.decode(saved(corners()))
    before = shared_decoder.process_ids()
    with pytest.raises(ImageRejected) as caught:
        shared_decoder.decode(data)
    assert caught.value.code == code
    assert "allowed" in caught.value.detail
    assert shared_decoder.process_ids() == before


def test_no_child_runs_before_it_is_needed_and_none_after_closing() -> None:
    with ImageDecoder(processes=2) as decoder:
        assert decoder.process_ids() == ()
        decoder.warm_up()
        children = decoder.process_ids()
        assert len(set(children)) == 2
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_a_closed_decoder_refuses_and_may_be_closed_again() -> None:
    decoder = ImageDecoder()
    decoder.close()
    decoder.close()
    with pytest.raises(RuntimeError, match="closed"):
        decoder.decode(saved(corners()))


def test_many_threads_share_the_children() -> None:
    pictures = [Image.new("RGB", (32, 32), (number * 20, 0, 0)) for number in range(12)]
    seen: dict[int, DecodedImage] = {}

    def decode(number: int) -> None:
        seen[number] = pool.decode(saved(pictures[number]))

    with ImageDecoder(processes=2) as pool:
        threads = [threading.Thread(target=decode, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(pool.process_ids()) <= 2
    for number, picture in enumerate(pictures):
        assert Image.open(BytesIO(seen[number].png)).tobytes() == picture.tobytes()


def test_a_child_outlives_the_thread_that_first_needed_it(decoder: ImageDecoder) -> None:
    thread = threading.Thread(target=decoder.decode, args=(saved(corners()),))
    thread.start()
    thread.join()
    before = decoder.process_ids()
    decoder.decode(saved(corners()))
    assert decoder.process_ids() == before


def test_an_image_that_takes_too_long_is_refused_and_the_next_is_served() -> None:
    with ImageDecoder(seconds_per_image=0.5) as decoder:
        decoder.warm_up()
        (hung,) = decoder.process_ids()
        os.kill(hung, signal.SIGSTOP)
        with pytest.raises(ImageRejected, match=r"longer than 0\.5 s") as caught:
            decoder.decode(saved(corners()))
        assert caught.value.code == "image_unreadable"
        assert decoder.decode(saved(corners())).width == 48
        assert decoder.process_ids() != (hung,)


def test_a_child_that_dies_costs_only_its_image(decoder: ImageDecoder) -> None:
    decoder.warm_up()
    (child,) = decoder.process_ids()
    os.kill(child, signal.SIGSTOP)
    codes: list[str] = []

    def decode() -> None:
        with pytest.raises(ImageRejected) as caught:
            decoder.decode(saved(Image.effect_noise((512, 512), 90)))
        codes.append(caught.value.code)

    thread = threading.Thread(target=decode)
    thread.start()
    while decoder.process_ids():  # Until the image is in its hands.
        os.sched_yield()
    os.kill(child, signal.SIGKILL)
    thread.join()
    assert codes == ["image_unreadable"]
    assert decoder.decode(saved(corners())).width == 48


def test_a_child_that_died_between_two_images_costs_none(decoder: ImageDecoder) -> None:
    decoder.decode(saved(corners()))
    (child,) = decoder.process_ids()
    watch = os.pidfd_open(child)
    os.kill(child, signal.SIGKILL)
    select.select([watch], [], [], 10)
    os.close(watch)
    assert decoder.decode(saved(corners())).width == 48
    assert decoder.process_ids() != (child,)


def test_a_child_is_replaced_after_its_share_of_images() -> None:
    with ImageDecoder(images_per_process=2) as decoder:
        children = set()
        for _ in range(4):
            decoder.decode(saved(corners()))
            decoder.warm_up()
            children.add(decoder.process_ids())
        assert len(children) == 3


@linux_only
def test_an_image_that_needs_too_much_memory_is_refused() -> None:
    limits = ImageLimits(max_pixels=20_000 * 20_000, max_side=20_000)
    with ImageDecoder(limits=limits) as decoder:
        with pytest.raises(ImageRejected, match="memory") as caught:
            decoder.decode(bomb(20_000, 20_000))
        assert caught.value.code == "image_unreadable"
        assert decoder.decode(saved(corners())).width == 48


def test_the_largest_legal_picture_fits_into_the_memory_of_the_child(decoder: ImageDecoder) -> None:
    largest = saved(Image.new("RGBA", (4096, 4096), (1, 2, 3, 4)), "WEBP", lossless=True, method=0)
    assert decoder.decode(largest).width == 4096


@linux_only
def test_the_child_has_nothing_to_steal_and_nowhere_to_go(
    decoder: ImageDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "topsecret")
    decoder.warm_up()
    (child,) = decoder.process_ids()
    process = Path(f"/proc/{child}")
    names = [entry.partition("=")[0] for entry in (process / "environ").read_text().split("\0") if entry]
    assert sorted(names) == ["LANG", "PATH", "PYTHONPATH"]
    assert sorted(os.listdir(process / "fd")) == ["0", "1", "2"]
    limits = {line[:26].strip(): line[26:].split()[:2] for line in (process / "limits").read_text().splitlines()}
    assert limits["Max open files"] == ["3", "3"]
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max processes"] == ["0", "0"]
    assert limits["Max address space"] == [str(512 * 1024 * 1024)] * 2
    assert "NoNewPrivs:\t1" in (process / "status").read_text()
    assert os.getsid(child) == child != os.getsid(0)


@linux_only
def test_no_child_outlives_a_parent_that_is_killed() -> None:
    program = (
        "import signal; from common.images.sandbox import ImageDecoder; decoder = ImageDecoder(processes=2);"
        "decoder.warm_up(); print(*decoder.process_ids(), flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        watches = [os.pidfd_open(int(child)) for child in parent.stdout.readline().split()]
        parent.kill()
    for watch in watches:
        assert select.select([watch], [], [], 10)[0] == [watch]
        os.close(watch)


def test_using_the_decoder_loads_no_pillow() -> None:
    program = "import sys, common.images.sandbox; sys.exit('PIL' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_child_that_cannot_start_is_not_the_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    with ImageDecoder() as decoder:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/bin/false")
            with pytest.raises(DecoderUnavailable, match="did not start"):
                decoder.decode(saved(corners()))
        assert decoder.decode(saved(corners())).width == 48
