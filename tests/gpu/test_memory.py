"""Real out-of-memory errors, and what a model that leaves gives back."""

from common.domain.capabilities import Task
from common.domain.catalogue import ModelCard
from common.domain.params import EditParams
from tests.gpu.memory import between, leaving, need_of
from tests.gpu.plainly import Plainly
from tests.gpu.studio import Studio, develop, events_of, finished, job, psnr
from worker.device import Device
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import Failed
from worker.failures import classify
from worker.pipelines import stable_diffusion
from worker.residency import Residency

SLACK_BYTES = 32 << 20  # what the libraries keep, and the allocator's granularity


def wide(**changes: int) -> EditParams:
    return job(
        Task.TXT2IMG, **{"width": 1024, "height": 1024, "num_inference_steps": 1, "effective_steps": 1} | changes
    )


def test_a_job_that_fits_only_when_decoded_in_tiles_ends_well(studio: Studio, half: Device) -> None:
    parts, params = studio.parts("medium", half), wide()
    plainly = Plainly(stable_diffusion, parts)
    whole, tiled = (plainly.pictures(params, is_saving=is_saving)[0] for is_saving in (False, True))
    room = between(
        need_of(lambda: plainly.run(params, is_saving=True)),
        need_of(lambda: plainly.run(params, is_saving=False)),
    )
    engine = PipelineEngine(stable_diffusion, parts, max_frames=8)
    with leaving(room):
        (made,) = develop(engine, params)
    assert whole is not None
    assert tiled is not None
    assert psnr(made, tiled) >= 40
    assert psnr(made, whole) < psnr(made, tiled)
    assert psnr(develop(engine, params)[0], whole) >= 40


def test_images_that_do_not_fit_together_are_made_a_few_at_a_time(studio: Studio, half: Device) -> None:
    engine = studio.engine("medium", half)
    one, eight = (wide(width=512, height=512, num_images=count) for count in (1, 8))
    room = between(need_of(lambda: develop(engine, one)), need_of(lambda: develop(engine, eight)))
    with leaving(room):
        made = finished(events_of(engine, eight))
    assert len(made) == 8
    assert all(frame.facts["frames"] < 8 for frame in made)


def test_a_job_that_can_never_fit_ends_as_out_of_memory_and_the_next_is_normal(studio: Studio, half: Device) -> None:
    parts, small, large = studio.parts("medium", half), job(Task.TXT2IMG), wide(width=2048, height=2048)
    plainly = Plainly(stable_diffusion, parts)
    engine = PipelineEngine(stable_diffusion, parts, max_frames=8)
    (expected,) = develop(engine, small)
    room = between(need_of(lambda: develop(engine, small)), need_of(lambda: plainly.run(large, is_saving=True)))
    with leaving(room):
        failed = [event for event in events_of(engine, large) if isinstance(event, Failed)]
        (made,) = develop(engine, small)
    assert [classify(event.error).code for event in failed] == ["out_of_memory"]
    assert psnr(made, expected) >= 40


def test_a_model_that_does_not_fit_is_out_of_memory_and_leaves_nothing_behind(studio: Studio, half: Device) -> None:
    import torch

    residency = Residency(studio.builder(half), budget_bytes=1 << 40)
    small, large = studio.card("stable_diffusion"), studio.card("wide")
    develop(residency.engine_for(small), job(Task.TXT2IMG))
    before = torch.cuda.memory_allocated()
    with leaving(64 << 20):
        assert _code_of_loading(residency, large) == "out_of_memory"
    assert torch.cuda.memory_allocated() <= before + SLACK_BYTES
    assert residency.resident() == (small.id,)
    develop(residency.engine_for(large), job(Task.TXT2IMG))


def test_an_evicted_model_gives_its_memory_back_to_the_device(studio: Studio, half: Device) -> None:
    import torch

    residency = Residency(studio.builder(half), budget_bytes=1)
    cards = [studio.card("wide"), studio.card("wide_too")]
    develop(residency.engine_for(cards[0]), job(Task.TXT2IMG))
    residency.clear()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for number in range(6):
        engine = residency.engine_for(cards[number % 2])
        develop(engine, job(Task.TXT2IMG))
        model_bytes = engine.weight_bytes()
        del engine
        assert model_bytes <= torch.cuda.memory_allocated() - allocated <= 1.1 * model_bytes
    residency.clear()
    assert torch.cuda.memory_allocated() <= allocated + SLACK_BYTES
    assert torch.cuda.memory_reserved() <= reserved + SLACK_BYTES


def _code_of_loading(residency: Residency, card: ModelCard) -> str | None:
    """What a client is told; the error itself, which holds on to half of a model, does not outlive this."""
    try:
        residency.engine_for(card)
    except Exception as error:
        return classify(error).code
    return None
