"""Jobs on random checkpoints, by the production loader and engine; and how far two pictures are apart."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from PIL import ImageChops, ImageStat
from PIL.Image import Image

from common.domain.capabilities import FAMILIES, Task
from common.domain.catalogue import Catalogue, ModelCard
from common.domain.params import EditParams, MaskParams
from common.settings import Settings
from tests.gpu.checkpoints import BUILDERS
from tests.tiny_models import card_of
from tests.unit.worker.frames import SIZE, frames_of, img2img, run, txt2img
from tests.unit.worker.pipelines.still import box
from worker.checkpoints import Shelf, load_components
from worker.device import Device, pick_device
from worker.engine.building import EngineBuilder
from worker.engine.port import Engine, Event, Finished, Prepared

Kind = Literal["pipeline", "step"]

MAX_FRAMES = 8
RUNS = [
    (family, task)
    for family in ("stable_diffusion", "stable_diffusion_inpaint", "sdxl", "sdxl_inpaint", "sdxl_refiner", "kandinsky")
    for task in sorted(FAMILIES[family].tasks)
] + [("kandinsky_inpaint", Task.INPAINT)]


@dataclass
class Studio:
    """Checkpoints by name, each saved when it is first asked for, and engines that a worker would build from them."""

    root: Path
    _drawn: dict[tuple[str, EditParams], list[Image]] = field(default_factory=dict)

    def card(self, name: str) -> ModelCard:
        """The card of a checkpoint; names that are no family are Stable Diffusion."""
        family = name if name in FAMILIES else "stable_diffusion"
        prior = self._folder("kandinsky_prior") if family.startswith("kandinsky") else None
        return card_of(self._folder(name), id=name, family=family, prior=prior)

    def builder(self, device: Device, kind: Kind = "pipeline") -> EngineBuilder:
        """What a worker on this device builds its engines with."""
        settings = Settings(batch_frames=MAX_FRAMES, engine=kind)
        return EngineBuilder(device=device, shelf=Shelf(), catalogue=Catalogue({}), settings=settings)

    def engine(self, name: str, device: Device, kind: Kind = "pipeline") -> Engine:
        """A newly loaded engine."""
        return self.builder(device, kind)(self.card(name))

    def parts(self, name: str, device: Device) -> dict[str, Any]:
        """The newly loaded parts of a checkpoint."""
        return load_components(self.card(name), device, Shelf())

    def on_cpu(self, name: str, params: EditParams) -> list[Image]:
        """The pictures of this job in float32 on the CPU, made once."""
        if (name, params) not in self._drawn:
            self._drawn[name, params] = develop(self.engine(name, pick_device("cpu")), params)
        return self._drawn[name, params]

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        return folder if folder.is_dir() else BUILDERS[name](folder)


def device_of() -> Device:
    """The device of this process, as a worker picks it."""
    return pick_device("cuda")


def job(task: Task, **changes: Any) -> EditParams:
    """A small job of this task; an inpainting keeps what the model makes of the rest."""
    if task is Task.TXT2IMG:
        return txt2img(**changes)
    params = img2img(task=task, **changes)
    return replace(params, mask=MaskParams(preserve_unmasked=False)) if task is Task.INPAINT else params


def frames(params: EditParams, *, job_id: str = "job-1") -> list[Prepared]:
    """The frames of this job, on a gradient and under a mask where its task wants them."""
    mask = box((SIZE, SIZE)).convert("RGB") if params.task is Task.INPAINT else None
    return list(frames_of(params, mask=mask, job_id=job_id))


def events_of(engine: Engine, params: EditParams) -> list[Event]:
    """What the engine reports of this job."""
    return run(engine, frames(params))


def finished(events: list[Event]) -> list[Finished]:
    """The frames that ended well, in their order."""
    return sorted((one for one in events if isinstance(one, Finished)), key=lambda one: one.ref.index)


def develop(engine: Engine, params: EditParams) -> list[Image]:
    """The pictures of this job; fails when there are fewer than it asks for."""
    events = events_of(engine, params)
    pictures = [one.pixels for one in finished(events) if one.pixels is not None]
    assert len(pictures) == params.num_images, events
    return pictures


def psnr(one: Image, other: Image) -> float:
    """Peak signal-to-noise ratio in dB of two RGB pictures; infinite when they are equal."""
    squares = ImageStat.Stat(ImageChops.difference(one, other)).sum2
    mean = sum(squares) / (3 * one.width * one.height)
    return 10 * math.log10(255**2 / mean) if mean else math.inf
