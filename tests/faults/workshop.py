"""A whole worker in this process, on a tiny model of the real classes, with faults put into its parts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.db.engine import Database
from common.domain.catalogue import Catalogue
from common.domain.job import NewJob
from common.domain.snapshot import JobSnapshot
from common.settings import Settings
from common.storage.open import open_store
from tests.faults.logs import plain_logs
from tests.making import submit
from tests.processes.harness import until_finished
from tests.tiny_models import card_of
from worker.checkpoints import Shelf
from worker.device import pick_device
from worker.engine import building
from worker.pipelines.prompts import encode_chunks
from worker.runtime import Runtime

_SECONDS = 90.0

Parts = dict[str, Any]


@dataclass
class Workshop:
    """A worker that runs when it is told to, its database and store, and the loaded parts of its model."""

    database: Database
    settings: Settings
    parts: Parts
    deaths: list[str] = field(default_factory=list)

    @contextmanager
    def working(self) -> Iterator[None]:
        """The worker claims and works while the block lasts; it must not have died then."""
        card = card_of(Path("/nowhere"))
        catalogue = Catalogue({card.id: card})
        builder = building.EngineBuilder(
            device=pick_device("cpu"), shelf=Shelf(), catalogue=catalogue, settings=self.settings
        )
        runtime = Runtime(
            self.settings,
            device="cpu",
            catalogue=catalogue,
            build_engine=builder,
            on_death=lambda: self.deaths.append("a thread"),
        )
        with plain_logs():
            runtime.start()
            try:
                yield
            finally:
                runtime.drain()
        assert self.deaths == []

    def queue(self, prompt: str, *, max_tries: int = 3, **params: Any) -> NewJob:
        """A small job of the tiny model stands in the queue."""
        own = {"model": "tiny", "prompt": prompt, "guidance_scale": 5.0, "previews": False}
        return submit(self.database, params=own | params, max_tries=max_tries)

    def ends_of(self, queued: Sequence[NewJob]) -> list[JobSnapshot]:
        """These jobs once they are terminal; the worker must be working."""
        return [until_finished(self.database, job.id, seconds=_SECONDS) for job in queued]

    def pictures_of(self, job: JobSnapshot) -> list[bytes]:
        """What lies in the store for this job."""
        store = open_store(self.settings.store, None)
        return [store.get(image.key) for image in job.images]

    def look_at(self, job: JobSnapshot) -> Image.Image:
        """The first of them as pixels."""
        return Image.open(BytesIO(self.pictures_of(job)[0])).convert("RGB")


def build_workshop(database: Database, folder: Path, parts: Parts, engine: str, patch: pytest.MonkeyPatch) -> Workshop:
    """A worker with these parts, already loaded, on this kind of engine."""
    patch.setattr(building, "load_components", lambda *_: parts)
    for room in ("passes", "decoding", "pipeline_engine"):  # seconds of garbage collection, and nothing to be seen
        patch.setattr(f"worker.engine.{room}.release_memory", lambda: None)
    settings = Settings(_env_file=None, data_dir=folder, engine=engine, poll_seconds=0.05, wish_seconds=0.1)
    return Workshop(database, settings, parts)


def rows_with(parts: Parts, prompt: str) -> Callable[[Any], Any]:
    """Which rows of a forward pass have this prompt: a mask, from the pass's prompt embeddings."""
    import torch

    text = encode_chunks(parts, [prompt], 1)[0]
    return lambda prompts: torch.isclose(prompts, text, atol=1e-4).flatten(1).all(dim=1)


@contextmanager
def failing(parts: Parts, prompt: str, error: Exception) -> Iterator[None]:
    """Every forward pass with this prompt raises."""
    is_bad = rows_with(parts, prompt)

    def check(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if is_bad(kwargs["encoder_hidden_states"]).any():
            raise error

    hook = parts["unet"].register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def not_a_number(parts: Parts, prompt: str) -> Iterator[None]:
    """The rows with this prompt come out of every forward pass as NaN."""
    is_bad = rows_with(parts, prompt)

    def spoil(_module: Any, _args: Any, kwargs: dict[str, Any], answer: tuple[Any, ...]) -> tuple[Any, ...]:
        answer[0][is_bad(kwargs["encoder_hidden_states"])] = float("nan")
        return answer

    hook = parts["unet"].register_forward_hook(spoil, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def spoil_decoding(
    parts: Parts, patch: pytest.MonkeyPatch, value: float, is_spoilt: Callable[[Any], bool]
) -> list[Any]:
    """Decoded pictures have this value everywhere when `is_spoilt(number format)`. Returns the formats used so far."""
    vae, decode = parts["vae"], parts["vae"].decode
    used: list[Any] = []

    def decode_badly(latents: Any, *rest: Any, **how: Any) -> Any:
        made = decode(latents, *rest, **how)
        used.append(vae.dtype)
        if is_spoilt(vae.dtype):
            made[0].fill_(value)
        return made

    patch.setattr(vae, "decode", decode_badly)
    return used
