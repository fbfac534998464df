"""The device's memory: running out of it for real, decoding in tiles, offloading to the CPU, and giving it back."""

from typing import Any

from common.domain.capabilities import Task
from common.domain.errors import JobFailure
from tests.gpu.conftest import Bench, cuda, psnr
from tests.unit.worker.frames import frames_of, img2img, run, txt2img
from worker.engine.port import Failed, Finished
from worker.memory import release_memory

SPARE = 1 << 30


def fill(spare_bytes: int) -> Any:
    """A tensor that leaves so much of the device free."""
    import torch

    release_memory()
    free, _ = torch.cuda.mem_get_info()
    return torch.empty(free - spare_bytes, dtype=torch.uint8, device="cuda")


def test_a_call_that_does_not_fit_is_done_in_parts(bench: Bench) -> None:
    engine = bench.engine("stable_diffusion", cuda(), max_frames=16)
    params = txt2img(width=1024, height=1024, num_images=16)
    ballast = fill(SPARE)
    events = run(engine, frames_of(params))
    del ballast
    assert sum(isinstance(event, Finished) for event in events) == 16


def test_what_never_fits_fails_and_the_next_job_is_as_ever(bench: Bench) -> None:
    engine = bench.engine("stable_diffusion", cuda())
    (expected,) = bench.develop(engine, img2img(deterministic=True))
    ballast = fill(SPARE // 16)
    (failed,) = [
        event for event in run(engine, frames_of(txt2img(width=2048, height=2048))) if isinstance(event, Failed)
    ]
    del ballast
    release_memory()
    assert isinstance(failed.error, JobFailure)
    assert failed.error.code == "out_of_memory"
    (again,) = bench.develop(engine, img2img(deterministic=True))
    assert again.tobytes() == expected.tobytes()


def test_decoding_in_tiles_is_the_same_picture_within_reason(bench: Bench) -> None:
    engine = bench.engine("stable_diffusion", cuda())
    params = txt2img(width=1024, height=1024)
    (whole,) = bench.develop(engine, params)
    with engine._loaded().saving_memory():
        (tiled,) = bench.develop(engine, params)
    assert psnr(tiled, whole) >= 20


def test_a_pipeline_that_is_offloaded_to_the_cpu_makes_the_same_picture(bench: Bench) -> None:
    """What diffusers offers; a setting of ours comes with the step engine."""
    import torch

    from worker.pipelines import stable_diffusion

    def made(*, offloads: bool) -> Any:
        pipeline = stable_diffusion.pipeline(bench.parts("stable_diffusion", cuda()), Task.TXT2IMG, None)
        if offloads:
            pipeline.enable_model_cpu_offload()
        generator = torch.Generator("cpu").manual_seed(1)
        return pipeline("a circle", num_inference_steps=4, width=64, height=64, generator=generator).images[0]

    assert psnr(made(offloads=True), made(offloads=False)) >= 40


def test_a_compiled_unet_makes_the_same_picture(bench: Bench) -> None:
    import torch

    engine = bench.engine("stable_diffusion", cuda())
    (plain,) = bench.develop(engine, img2img())
    parts: Any = engine._loaded().parts
    parts["unet"].forward = torch.compile(parts["unet"].forward)
    (compiled,) = bench.develop(engine, img2img())
    assert psnr(compiled, plain) >= 40


def test_a_closed_engine_gives_the_devices_memory_back(bench: Bench) -> None:
    import torch

    release_memory()
    before = torch.cuda.memory_allocated()
    engine = bench.engine("sdxl", cuda())
    assert torch.cuda.memory_allocated() > before
    engine.close()
    del engine
    release_memory()
    assert torch.cuda.memory_allocated() <= before
