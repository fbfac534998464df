"""`deterministic: true`: the plain call to the byte, whatever else runs between its passes."""

from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from common.domain.capabilities import FAMILIES, Task
from common.domain.wishes import RefinerWish
from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.test_jobs import EVERY as EVERY_JOB
from tests.unit.worker.pipelines.test_jobs import Lab
from tests.unit.worker.step_engine.cases import EVERY, Case
from tests.unit.worker.step_engine.plain import Plain
from tests.unit.worker.step_engine.running import (
    engine_of,
    finished,
    latents_of,
    only,
    picture_of,
    play,
    rows_of_passes,
    tick,
    to_the_end,
)
from worker.engine.port import Engine, Stepped

torch = pytest.importorskip("torch")

SD = "stable_diffusion"


def exact(family: str, task: Task) -> Case:
    """A job of this kind with a scheduler that draws noise at every step."""
    scheduler = "ddpm" if family.startswith("kandinsky") else "euler_ancestral"
    has_strength = task not in FAMILIES[family].without_strength
    return Case(family, task, scheduler, prompt="exactly this", seed=5, strength=0.8 if has_strength else None)


@pytest.fixture(scope="module")
def plain(shop: Shop) -> Plain:
    return Plain(shop, torch.float32)


@pytest.mark.parametrize(("family", "task"), EVERY_JOB)
def test_it_is_the_plain_call_while_seven_others_run(shop: Shop, plain: Plain, family: str, task: Task) -> None:
    case, parts = exact(family, task), shop.parts(family)
    engine = engine_of(family, parts)
    for other in EVERY[family][:7]:
        engine.join(other.frame())
    tick(engine)
    engine.join(case.frame("exact", deterministic=True))
    ends = finished(to_the_end(engine))
    made = ends["exact"]
    assert torch.equal(latents_of(made), plain.latents(case))
    assert picture_of(made).tobytes() == plain.picture(case).tobytes()
    assert (made.facts["batched_with"], made.facts["frames"]) == (0, 1)
    assert len(ends) == 8


def test_its_passes_contain_nothing_else_and_the_others_step_at_the_same_ticks(shop: Shop) -> None:
    parts = shop.parts(SD)
    engine = engine_of(SD, parts)
    frames = exact(SD, Task.TXT2IMG).frames("exact", deterministic=True, num_images=2)
    for frame in [*frames, Case(SD, Task.TXT2IMG).frame("a"), Case(SD, Task.TXT2IMG).frame("b")]:
        assert engine.offer(frame).ok
        engine.join(frame)
    with rows_of_passes(parts["unet"]) as passes:
        events = tick(engine)
    assert sorted(passes) == [2, 2, 4]
    assert [event.ref.job_id for event in events if isinstance(event, Stepped)] == ["exact", "exact", "a", "b"]
    engine.close()


class Sloppy:
    """A faster model whose answers are a little off."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        answer = self._model(*args, **kwargs)
        return (answer[0] * 1.01,) if isinstance(answer, tuple) else type(answer)(answer[0] * 1.01)

    def close(self) -> None:
        """Nothing to let go of."""


def test_embeddings_that_kandinskys_prior_made_in_company_are_not_used_for_it(shop: Shop, plain: Plain) -> None:
    parts, case = shop.parts("kandinsky"), exact("kandinsky", Task.TXT2IMG)
    engine = engine_of("kandinsky", parts, fast={"prior_prior": Sloppy(parts["prior_prior"])})
    other = only(play(engine, [case.frame()]))
    assert not torch.equal(latents_of(other), plain.latents(case))
    made = only(play(engine, [case.frame("exact", deterministic=True)]))
    assert torch.equal(latents_of(made), plain.latents(case))


def test_a_faster_model_with_other_rounding_is_for_others_only(shop: Shop, plain: Plain) -> None:
    parts, case = shop.parts(SD), exact(SD, Task.IMG2IMG)
    engine = engine_of(SD, parts, fast={"unet": Sloppy(parts["unet"])})
    ends = finished(play(engine, [case.frame("other"), case.frame("exact", deterministic=True)]))
    assert torch.equal(latents_of(ends["exact"]), plain.latents(case))
    assert not torch.equal(latents_of(ends["other"]), plain.latents(case))


class StepLab(Lab):
    """Develops whole jobs on step engines."""

    def engine(self, family: str) -> Engine:
        return engine_of(family, self.shop.parts(family))


@pytest.fixture(scope="module")
def lab(shop: Shop) -> StepLab:
    return StepLab(shop)


@pytest.mark.parametrize(
    ("family", "task"), [(SD, Task.IMG2IMG), ("sdxl_inpaint", Task.INPAINT), ("kandinsky", Task.TXT2IMG)]
)
def test_its_images_are_plain_calls_from_the_request_to_the_picture(lab: StepLab, family: str, task: Task) -> None:
    wishes: dict[str, Any] = {"preserve_unmasked": False} if task is Task.INPAINT else {}
    params = lab.settle(family, task, deterministic=True, num_images=2, **wishes)
    for index, picture in enumerate(lab.develop(params)):
        assert picture.tobytes() == lab.plain(family, task, params, params.seed_of(index)).tobytes()


@pytest.mark.parametrize("wish", [RefinerWish("sdxl_refiner"), RefinerWish("sdxl_refiner", strength=0.5)])
@pytest.mark.parametrize("task", list(Task))
def test_with_a_refiner_it_is_what_the_pipeline_engine_makes(
    lab: StepLab, shop: Shop, task: Task, wish: RefinerWish
) -> None:
    params = lab.settle("sdxl", task, refiner=wish, num_inference_steps=10, deterministic=True)
    assert _bytes(lab.develop(params)) == _bytes(Lab(shop).develop(params))


def _bytes(pictures: Sequence[Image.Image]) -> list[bytes]:
    return [picture.tobytes() for picture in pictures]
