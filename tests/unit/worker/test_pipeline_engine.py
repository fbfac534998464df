"""The pipeline engine against plain diffusers calls, and what it does when a call goes wrong."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from PIL import Image

from common.domain.catalogue import Task
from common.domain.errors import JobFailure
from common.domain.params import EditParams
from tests.tiny_models import load_stable_diffusion
from tests.unit.worker.frames import (
    claimed,
    frames_of,
    gradient,
    img2img,
    largest_difference,
    pictures,
    run,
    txt2img,
)
from worker.engine.frames import prepare_frames
from worker.engine.pipeline_engine import PipelineEngine
from worker.engine.port import DeviceLost, Event, Failed, Finished, Left, Prepared, Stepped
from worker.failures import classify
from worker.pipelines import stable_diffusion
from worker.pipelines.registry import pipeline_for, register

torch = pytest.importorskip("torch")

# Schedulers of diffusers that hand torch tensors to numpy; shown to nobody outside of tests.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SCHEDULERS = ["DDIMScheduler", "PNDMScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"]
STICKY = "CUDA error: device-side assert triggered"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return load_stable_diffusion(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def engine(parts: dict[str, Any]) -> PipelineEngine:
    return PipelineEngine(pipeline_for("stable_diffusion"), parts, max_frames=8)


@dataclass
class FaultyFamily:
    """Stable Diffusion with a fault: `on_call` sees the frames of each call, `on_decode` may replace the pixels."""

    on_call: Callable[[Sequence[Prepared]], None] = lambda frames: None
    on_decode: Callable[[Any, Any], Any] = lambda parts, pixels: pixels
    sizes: list[int] = field(default_factory=list)

    NAME = stable_diffusion.NAME
    LOADING = stable_diffusion.LOADING
    LATENT_RGB = stable_diffusion.LATENT_RGB

    def loader(self) -> Any:
        return stable_diffusion.loader()

    def pipeline(self, parts: Any, task: Task, scheduler: str | None) -> Any:
        return stable_diffusion.pipeline(parts, task, scheduler)

    def shape_key(self, parts: Any, frame: Any) -> str:
        return stable_diffusion.shape_key(parts, frame)

    def warnings(self, parts: Any, frame: Any) -> list[dict[str, str]]:
        return stable_diffusion.warnings(parts, frame)

    def arguments(self, parts: Any, frames: Any) -> dict[str, Any]:
        self.sizes.append(len(frames))
        self.on_call(frames)
        return stable_diffusion.arguments(parts, frames)

    def autoencoder(self, parts: Any) -> Any:
        return stable_diffusion.autoencoder(parts)

    def decode(self, parts: Any, latents: Any) -> Any:
        return self.on_decode(parts, stable_diffusion.decode(parts, latents))


def plain_call(parts: dict[str, Any], params: EditParams, seed: int) -> Image.Image:
    """What somebody would write with diffusers and nothing else."""
    from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

    kind = StableDiffusionImg2ImgPipeline if params.task is Task.IMG2IMG else StableDiffusionPipeline
    scheduler = type(parts["scheduler"]).from_config(parts["scheduler"].config)
    pipeline = kind(**{**parts, "scheduler": scheduler, "requires_safety_checker": False})
    pipeline.set_progress_bar_config(disable=True)
    own: dict[str, Any] = {"width": params.width, "height": params.height}
    if params.task is Task.IMG2IMG:
        own = {"image": gradient(), "strength": params.strength}
    return pipeline(
        params.prompt,
        negative_prompt=params.negative_prompt,
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(seed),
        **own,
    ).images[0]


def failures(events: Sequence[Event]) -> dict[str, str]:
    """The code of each failed job."""
    return {event.ref.job_id: classify(event.error).code for event in events if isinstance(event, Failed)}


@pytest.mark.parametrize("make", [txt2img, img2img])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_deterministic_frame_equals_a_plain_diffusers_call_to_the_byte(
    tmp_path: Any, make: Callable[..., EditParams], scheduler: str
) -> None:
    parts = load_stable_diffusion(tmp_path / "tiny", scheduler=scheduler)
    engine = PipelineEngine(pipeline_for("stable_diffusion"), parts, max_frames=8)
    params = make(deterministic=True, negative_prompt="blurry", num_images=2)
    made = pictures(run(engine, frames_of(params)))
    for index in range(2):
        assert made["job-1", index].tobytes() == plain_call(parts, params, params.seed + index).tobytes()


def test_frames_of_a_deterministic_job_run_one_per_call(parts: dict[str, Any]) -> None:
    family = FaultyFamily()
    events = run(PipelineEngine(family, parts, max_frames=8), frames_of(txt2img(deterministic=True, num_images=3)))
    assert family.sizes == [1, 1, 1]
    assert {event.facts["frames"] for event in events if isinstance(event, Finished)} == {1}


@pytest.mark.parametrize("make", [txt2img, img2img])
def test_image_k_equals_image_one_with_the_seed_plus_k(engine: PipelineEngine, make: Callable[..., EditParams]) -> None:
    together = pictures(run(engine, frames_of(make(seed=40, num_images=3))))
    alone = pictures(run(engine, frames_of(make(seed=42))))
    assert largest_difference(together["job-1", 2], alone["job-1", 0]) <= 1


@pytest.mark.parametrize("make", [txt2img, img2img])
def test_unlike_jobs_in_one_call_equal_single_calls_within_one_level(
    parts: dict[str, Any], make: Callable[..., EditParams]
) -> None:
    family = FaultyFamily()
    wishes = [make(prompt=f"prompt {seed}", negative_prompt="x" * (seed % 2), seed=seed) for seed in range(4)]
    frames = [frames_of(params, job_id=str(params.seed))[0] for params in wishes]
    made = pictures(run(PipelineEngine(family, parts, max_frames=8), frames))
    assert family.sizes == [4]
    for params in wishes:
        assert largest_difference(made[str(params.seed), 0], plain_call(parts, params, params.seed)) <= 1


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "HeunDiscreteScheduler"])
def test_steps_are_reported_as_promised_where_the_scheduler_calls_the_model_more_often(
    tmp_path: Any, scheduler: str
) -> None:
    parts = load_stable_diffusion(tmp_path / "tiny", scheduler=scheduler)
    engine = PipelineEngine(pipeline_for("stable_diffusion"), parts, max_frames=8)
    steps = [event.step for event in run(engine, frames_of(txt2img())) if isinstance(event, Stepped)]
    assert steps == sorted(steps)
    assert (len(steps) > 4, set(steps)) == (True, {1, 2, 3, 4})


def test_calls_share_no_scheduler(parts: dict[str, Any]) -> None:
    one, other = (stable_diffusion.pipeline(parts, task, None) for task in (Task.TXT2IMG, Task.IMG2IMG))
    assert len({id(scheduler) for scheduler in (one.scheduler, other.scheduler, parts["scheduler"])}) == 3
    assert one.unet is other.unet is parts["unet"]
    assert one.scheduler.config == parts["scheduler"].config


def test_a_run_leaves_the_loaded_scheduler_untouched(engine: PipelineEngine, parts: dict[str, Any]) -> None:
    before = parts["scheduler"].timesteps.tolist()
    run(engine, frames_of(txt2img()))
    assert parts["scheduler"].timesteps.tolist() == before


def test_a_cancelled_call_ends_at_once_and_the_next_is_not_touched_by_it(engine: PipelineEngine) -> None:
    (clean,) = pictures(run(engine, frames_of(txt2img()))).values()
    frames = frames_of(txt2img(num_images=2))
    for frame in frames:
        engine.join(frame)
    events: list[Event] = []
    engine.tick(lambda event: (events.append(event), engine.cancel("job-1"))[0])
    assert [type(event) for event in events] == [Stepped, Stepped, Left, Left]
    assert next(iter(pictures(run(engine, frames_of(txt2img()))).values())).tobytes() == clean.tobytes()


def test_a_frame_with_nan_fails_alone(engine: PipelineEngine, parts: dict[str, Any]) -> None:
    frames = [frames_of(txt2img(seed=seed), job_id=str(seed))[0] for seed in range(3)]
    clean = pictures(run(engine, frames))
    with _nan_in_row(parts["unet"], 1, of=3):
        events = run(engine, frames)
    assert failures(events) == {"1": "invalid_output"}
    assert {key[0]: picture.tobytes() for key, picture in pictures(events).items()} == {
        job_id: clean[job_id, 0].tobytes() for job_id in ("0", "2")
    }


def test_a_frame_that_raises_fails_alone(parts: dict[str, Any]) -> None:
    def refuse_poison(frames: Sequence[Prepared]) -> None:
        if any(frame.job.params.prompt == "poison" for frame in frames):
            raise ValueError("no such word")

    family = FaultyFamily(on_call=refuse_poison)
    frames = [frames_of(txt2img(prompt=prompt), job_id=prompt)[0] for prompt in ("a", "poison", "b")]
    events = run(PipelineEngine(family, parts, max_frames=8), frames)
    assert family.sizes == [3, 1, 1, 1]
    assert failures(events) == {"poison": "internal"}
    assert pictures(events).keys() == {("a", 0), ("b", 0)}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
    ],
)
def test_out_of_memory_halves_the_call_until_it_fits(parts: dict[str, Any], error: Exception) -> None:
    family = FaultyFamily(on_call=_fail_above(2, error))
    events = run(PipelineEngine(family, parts, max_frames=8), frames_of(txt2img(num_images=5)))
    assert family.sizes == [5, 3, 2, 1, 2]
    assert len(pictures(events)) == 5


def test_a_size_that_did_not_fit_together_is_offered_less_room_later(parts: dict[str, Any]) -> None:
    family = FaultyFamily(on_call=_fail_above(2, torch.OutOfMemoryError("out of memory")))
    engine = PipelineEngine(family, parts, max_frames=8)
    frames = frames_of(txt2img(num_images=4))
    run(engine, frames)
    for frame in frames[:2]:
        engine.join(frame)
    assert not engine.offer(frames[2]).ok


def test_one_frame_that_does_not_fit_is_decoded_in_tiles(parts: dict[str, Any]) -> None:
    def fail_unless_tiled(_parts: Any, pixels: Any) -> Any:
        if not _parts["vae"].use_tiling:
            raise torch.OutOfMemoryError("out of memory")
        return pixels

    events = run(PipelineEngine(FaultyFamily(on_decode=fail_unless_tiled), parts, max_frames=8), frames_of(txt2img()))
    assert len(pictures(events)) == 1
    assert not parts["vae"].use_tiling
    assert not parts["vae"].use_slicing


def test_a_frame_that_never_fits_ends_as_out_of_memory_and_the_next_job_is_normal(parts: dict[str, Any]) -> None:
    def fail_the_wide(frames: Sequence[Prepared]) -> None:
        if frames[0].job.params.width > 64:
            raise torch.OutOfMemoryError("out of memory")

    engine = PipelineEngine(FaultyFamily(on_call=fail_the_wide), parts, max_frames=8)
    assert failures(run(engine, frames_of(txt2img(width=128)))) == {"job-1": "out_of_memory"}
    assert len(pictures(run(engine, frames_of(txt2img())))) == 1


def test_a_sticky_device_error_ends_the_process(parts: dict[str, Any]) -> None:
    family = FaultyFamily(on_call=_fail_above(0, RuntimeError(STICKY)))
    with pytest.raises(DeviceLost, match="device-side assert"):
        run(PipelineEngine(family, parts, max_frames=8), frames_of(txt2img()))


def test_black_output_is_no_picture_unless_the_input_was_black(parts: dict[str, Any]) -> None:
    family = FaultyFamily(on_decode=lambda parts, pixels: torch.full_like(pixels, -1.0))
    engine = PipelineEngine(family, parts, max_frames=8)
    assert failures(run(engine, frames_of(img2img()))) == {"job-1": "invalid_output"}
    assert pictures(run(engine, frames_of(img2img(), picture=Image.new("RGB", (64, 64)))))


def test_what_half_precision_cannot_decode_is_decoded_once_more_in_float32(tmp_path: Any) -> None:
    parts = load_stable_diffusion(tmp_path / "tiny", device=_half_precision())
    family = FaultyFamily(
        on_decode=lambda parts, pixels: pixels * float("nan") if pixels.dtype == torch.bfloat16 else pixels
    )
    events = run(PipelineEngine(family, parts, max_frames=8), frames_of(txt2img(num_images=2)))
    assert len(pictures(events)) == 2
    assert parts["vae"].dtype == torch.bfloat16


def test_a_closed_engine_lets_go_of_the_model() -> None:
    class Part:
        """Something that can be referred to weakly."""

    part = Part()
    engine = PipelineEngine(FaultyFamily(), {"unet": part}, max_frames=8)
    seen = weakref.ref(part)
    del part
    engine.close()
    assert seen() is None


def test_an_input_of_another_size_is_resized_to_what_runs() -> None:
    (frame,) = frames_of(img2img(), picture=gradient(200))
    assert frame.image is not None
    expected = gradient(200).resize((64, 64), Image.Resampling.LANCZOS)
    assert frame.image.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("inputs", "code"), [({}, "input_missing"), ({"image": b"\x89PNG\r\n\x1a\nnonsense"}, "image_unreadable")]
)
def test_an_input_that_cannot_be_used_says_why(inputs: dict[str, bytes], code: str) -> None:
    with pytest.raises(JobFailure) as caught:
        prepare_frames(claimed(img2img()), inputs)
    assert caught.value.code == code


def test_two_families_of_one_name_stop_the_start() -> None:
    with pytest.raises(ValueError, match="two pipeline families"):
        register([FaultyFamily(), FaultyFamily()])


def _fail_above(frames_that_fit: int, error: Exception) -> Callable[[Sequence[Prepared]], None]:
    def check(frames: Sequence[Prepared]) -> None:
        if len(frames) > frames_that_fit:
            raise error

    return check


def _half_precision() -> Any:
    from worker.device import Device

    return Device("cpu", "cpu", "CPU", torch.device("cpu"), torch.bfloat16)


@contextmanager
def _nan_in_row(unet: Any, row: int, *, of: int) -> Iterator[None]:
    """Poison one frame of a call of `of` frames: its row, with and without guidance."""

    def poison(module: Any, inputs: Any, output: tuple[Any, ...]) -> tuple[Any, ...]:
        output[0][[row, row + of]] = float("nan")
        return output

    hook = unet.register_forward_hook(poison)
    try:
        yield
    finally:
        hook.remove()
