"""LoRA adapters hang on a model for the calls that want them and leave no trace; previews are rough and rare."""

from pathlib import Path
from typing import Any

import pytest

from common.domain.catalogue import AdapterCard, Source
from common.domain.errors import JobFailure
from common.domain.params import AdapterUse, EditParams
from tests.tiny_models import load_stable_diffusion, save_adapter
from tests.unit.worker.frames import frames_of, pictures, run, txt2img
from worker.checkpoints.adapters import find_adapter
from worker.checkpoints.places import Shelf
from worker.engine.adapters import AdapterRack
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import Engine, Failed, Previewed
from worker.engine.previews import INTERVAL_SECONDS, Previewer, rough_picture
from worker.engine.row_budget import RowBudget
from worker.engine.step_engine import StepEngine
from worker.failures import classify
from worker.pipelines.registry import pipeline_for
from worker.pipelines.stable_diffusion import LATENT_RGB

torch = pytest.importorskip("torch")

# As `worker.quiet` does it: several adapters at once are what is asked for.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapted")


@pytest.fixture(scope="module")
def parts(folder: Path) -> dict[str, Any]:
    return load_stable_diffusion(folder / "tiny")


@pytest.fixture(scope="module", params=["pipeline", "step"])
def engine(request: pytest.FixtureRequest, folder: Path, parts: dict[str, Any]) -> Engine:
    cards = {}
    for number, name in enumerate(("ink", "oil")):
        file = save_adapter(folder / name, seed=number + 1)
        cards[name] = AdapterCard(name, "", Source(directory=str(file.parent)), file.name, "")
    cards["gone"] = AdapterCard("gone", "", Source(directory=str(folder)), "gone.safetensors", "")
    rack = AdapterRack(cards, lambda card: find_adapter(card, Shelf()))
    family = pipeline_for("stable_diffusion")
    if request.param == "step":
        return StepEngine(family, parts, budget=RowBudget(16), adapters=rack)
    return PipelineEngine(family, parts, max_frames=8, adapters=rack)


def made(engine: Engine, params: EditParams) -> bytes:
    return pictures(run(engine, frames_of(params)))["job-1", 0].tobytes()


def error_of(engine: Engine, params: EditParams) -> Exception:
    """What the job fails with: some engines find it when the frame joins, some when they run."""
    try:
        (failed,) = [one for one in run(engine, frames_of(params)) if isinstance(one, Failed)]
    except JobFailure as error:
        return error
    return failed.error


def wish(*uses: tuple[str, float]) -> EditParams:
    return txt2img(adapters=tuple(AdapterUse(name, weight) for name, weight in uses))


def test_adapters_act_by_their_weight_and_leave_no_trace(engine: Engine, parts: dict[str, Any]) -> None:
    plain = made(engine, wish())
    ink = made(engine, wish(("ink", 1.0)))
    assert ink != plain
    assert made(engine, wish(("ink", 0.0))) == plain
    assert made(engine, wish(("ink", 0.5))) not in {plain, ink}
    assert made(engine, wish(("ink", 1.0), ("oil", 0.7))) not in {plain, ink}
    assert made(engine, wish(("ink", 1.0))) == ink
    assert made(engine, wish()) == plain
    assert not getattr(parts["unet"], "peft_config", None)


def test_an_adapter_that_is_not_there_fails_its_job_and_hangs_on_nothing(engine: Engine) -> None:
    plain = made(engine, wish())
    error = error_of(engine, wish(("ink", 1.0), ("gone", 1.0)))
    assert isinstance(error, JobFailure)
    assert classify(error).code == "model_unavailable"
    assert made(engine, wish()) == plain


def test_frames_with_unlike_adapters_do_not_share_a_call(engine: Engine) -> None:
    (one,), (other,) = frames_of(wish(("ink", 1.0))), frames_of(wish(("ink", 0.9)), job_id="job-2")
    engine.join(one)
    assert not engine.offer(other).ok
    while engine.load().frames:
        engine.tick(lambda event: None)


def test_a_preview_is_a_small_picture_at_most_every_half_second() -> None:
    moment = [100.0]
    previewer = Previewer(LATENT_RGB, lambda: moment[0])
    frames = frames_of(txt2img(previews=True, num_images=2))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    (first,) = previewer.look(frames, latents)
    assert (first.ref, first.picture.size, first.picture.mode) == (frames[0].ref, (8, 8), "RGB")
    assert previewer.look(frames, latents) == []
    moment[0] += INTERVAL_SECONDS
    assert len(previewer.look(frames, latents)) == 1


def test_nobody_gets_a_preview_who_does_not_want_it_or_cannot_have_it() -> None:
    latents = torch.zeros(1, 4, 8, 8)
    assert Previewer(LATENT_RGB).look(frames_of(txt2img(previews=False)), latents) == []
    assert Previewer(None).look(frames_of(txt2img(previews=True)), latents) == []


def test_latents_that_are_not_finite_still_have_a_preview() -> None:
    assert rough_picture(torch.full((4, 8, 8), float("nan")), LATENT_RGB).getextrema() == ((0, 0),) * 3


def test_an_engine_tells_previews_to_who_wants_them(engine: Engine) -> None:
    events = run(engine, frames_of(txt2img(previews=True, deterministic=True)))
    assert [event.ref.index for event in events if isinstance(event, Previewed)][:1] == [0]
