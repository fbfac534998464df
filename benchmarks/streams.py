"""What those cost who only wait: `python -m benchmarks.streams [--streams 500] [--polls 500] [--seconds 60]`.

One API process on PostgreSQL and Redis, as it is deployed, and no worker: that many queued jobs, each followed by one
idle event stream and one long poll (`wait=60`, asked again when answered). Measured: how much the process grows, the
transactions of its database per second, and how long healthy submits take meanwhile. The figures of the database are
read over a connection to another one, and so are without the reading itself.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from sqlalchemy import create_engine, text

from benchmarks.api_memory import resident_mb
from benchmarks.measuring import goal, percentile, write
from tests.processes.full import full_stack
from tests.service_urls import POSTGRES

SETTLE_SECONDS: Final = 8
SUBMIT_PAUSE_SECONDS: Final = 0.5
WARM_UP: Final = 40
GROWTH_GOAL_MB: Final = 50
TRANSACTIONS_GOAL: Final = 20
P95_GOAL_MS: Final = 200
WISH: Final = {"prompt": "a blue square", "model": "stub", "num_inference_steps": 4, "width": 64, "height": 64}


class Followers:
    """Connections that wait for jobs: streams that are read and polls that are asked again."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = str(address.hostname), int(address.port or 80)
        self._tasks: list[asyncio.Task[None]] = []
        self.greeted = 0
        self.polled = 0
        self.errors: list[str] = []

    async def add(self, streams: list[str], polls: list[str]) -> None:
        """A stream of each of these jobs and a poll of each of those; returns when all streams have begun."""
        wanted = self.greeted + len(streams)
        for job_id in streams:
            self._tasks.append(asyncio.ensure_future(self._guard(self._follow(job_id))))
        for job_id in polls:
            self._tasks.append(asyncio.ensure_future(self._guard(self._poll(job_id))))
        while self.greeted < wanted and not self.errors:
            await asyncio.sleep(0.05)

    async def end(self) -> None:
        """Hang up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _guard(self, work: Any) -> None:
        try:
            await work
        except (OSError, EOFError, AssertionError) as error:
            self.errors.append(repr(error))

    async def _follow(self, job_id: str) -> None:
        reader, writer = await self._ask(f"/v1/jobs/{job_id}/events")
        try:
            assert b" 200 " in await reader.readline()
            while b"event: status" not in await reader.readline():
                pass
            self.greeted += 1
            while await reader.readline():
                pass
            raise AssertionError("a stream ended")
        finally:
            writer.close()

    async def _poll(self, job_id: str) -> None:
        path = f"/v1/jobs/{job_id}?wait=60"
        reader, writer = await self._ask(path)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert b" 200 " in head.splitlines()[0]
                (length,) = (
                    line.split()[1] for line in head.splitlines() if line.lower().startswith(b"content-length")
                )
                await reader.readexactly(int(length))
                self.polled += 1
                self._write(writer, path)
        finally:
            writer.close()

    async def _ask(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        self._write(writer, path)
        return reader, writer

    def _write(self, writer: asyncio.StreamWriter, path: str) -> None:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n\r\n".encode())


@contextmanager
def transactions_of(database_url: str) -> Iterator[Any]:
    """A function that tells how many transactions the database has seen so far."""
    name = database_url.rpartition("/")[2].partition("?")[0]
    query = text("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = :name")
    engine = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield lambda: int(connection.execute(query, {"name": name}).scalar_one())
    engine.dispose()


async def submit_for(client: httpx.AsyncClient, seconds: float) -> list[float]:
    """Submits one after the other with pauses; the milliseconds that each took."""
    ends_at, times = time.monotonic() + seconds, []
    while time.monotonic() < ends_at:
        began = time.perf_counter()
        (await client.post("/v1/jobs", json=WISH | {"seed": len(times)})).raise_for_status()
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(SUBMIT_PAUSE_SECONDS)
    return times


async def measure(pid: int, url: str, database_url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures, on a fresh stack."""
    followers = Followers(url)
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        ids = []
        for seed in range(max(arguments.streams, arguments.polls)):
            answer = await client.post("/v1/jobs", json=WISH | {"seed": seed})
            ids.append(answer.raise_for_status().json()["id"])
        alone = await submit_for(client, 10)
        await followers.add(ids[:WARM_UP], ids[:WARM_UP])
        await followers.end()
        await asyncio.sleep(SETTLE_SECONDS)
        before = resident_mb(pid)
        await followers.add(ids[: arguments.streams], ids[: arguments.polls])
        await asyncio.sleep(SETTLE_SECONDS)
        after = resident_mb(pid)
        with transactions_of(database_url) as count:
            began = count()
            await asyncio.sleep(arguments.seconds)
            idle = (count() - began) / arguments.seconds
            began = count()
            times = await submit_for(client, arguments.seconds)
            busy = (count() - began) / arguments.seconds
        end = resident_mb(pid)
        await followers.end()
    assert not followers.errors, followers.errors[:3]
    growth = round(max(after, end) - before, 1)
    return {
        "resident_mb": {"before": before, "with_followers": after, "at_the_end": end, "growth": growth},
        "kb_a_follower": round(1000 * growth / (arguments.streams + arguments.polls), 1),
        "transactions_a_second": {"followers_alone": round(idle, 2), "with_submits": round(busy, 2)},
        "polls_answered": followers.polled,
        "submit_ms": {"alone": _quantiles(alone), "beside_followers": _quantiles(times)},
        "goals": [
            _at_most("growth of the process, MB", GROWTH_GOAL_MB, growth),
            _at_most("transactions a second, followers alone", TRANSACTIONS_GOAL, idle),
            _at_most("95th percentile of a submit, ms", P95_GOAL_MS, percentile(times, 0.95)),
        ],
    }


def _quantiles(times: list[float]) -> dict[str, float]:
    return {
        "p50": round(statistics.median(times), 1),
        "p95": round(percentile(times, 0.95), 1),
        "max": round(max(times), 1),
        "n": len(times),
    }


def _at_most(what: str, most: float, measured: float) -> dict[str, Any]:
    """A bound as `goal` puts it: how many times over the measured value keeps it."""
    kept = goal(f"{what}, at most {most}: bound / measured", 1.0, most / max(measured, 1e-9))
    return kept | {"bound": most, "value": round(measured, 2)}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--polls", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=65)
    parser.add_argument("--dry", action="store_true", help="print, and write no result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, full_stack(Path(folder)) as (built, url):
        api = built.processes[0]
        figures = asyncio.run(measure(api.popen.pid, url, built.environment["DARKROOM_DATABASE_URL"], arguments))
    what = "one API process with idle event streams and long polls on queued jobs, PostgreSQL and Redis, no worker"
    counts = {"streams": arguments.streams, "polls": arguments.polls, "seconds": arguments.seconds}
    if arguments.dry:
        print(figures)
    else:
        write("streams", {"what": what, **counts, **figures})


if __name__ == "__main__":
    main()
