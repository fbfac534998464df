"""What a job waits for while seven others run: submit to the first step, through the whole service.

`python -m benchmarks.newcomer [--rounds 10]`. PostgreSQL and Redis, one worker of the demo model on the CPU. Seven long
jobs are on the device when each newcomer is submitted; the figures are its own `queue_ms`, from submit to joining, and
the time of a tick, from the long jobs' own metrics. A prepared frame joins at the next tick; the rest of the wait is
the doorbell, the claim, the input and, where the claimer is idle, nothing else.
"""

import argparse
import time
from typing import Any

import httpx

from benchmarks.measuring import summary, write
from benchmarks.overhead import PROMPT, serving

RUNNING = 7
LONG_STEPS, SHORT_STEPS = 150, 4
POLL_SECONDS = 0.02


def submit(client: httpx.Client, steps: int, seed: int) -> str:
    """A txt2img job of so many steps; its id."""
    fields = {"prompt": PROMPT, "num_inference_steps": steps, "seed": seed, "width": 64, "height": 64}
    return str(client.post("/v1/jobs", json=fields).raise_for_status().json()["id"])


def look(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job as it is now."""
    found: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").raise_for_status().json()
    return found


def wait_for(client: httpx.Client, job_ids: list[str], stages: set[str]) -> list[dict[str, Any]]:
    """The jobs once all of them are at one of these stages or states."""
    while True:
        found = [look(client, job_id) for job_id in job_ids]
        if all(job["stage"] in stages or job["status"] in stages for job in found):
            return found
        time.sleep(POLL_SECONDS)


def one_round(client: httpx.Client, number: int) -> tuple[float, float, bool]:
    """Milliseconds that the newcomer waited, those of a tick, and whether all seven still ran when it was through."""
    running = [submit(client, LONG_STEPS, seed) for seed in range(RUNNING)]
    wait_for(client, running, {"denoising"})
    (newcomer,) = wait_for(client, [submit(client, SHORT_STEPS, 1000 + number)], {"succeeded", "failed"})
    were_running = all(look(client, job_id)["status"] == "running" for job_id in running)
    ended = wait_for(client, running, {"succeeded", "failed"})
    ticks = [job["metrics"]["run_ms"] / job["metrics"]["ticks"] for job in ended]
    return float(newcomer["metrics"]["queue_ms"]), sum(ticks) / len(ticks), were_running


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with serving("local") as client:
        one_round(client, 0)
        rounds = [one_round(client, number) for number in range(1, arguments.rounds + 1)]
    write(
        "newcomer",
        {
            "what": "submit to first step while seven others run, through the whole service on PostgreSQL and Redis",
            "running": RUNNING,
            "queue_ms": summary([waited for waited, _, _ in rounds]),
            "tick_ms": summary([tick for _, tick, _ in rounds]),
            "rounds_in_which_all_seven_still_ran": sum(were for _, _, were in rounds),
        },
    )


if __name__ == "__main__":
    main()
