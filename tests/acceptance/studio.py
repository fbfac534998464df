"""A deployment with every built-in model, each a tiny checkpoint of its real classes, and a user of its HTTP API."""

import base64
import json
import shutil
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageChops, ImageDraw
from sqlalchemy import select

from common.catalogue_file import BUILT_IN
from common.db.tables import job_steps
from common.storage.open import open_store
from tests import tiny_models as tiny
from tests.processes.full import start_api
from tests.processes.harness import Stack, eventually, stack
from worker.handover import unpack

ABSENT = "absent"
FEW = {"num_inference_steps": 5}
FIXED = FEW | {"seed": 40, "deterministic": True}

_NATIVE_SIZE = 64
_NATIVE_SIZES = {"sd21": 128}
_CHECKPOINTS: dict[str, Callable[..., Path]] = {
    "sd15": tiny.save_stable_diffusion,
    "sd15-inpaint": tiny.save_stable_diffusion_inpaint,
    "sd21": tiny.save_stable_diffusion_2,
    "sdxl": tiny.save_sdxl,
    "sdxl-refiner": tiny.save_sdxl_refiner,
    "sdxl-inpaint": tiny.save_sdxl_inpaint,
    "kandinsky22": tiny.save_kandinsky,
    "kandinsky22-inpaint": tiny.save_kandinsky_inpaint,
    "comic-diffusion": tiny.save_stable_diffusion,
    "pixel-art": tiny.save_stable_diffusion,
}
_SHARED_VAES = {"comic-diffusion": "sd15", "pixel-art": "sd15", "sdxl-refiner": "sdxl"}
_CLOCKS = {"DARKROOM_LEASE_SECONDS": "30", "DARKROOM_HEARTBEAT_SECONDS": "0.5", "DARKROOM_SWEEP_SECONDS": "5"}
_REAL = {"DARKROOM_DEVICE": "cpu", "DARKROOM_TORCH_THREADS": "1"}

Job = dict[str, Any]


@dataclass(frozen=True)
class Studio:
    """What a user of the deployment does, in one line each. `stack` is what runs behind the API."""

    client: httpx.Client
    stack: Stack

    def upload(self, data: bytes) -> dict[str, str]:
        """Send a picture ahead; the source that names it in a request."""
        answer = self.client.post("/v1/uploads", files={"file": ("photo.png", data)})
        assert answer.status_code == 201, answer.text
        return {"upload": answer.json()["id"]}

    def submit(self, **request: Any) -> httpx.Response:
        """Hand a job in."""
        return self.client.post("/v1/jobs", json=request)

    def end_of(self, **request: Any) -> Job:
        """The job once it is over, however it ended."""
        answer = self.submit(**request)
        assert answer.status_code == 202, answer.text
        url = answer.json()["urls"]["self"]

        def look() -> Job | None:
            self._check_processes()
            seen: Job = self.client.get(url).raise_for_status().json()
            return seen if seen["finished_at"] else None

        done = eventually(look, seconds=60, what=f"the end of {url}")
        assert done is not None
        return done

    def edit(self, **request: Any) -> Job:
        """The job once it has succeeded."""
        done = self.end_of(**request)
        assert done["status"] == "succeeded", done["error"]
        return done

    def fetch(self, job: Job, index: int = 0) -> bytes:
        """The bytes of a result, as its URL answers them."""
        return self.client.get(job["images"][index]["url"]).raise_for_status().content

    def look(self, job: Job, index: int = 0) -> Image.Image:
        """A result as pixels."""
        return opened(self.fetch(job, index))

    def look_at_grid(self, job: Job) -> Image.Image:
        """The sheet of the input beside the results."""
        return opened(self.client.get(job["grid"]["url"]).raise_for_status().content)

    def handed_on(self, job: Job, number: int) -> set[str]:
        """In which form step `number` of a chain handed its picture on."""
        query = select(job_steps.c.key).where(job_steps.c.job_id == job["id"], job_steps.c.step == number)
        database = self.stack.database
        with database.read() as connection:
            key = connection.execute(query).scalar_one()
        database.close()
        found = unpack(open_store(self.stack.settings.store, None).get(key))
        return {name for name in ("pictures", "latents") if getattr(found, name) is not None}

    def _check_processes(self) -> None:
        for process in self.stack.processes:
            assert process.popen.poll() is None, process.log.read_text()


@contextmanager
def studio(folder: Path) -> Iterator[Studio]:
    """An embedded deployment: API, courier and one CPU worker, which builds nothing and downloads nothing."""
    with stack(folder, **_CLOCKS, **_REAL) as built:
        (folder / "models.toml").write_text(_catalogue(folder / "models"))
        built.worker("cpu")
        built.start("client.cli", "courier")
        url = start_api(built)
        _save_checkpoints(folder / "models")
        with httpx.Client(base_url=url, timeout=30) as client:
            yield Studio(client, built)


@contextmanager
def website(folder: Path) -> Iterator[str]:
    """The files of a folder on a web server of this machine; its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing: the test speaks."""


def photo(width: int = 64, height: int = 64) -> bytes:
    """A PNG in which every region is of another colour, so that a picture that is moved or scaled shows."""
    image = Image.linear_gradient("L").resize((width, height))
    coloured = Image.merge("RGB", (image, image.rotate(90).resize((width, height)), Image.new("L", image.size, 90)))
    ImageDraw.Draw(coloured).ellipse((width // 4, height // 4, width // 2, height // 2), fill=(220, 40, 40))
    return as_png(coloured)


def mask(size: int = 64, *, ground: str = "black", ink: str = "white") -> bytes:
    """A PNG with a square of `ink` over the middle quarter."""
    image = Image.new("RGB", (size, size), ground)
    ImageDraw.Draw(image).rectangle((size // 4, size // 4, size * 3 // 4 - 1, size * 3 // 4 - 1), fill=ink)
    return as_png(image)


def as_png(image: Image.Image) -> bytes:
    """The file."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    """The pixels of a file, without what it says of itself: that would count in comparisons of pictures."""
    image = Image.open(BytesIO(data)).convert("RGB")
    image.info.clear()
    return image


def as_data_url(png: bytes) -> dict[str, str]:
    """The source that carries a picture within a request."""
    return {"data": "data:image/png;base64," + base64.b64encode(png).decode()}


def codes(job: Job) -> set[str]:
    """What the job warns of."""
    return {warning["code"] for warning in job["warnings"]}


def changed_box(one: Image.Image, other: Image.Image) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of where two RGB pictures are not equal to the last bit; None if they are."""
    return ImageChops.difference(one, other).getbbox()


def _catalogue(folder: Path) -> str:
    """The built-in catalogue with other weights: what it says of tasks, families and defaults is the shipped text."""
    cards = {name: card for name, card in tomllib.loads(BUILT_IN.read_text()).items() if name in _CHECKPOINTS}
    cards[ABSENT] = cards["sd15"] | {"title": "A checkpoint that was never put where the file says"}
    return "\n".join(_card(folder, name, card) for name, card in cards.items())


def _card(folder: Path, name: str, card: dict[str, Any]) -> str:
    own = {key: value for key, value in card.items() if key != "variant"}
    own |= {"source": {"directory": str(folder / name)}, "native_size": _NATIVE_SIZES.get(name, _NATIVE_SIZE)}
    if "prior" in own:
        own["prior"] = {"directory": str(folder / "prior")}
    return "\n".join([f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in own.items())]) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(member)}" for key, member in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def _save_checkpoints(folder: Path) -> None:
    """One of every built-in model, each with weights of its own but for the VAEs that the real ones share."""
    for seed, (name, save) in enumerate(_CHECKPOINTS.items()):
        save(folder / name, seed=seed)
    tiny.save_kandinsky_prior(folder / "prior", seed=len(_CHECKPOINTS))
    for name, owner in _SHARED_VAES.items():
        shutil.rmtree(folder / name / "vae")
        shutil.copytree(folder / owner / "vae", folder / name / "vae")
