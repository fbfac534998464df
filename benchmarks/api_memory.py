"""Resident memory of the API process after a thousand submits: `python -m benchmarks.api_memory [--submits 1000]`.

The full stack on PostgreSQL and Redis without a worker; each submit carries a 256-pixel JPEG. Goal: at most 150 MB.
"""

import argparse
import tempfile
import time
from io import BytesIO
from pathlib import Path

import httpx
from PIL import Image

from benchmarks.measuring import summary, write
from tests.processes.full import full_stack


def resident_mb(pid: int) -> float:
    """Resident memory of a process, in megabytes (10^6 bytes)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith("VmRSS"))
    return round(int(value) * 1024 / 1e6, 1)


def picture() -> bytes:
    """A JPEG of 256 pixels."""
    buffer = BytesIO()
    Image.effect_noise((256, 256), 60).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submits", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, full_stack(Path(folder)) as (built, url):
        api = built.processes[0].popen.pid
        before, times, image = resident_mb(api), [], picture()
        with httpx.Client(base_url=url, timeout=60) as client:
            for seed in range(arguments.submits):
                began = time.perf_counter()
                fields = {"prompt": "a blue square", "model": "stub", "seed": str(seed)}
                client.post("/v1/jobs", data=fields, files={"image": image}).raise_for_status()
                times.append((time.perf_counter() - began) * 1000)
        write(
            "api-memory",
            {
                "what": "resident memory of the API process, submits of a 256 px JPEG, PostgreSQL and Redis",
                "goal_mb": 150,
                "before_mb": before,
                "after_mb": resident_mb(api),
                "submits": arguments.submits,
                "submit_ms": summary(times),
            },
        )


if __name__ == "__main__":
    main()
