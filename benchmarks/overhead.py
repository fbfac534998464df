"""What the service adds to the bare model: submit → result over HTTP, minus a resident diffusers call of the same work.

`python -m benchmarks.overhead [--rounds 60] [--store local|s3]`. The full stack on PostgreSQL and Redis, idle, one job
at a time; the two programs run alternately, round by round, and the difference is taken per round. The client polls.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image, ImageDraw

from benchmarks.measuring import summary, write
from tests.processes.full import full_stack
from tests.services.swift import run_swift
from worker.quiet import quiet_libraries

PROMPT = "a blue square on a white background"
STEPS, STRENGTH, SIDE = 10, 0.6, 64
POLL_SECONDS = 0.005
WARM_UP = 5


def drawn() -> Image.Image:
    """The input of both programs."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(image).ellipse((16, 16, 48, 48), fill="red")
    return image


def load_bare() -> StableDiffusionImg2ImgPipeline:
    """The demo checkpoint, resident, as a script would hold it."""
    quiet_libraries()
    torch.set_num_threads(1)
    folder = Path(__file__).parents[1] / "worker" / "assets" / "demo"
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
        folder, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_bare(pipeline: StableDiffusionImg2ImgPipeline, seed: int) -> float:
    """Milliseconds of one plain call."""
    began = time.perf_counter()
    generator = torch.Generator("cpu").manual_seed(seed)
    pipeline(PROMPT, image=drawn(), strength=STRENGTH, num_inference_steps=STEPS, generator=generator)
    return (time.perf_counter() - began) * 1000


def run_service(client: httpx.Client, image: bytes, seed: int) -> tuple[float, dict[str, float]]:
    """Milliseconds from submit to the bytes of the result, and what the job says of itself."""
    began = time.perf_counter()
    fields = {
        "prompt": PROMPT,
        "strength": str(STRENGTH),
        "num_inference_steps": str(STEPS),
        "seed": str(seed),
        "width": str(SIDE),
        "height": str(SIDE),
        "output.format": "jpeg",
    }
    job = client.post("/v1/jobs", data=fields, files={"image": image}).raise_for_status().json()
    submitted = time.perf_counter()
    while job["status"] in {"queued", "running"}:
        time.sleep(POLL_SECONDS)
        job = client.get(job["urls"]["self"]).raise_for_status().json()
    if job["status"] != "succeeded":
        raise RuntimeError(job["error"])
    client.get(job["images"][0]["url"], follow_redirects=True).raise_for_status()
    parts = {"submit_ms": (submitted - began) * 1000, **job["metrics"]}
    return (time.perf_counter() - began) * 1000, parts


@contextmanager
def serving(store: str) -> Iterator[httpx.Client]:
    """A client of a fresh full stack with one worker of the demo model."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        settings = {"DARKROOM_DEVICE": "cpu", "DARKROOM_TORCH_THREADS": "1"}
        if store == "s3":
            settings["DARKROOM_STORE_URL"] = opened.enter_context(run_swift(folder / "swift")).store_url("bench")
        built, url = opened.enter_context(full_stack(folder, **settings))
        built.worker("cpu")
        yield opened.enter_context(httpx.Client(base_url=url, timeout=60))


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--store", choices=("local", "s3"), default="local")
    arguments = parser.parse_args()
    pipeline, image = load_bare(), Path(tempfile.mkstemp(suffix=".png")[1])
    drawn().save(image)
    bare, whole, details = [], [], []
    with serving(arguments.store) as client:
        for seed in range(arguments.rounds + WARM_UP):
            bare_ms = run_bare(pipeline, seed)
            whole_ms, parts = run_service(client, image.read_bytes(), seed)
            if seed >= WARM_UP:
                bare.append(bare_ms)
                whole.append(whole_ms)
                details.append(parts)
    image.unlink()
    added = [one - other for one, other in zip(whole, bare, strict=True)]
    names = ("submit_ms", "queue_ms", "run_ms", "store_ms")
    write(
        f"overhead-{arguments.store}",
        {
            "what": "submit to result over HTTP minus a resident diffusers call, idle, PostgreSQL and Redis, JPEG",
            "work": {"model": "demo", "steps": STEPS, "strength": STRENGTH, "side": SIDE},
            "goal_ms": {"p50": 15, "p99": 40},
            "added_ms": summary(added),
            "bare_ms": summary(bare),
            "whole_ms": summary(whole),
            "parts_ms": {name: summary([parts[name] for parts in details]) for name in names},
        },
    )


if __name__ == "__main__":
    main()
