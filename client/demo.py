"""`darkroom demo`: the whole road on this machine, with the toy model that ships with Darkroom."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Final

from PIL import Image, ImageOps
from rich.console import Console

from client.commands.failing import Failure, read_settings
from client.demo_pictures import Strip, compose_sheet, draw_shape, png
from client.job import Job
from client.progress import shown_progress
from client.sdk import Darkroom
from common.settings import child_environment
from common.supervisor import tied_to_this_process
from deploy.local.readiness import count_ready_workers

MODEL: Final = "demo"
SHAPE_PROMPT: Final = "a blue square on a white background"
SHAPE_STRENGTH: Final = 0.6
PHOTO_PROMPT: Final = "a green circle on a white background"
PHOTO_STRENGTH: Final = 0.4
SEED: Final = 7

# Rear Admiral Grace Hopper, by James S. Davis for the U.S. Navy; public domain.
_PHOTO: Final = Path(__file__).parent / "assets" / "photograph.jpg"
_DATA: Final = Path("darkroom-data/demo")
_START_SECONDS: Final = 180
_JOB_SECONDS: Final = 240
_STOP_SECONDS: Final = 130
_SHEET: Final = "before-after.png"

_HOW_ON: Final = (
    "With a real checkpoint, where the model hub can be reached:\n"
    "  darkroom models pull sd15     and start the service with `darkroom up`, then\n"
    '  darkroom submit photo.jpg --model sd15 --strength 0.6 --prompt "the same street in winter, snow"'
)

_console = Console(highlight=False, markup=False, soft_wrap=True)


def run_demo(out: Path, data: Path | None = None, photo: Path | None = None) -> int:
    """Start a stack of its own, edit two pictures over HTTP, write them into `out`, stop. Returns the exit status.

    `photo` takes the place of the photograph that ships with Darkroom. Raises `Failure` or `ClientError` when
    something does not work.
    """
    out.mkdir(parents=True, exist_ok=True)
    photo = photo or _PHOTO
    picture = _open_photo(photo)
    with running_stack(data or _DATA) as url, Darkroom(url) as server:
        shape_strip = _edit_shape(server, out)
        photo_strip = _edit_photo(server, out, photo, picture)
        _console.print("stopping …")
    sheet = out.resolve() / _SHEET
    compose_sheet([shape_strip, photo_strip]).save(sheet)
    _console.print(f"\n{sheet}\n\n{_HOW_ON}")
    return 0


def _edit_shape(server: Darkroom, out: Path) -> Strip:
    before = draw_shape()
    after = _edit(server, "drawing", png(before), SHAPE_PROMPT, SHAPE_STRENGTH, out / "drawing-after.png")
    before.save(out / "drawing-before.png")
    return Strip(before, after, ("drawn: a red circle", f"asked for: “{SHAPE_PROMPT}”, strength {SHAPE_STRENGTH}"))


def _edit_photo(server: Darkroom, out: Path, photo: Path, before: Image.Image) -> Strip:
    after = _edit(server, "photograph", photo, PHOTO_PROMPT, PHOTO_STRENGTH, out / "photograph-after.png")
    before.save(out / "photograph-before.png")
    what = "a photograph (U.S. Navy, public domain)" if photo == _PHOTO else "your photograph"
    truth = f"asked for: “{PHOTO_PROMPT}”. The toy model knows coloured shapes only; model sd15 does real photographs"
    return Strip(before, after, (what, truth))


def _edit(server: Darkroom, name: str, image: bytes | Path, prompt: str, strength: float, path: Path) -> Image.Image:
    job = server.submit(prompt=prompt, image=image, model=MODEL, strength=strength, seed=SEED)
    with shown_progress(_console, name) as show:
        job = server.wait(job.id, timeout=_JOB_SECONDS, on_progress=show)
    _require_success(job)
    data = server.download(job.id)
    path.write_bytes(data)
    return Image.open(BytesIO(data)).convert("RGB")


def _require_success(job: Job) -> None:
    if job.status != "succeeded":
        detail = (job.error or {}).get("detail", "no reason given")
        raise Failure(f"the job ended as {job.status}: {detail}")


def _open_photo(path: Path) -> Image.Image:
    try:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise Failure(f"{path} cannot be read as a picture: {error}") from error
    image.thumbnail((1024, 1024))
    return image


@contextmanager
def running_stack(data: Path) -> Iterator[str]:
    """The address of a stack that is ready, in a process of its own; stopped at the end of the block."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    data.mkdir(parents=True, exist_ok=True)
    log = data / "up.log"
    _console.print(f"starting Darkroom in {data.resolve()} …")
    with log.open("wb") as output:
        process = _start(data.resolve(), port, output)
        try:
            _wait_until_ready(process, url, log)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            exit_code = process.wait(_STOP_SECONDS)
    if exit_code != 0:
        raise Failure(f"the stack did not stop in good order (exit code {exit_code}); see {log}")


def _start(data: Path, port: int, output: IO[bytes]) -> "subprocess.Popen[bytes]":
    """`darkroom up` on the embedded parts, whatever this machine's settings name."""
    settings = read_settings(
        data_dir=data,
        host="127.0.0.1",
        port=port,
        auth="none",
        database_url=f"sqlite:///{data / 'darkroom.db'}",
        broker_url="filesystem://",
        store_url=f"file://{data / 'store'}",
    )
    return subprocess.Popen(
        [sys.executable, "-m", "client.cli", "up", "--workers", "1"],
        env=child_environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=tied_to_this_process(),
    )


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    give_up_at = time.monotonic() + _START_SECONDS
    while not count_ready_workers(url):
        if process.poll() is not None:
            raise Failure(f"Darkroom did not start:\n{log.read_text(errors='replace').strip()}")
        if time.monotonic() > give_up_at:
            raise Failure(f"no worker was ready within {_START_SECONDS} seconds; see {log.parent / 'logs'}{os.sep}")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
