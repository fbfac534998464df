"""Every guidance with every seed, as one batch and one zip file: python examples/batch.py "a blue square"

The address of the server and the key come from DARKROOM_URL and DARKROOM_KEY, as for `darkroom batch`.
"""

import hashlib
import os
import sys

from client.sdk import Batch, BatchResult, Darkroom

MATRIX = {"product": {"guidance_scale": [2.0, 5.0, 8.0], "seed": [1, 2, 3, 4]}}


def describe_progress(batch: Batch) -> str:
    """One line about a batch."""
    counts = batch.counts
    return f"{batch.status}: {counts.succeeded} of {counts.total} done, {counts.failed} failed"


def describe_result(result: BatchResult) -> str:
    """One line about what became of a job."""
    said = result.error["detail"] if result.error else f"pictures: {len(result.images)}"
    return f"{result.custom_id}: {result.status}, {said}"


def main(prompt: str) -> None:
    """Hand in, wait, and fetch everything."""
    key = hashlib.sha256(prompt.encode()).hexdigest()  # the same prompt within a day is the same batch
    with Darkroom(os.environ.get("DARKROOM_URL", "http://127.0.0.1:8000"), os.environ.get("DARKROOM_KEY")) as darkroom:
        defaults = {"prompt": prompt, "model": "demo"}
        batch = darkroom.batches.submit(matrix=MATRIX, defaults=defaults, name="variations", idempotency_key=key)
        batch = batch.wait(on_progress=lambda one: print(describe_progress(one), flush=True))
        for result in batch.results():
            print(describe_result(result))
        if batch.status == "completed":
            print(batch.archive(f"{batch.id}.zip"))


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "a blue square on a white background")
