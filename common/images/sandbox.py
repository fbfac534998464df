"""Decode untrusted images in a child process that has little memory, little time and nothing to steal."""

import hashlib
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from queue import Empty, LifoQueue
from types import TracebackType
from typing import Any, Final, Self

from common.images.framing import receive, send
from common.images.untrusted import (
    DecodedImage,
    ImageLimits,
    ImageRejected,
    check_size_in_bytes,
    sniff_format,
)

__all__ = ["DecodedImage", "DecoderUnavailable", "ImageDecoder", "ImageLimits", "ImageRejected"]

_START_SECONDS: Final = 30.0
_SOURCE_ROOT: Final = Path(__file__).resolve().parents[2]


class DecoderUnavailable(RuntimeError):
    """The decoding process does not start. The image is not to blame."""


class ImageDecoder:
    """Decodes untrusted images, each within `seconds_per_image` of wall time, in at most `processes` children.

    Thread-safe. A child starts with the first image (or `warm_up`) and serves up to `images_per_process` of them. One
    that dies or overruns its time costs only the image in its hands and is replaced at once, in the background.
    Children live in a session of their own (no Ctrl-C), see an empty environment, and die with this process.
    """

    def __init__(
        self,
        *,
        processes: int = 1,
        limits: ImageLimits | None = None,
        seconds_per_image: float = 5.0,
        images_per_process: int = 500,
    ) -> None:
        self._processes = processes
        self._limits = limits or ImageLimits()
        self._seconds_per_image = seconds_per_image
        self._images_per_process = images_per_process
        self._is_closed = False
        # Linux ties a child's life to the *thread* that started it, so one lasting thread starts them all.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="image-decoder-starter")
        self._slots: LifoQueue[Future[_Child] | None] = LifoQueue()
        for _ in range(processes):
            self._slots.put(None)

    def decode(self, data: bytes) -> DecodedImage:
        """Decode one PNG, JPEG or WebP file; waits for a free child first, which the time limit does not count.

        Raises `ImageRejected` when the file is not what `ImageLimits` allows, or its child died or ran out of time;
        `DecoderUnavailable` when no child can be started; RuntimeError after `close`.
        """
        check_size_in_bytes(len(data), self._limits)
        sniff_format(data)
        child = self._take()
        answer = None
        try:
            answer = _answer(*child.exchange(data, self._seconds_per_image))
        except TimeoutError as error:
            raise _overrun(self._seconds_per_image) from error
        except (EOFError, OSError, ValueError, KeyError) as error:
            raise _breakdown() from error
        finally:
            self._give_back(child, is_fit=answer is not None)
        if isinstance(answer, ImageRejected):
            raise answer
        return answer

    def warm_up(self) -> None:
        """Start the children that are not running and wait until they are ready. Raises `DecoderUnavailable`."""
        slots: list[Future[_Child] | None] = []
        with suppress(Empty):
            while True:
                slots.append(self._slots.get_nowait())
        started = [slot or self._start() for slot in slots]
        for slot in started:
            self._slots.put(slot)
        for slot in started:
            slot.result()

    def process_ids(self) -> tuple[int, ...]:
        """The processes of the children that are ready and have no image in their hands, in ascending order."""
        with self._slots.mutex:
            slots = [slot for slot in self._slots.queue if slot is not None and slot.done()]
        return tuple(sorted(slot.result().process_id for slot in slots if slot.exception() is None))

    def close(self) -> None:
        """Wait for the images in work, then end the children. May be called again; `decode` then refuses."""
        self._is_closed = True
        for _ in range(self._processes):
            slot = self._slots.get()
            if slot is not None and slot.exception() is None:
                slot.result().stop()
        for _ in range(self._processes):
            self._slots.put(None)
        self._starter.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _take(self) -> "_Child":
        slot = self._slots.get()
        if self._is_closed:
            self._slots.put(slot)
            raise RuntimeError("the image decoder is closed")
        try:
            child = (slot or self._start()).result()
            if child.is_alive():
                return child
            child.stop()
            return self._start().result()
        except BaseException:
            self._slots.put(None)
            raise

    def _give_back(self, child: "_Child", *, is_fit: bool) -> None:
        if is_fit and child.images_served < self._images_per_process:
            slot: Future[_Child] = Future()
            slot.set_result(child)
        else:
            child.stop()
            slot = self._start()
        self._slots.put(slot)

    def _start(self) -> "Future[_Child]":
        return self._starter.submit(_Child, self._limits)


class _Child:
    """One decoding process, ready for use when the constructor returns. Used by one thread at a time."""

    def __init__(self, limits: ImageLimits) -> None:
        self.images_served = 0
        self._max_png_bytes = limits.max_pixels * 4 + 1024 * 1024
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-m", "common.images.sandbox_child", *map(str, astuple(limits))],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=_bare_environment(),
                cwd="/",
                start_new_session=True,
            )
        try:
            receive(self._socket, max_body_bytes=0, deadline=time.monotonic() + _START_SECONDS)
        except (EOFError, OSError, ValueError) as error:
            self.stop()
            raise DecoderUnavailable("the image decoding process did not start; see its standard error") from error

    @property
    def process_id(self) -> int:
        """The number of the process."""
        return self._process.pid

    def is_alive(self) -> bool:
        """False when the process has ended by itself, for instance under the kernel's memory pressure."""
        return self._process.poll() is None

    def exchange(self, data: bytes, limit_seconds: float) -> tuple[dict[str, Any], bytes]:
        """Send a file, wait for the answer. Raises TimeoutError, EOFError, OSError or ValueError; then `stop` it."""
        deadline = time.monotonic() + limit_seconds
        send(self._socket, {}, data, deadline=deadline)
        answer = receive(self._socket, max_body_bytes=self._max_png_bytes, deadline=deadline)
        self.images_served += 1
        return answer

    def stop(self) -> None:
        """End the process, whatever it is doing, and reap it."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def _bare_environment() -> dict[str, str]:
    return {"PATH": os.defpath, "PYTHONPATH": str(_SOURCE_ROOT), "LANG": "C.UTF-8"}


def _answer(header: dict[str, Any], png: bytes) -> DecodedImage | ImageRejected:
    """The answer as a value. The digest is ours: the child is not trusted to tell what its bytes are."""
    if "code" in header:
        return ImageRejected(header["code"], str(header["detail"]))
    return DecodedImage(
        png=png,
        width=int(header["width"]),
        height=int(header["height"]),
        sha256=hashlib.sha256(png).hexdigest(),
        source_format=header["source_format"],
        has_alpha=bool(header["has_alpha"]),
    )


def _overrun(limit_seconds: float) -> ImageRejected:
    return ImageRejected(
        "image_unreadable",
        f"The image takes longer than {limit_seconds:g} s to decode; ordinary PNG, JPEG or WebP files are allowed.",
    )


def _breakdown() -> ImageRejected:
    return ImageRejected(
        "image_unreadable", "The image breaks the decoder; ordinary PNG, JPEG or WebP files are allowed."
    )
