"""How long after a job's end its client knows: plain looks, long polls, the event stream, and a submit that waits.

`python -m benchmarks.notice [--rounds 20]`. One job at a time on the stub device, PostgreSQL and Redis; in every round
each way has a job of its own, one after the other. The end is `finished_at`, the database's clock on the same machine.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Final

import httpx

from benchmarks.measuring import summary, write
from client.sdk import Darkroom, Job
from tests.processes.full import full_stack

STEP_SECONDS: Final = 0.05
LENGTHS: Final = (3, 20)
WARM_UP: Final = 1

Way = Callable[[Darkroom, int], Job]


def submit(server: Darkroom, steps: int, wait: int | None = None) -> Job:
    """A job of so many steps, 50 ms each."""
    return server.submit(prompt="x", num_inference_steps=steps, width=64, height=64, wait=wait)


def by_looks(server: Darkroom, steps: int) -> Job:
    """Look again when `Retry-After` says."""
    job = submit(server, steps)
    while not job.is_finished:
        answer = httpx.get(job.raw["urls"]["self"], trust_env=False).raise_for_status()
        job = Job(answer.json(), server)
        if not job.is_finished:
            time.sleep(float(answer.headers["Retry-After"]))
    return job


def by_long_polls(server: Darkroom, steps: int) -> Job:
    """`Job.wait`."""
    return submit(server, steps).wait()


def by_events(server: Darkroom, steps: int) -> Job:
    """`Job.events`."""
    *_, done = submit(server, steps).events()
    return Job(done.data, server)


def by_the_submit(server: Darkroom, steps: int) -> Job:
    """`Prefer: wait`."""
    return submit(server, steps, wait=30)


WAYS: Final[Mapping[str, Way]] = {
    "looks": by_looks,
    "long_polls": by_long_polls,
    "events": by_events,
    "submit_that_waits": by_the_submit,
}


def noticed_ms(server: Darkroom, way: Way, steps: int) -> float:
    """Milliseconds from the job's end to the moment in which its client knows."""
    job = way(server, steps)
    return (time.time() - datetime.fromisoformat(job.raw["finished_at"]).timestamp()) * 1000


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    found: dict[str, dict[str, object]] = {}
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        built, url = opened.enter_context(full_stack(folder, DARKROOM_STUB_STEP_SECONDS=str(STEP_SECONDS)))
        built.worker()
        server = opened.enter_context(Darkroom(url))
        for steps in LENGTHS:
            known: dict[str, list[float]] = {name: [] for name in WAYS}
            for number in range(rounds + WARM_UP):
                for name, way in WAYS.items():
                    milliseconds = noticed_ms(server, way, steps)
                    if number >= WARM_UP:
                        known[name].append(milliseconds)
            found[f"{steps * STEP_SECONDS:g} s"] = {name: summary(values) for name, values in known.items()}
    write("notice", {"what": "from a job's end to the moment in which its client knows, ms", "by_job": found})


if __name__ == "__main__":
    main()
