"""Hand in a job and print what happens to it: python examples/follow.py "a blue square on a white background"

The address of the server and the key come from DARKROOM_URL and DARKROOM_KEY, as for `darkroom submit`.
"""

import os
import sys

from client.sdk import Darkroom, JobEvent


def describe(event: JobEvent) -> str:
    """One line about an event."""
    if event.kind == "progress":
        progress, queue = event.data["progress"], event.data["queue"]
        if event.data["status"] == "queued":
            return f"{known(queue['position'])} before it, starts in {known(queue['eta_seconds'])} s"
        steps = f"{progress['step']} of {progress['steps']}"
        return f"{event.data['stage']}: {steps}, {known(progress['eta_seconds'])} s left"
    if event.kind == "output":
        return f"picture {event.data['index']} at {event.data['url']}"
    return str(event.data.get("status") or event.data.get("url"))


def known(number: float | None) -> float | str:
    """A number as it is printed; the server does not know all of them at all times."""
    return "?" if number is None else number


def main(prompt: str) -> None:
    """Submit and follow; the loop survives lost connections and ends with the job."""
    with Darkroom(os.environ.get("DARKROOM_URL", "http://127.0.0.1:8000"), os.environ.get("DARKROOM_KEY")) as darkroom:
        job = darkroom.submit(prompt=prompt, model="demo")
        for event in job.events():
            print(f"{event.id:>6} {event.kind:<8} {describe(event)}", flush=True)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "a blue square on a white background")
