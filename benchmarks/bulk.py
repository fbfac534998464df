"""A batch of 100,000 lines, from the POST to the last job in the queue: `python -m benchmarks.bulk [--lines 100000]`.

On a PostgreSQL database of its own and a store in a folder. The manifest goes through the API's own app, then one
courier, in this process too, validates and inserts it; nobody else works meanwhile. Lines name a handful of uploads and
differ in their prompts.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Final, TypeVar

from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import Connection, func, select

from api.main import create_app
from benchmarks.measuring import goal, write
from common.catalogue_file import load_catalogue
from common.db.batch_work import put_back, take
from common.db.batches import find_batch
from common.db.engine import Database
from common.db.migrate import migrate
from common.db.tables import jobs
from common.domain.batch import CHUNK, BatchSnapshot, BatchState
from common.ids import new_id
from common.images.sandbox import ImageDecoder
from common.logging import configure_logging
from common.outbound.fetching import Outbound
from common.outbound.policy import outbound_policy
from common.paces import Paces
from common.queue.doorbell import NoDoorbell
from common.settings import Settings
from common.storage.open import open_store
from common.vault import open_vault
from courier.batch_lines import LineReader
from courier.batch_turns import Turn
from courier.batch_writing import insert_lines, validate_lines
from courier.tools import Tools
from tests.processes.full import fresh_postgres

LINES: Final = 100_000
PICTURES: Final = 5
LEAST_JOBS_PER_SECOND: Final = 20_000.0
MOST_SECONDS: Final = 60.0
_DEFAULTS: Final = {"model": "demo", "strength": 0.6, "num_inference_steps": 20, "output": {"format": "webp"}}

Answer = TypeVar("Answer")


class TimedDatabase(Database):
    """A database that adds up the seconds of its transactions."""

    seconds = 0.0

    def transact(self, work: Callable[[Connection], Answer]) -> Answer:
        """As ever."""
        began = time.perf_counter()
        try:
            return super().transact(work)
        finally:
            self.seconds += time.perf_counter() - began


@contextmanager
def opened(settings: Settings, database: Database) -> Iterator[Tools]:
    """A courier's tools."""
    catalogue = load_catalogue(settings)
    with ImageDecoder(processes=1) as decoder:
        yield Tools(
            settings=settings,
            database=database,
            store=open_store(settings.store, settings.store_public_url),
            decoder=decoder,
            outbound=Outbound(outbound_policy(settings)),
            vault=open_vault(settings),
            doorbell=NoDoorbell(),
            catalogue=catalogue,
            paces=Paces(database, catalogue, fresh_seconds=settings.lease_seconds),
            worker_id=new_id("wrk"),
        )


def send_pictures(client: TestClient) -> list[str]:
    """Ids of a handful of uploads."""
    found = []
    for number in range(PICTURES):
        file = BytesIO()
        Image.new("RGB", (128, 128), (40 * number, 80, 120)).save(file, "PNG")
        answer = client.post("/v1/uploads", files={"file": ("picture.png", file.getvalue(), "image/png")})
        found.append(str(answer.raise_for_status().json()["id"]))
    return found


def write_manifest(path: Path, lines: int, pictures: list[str]) -> None:
    """That many lines."""
    with path.open("w") as file:
        for number in range(lines):
            image = {"upload": pictures[number % len(pictures)]}
            line = {"custom_id": f"img-{number:06}", "image": image, "prompt": f"a circle of {number} on white"}
            file.write(json.dumps(line) + "\n")


def post(client: TestClient, manifest: Path) -> tuple[str, float]:
    """The batch's id, and the seconds of its POST."""
    began = time.perf_counter()
    with manifest.open("rb") as file:
        files = {"manifest": ("manifest.jsonl", file, "application/jsonl")}
        answer = client.post("/v1/batches", data={"request": json.dumps({"defaults": _DEFAULTS})}, files=files)
    seconds = time.perf_counter() - began
    return str(answer.raise_for_status().json()["id"]), seconds


def tend(tools: Tools, database: TimedDatabase, batch_id: str) -> dict[str, float]:
    """Seconds of validation and insertion, and of the transactions of the latter, in turns as the errand has."""
    validation = insertion = transactions = 0.0
    while (batch := look(database, batch_id)).inserted < batch.total:
        work = database.transact(lambda connection: take(connection, tools.settings.lease_seconds))
        if work is None:
            raise RuntimeError(f"the batch is {batch.state}, and nobody has to tend it: {batch.errors[:1]}")
        turn, reader = Turn(tools, work, CHUNK), LineReader(tools, work)
        began = time.perf_counter()
        is_checked = work.state is not BatchState.VALIDATING or validate_lines(turn, reader)
        validation += time.perf_counter() - began
        if is_checked:
            began, before = time.perf_counter(), database.seconds
            insert_lines(turn, reader)
            insertion += time.perf_counter() - began
            transactions += database.seconds - before
        held = turn.work
        database.transact(lambda connection, held=held: put_back(connection, held, 0.0))
    return {"validation_s": validation, "insertion_s": insertion, "of_it_in_transactions_s": transactions}


def look(database: Database, batch_id: str) -> BatchSnapshot:
    """The batch as it now is."""
    with database.read() as connection:
        found = find_batch(connection, "default", batch_id)
    if found is None:
        raise RuntimeError("there is no such batch")
    return found


def measure(lines: int) -> dict[str, Any]:
    """The seconds of every part, and what they come to."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(fresh_postgres())
        settings = Settings(_env_file=None, data_dir=folder, database_url=url, auth="none", doorbells=False)
        database = TimedDatabase(url)
        stack.callback(database.close)
        migrate(database)
        client = stack.enter_context(TestClient(create_app(settings), base_url="http://localhost"))
        tools = stack.enter_context(opened(settings, database))
        manifest = folder / "manifest.jsonl"
        write_manifest(manifest, lines, send_pictures(client))
        batch_id, seconds = post(client, manifest)
        parts = {"post_s": seconds} | tend(tools, database, batch_id)
        with database.read() as connection:
            queued = connection.execute(select(func.count()).where(jobs.c.batch_id == batch_id)).scalar_one()
        size = manifest.stat().st_size
    whole = parts["post_s"] + parts["validation_s"] + parts["insertion_s"]
    return {
        "lines": lines,
        "queued": queued,
        "manifest_bytes": size,
        "seconds": {name: round(value, 3) for name, value in (parts | {"whole_s": whole}).items()},
        "validated_lines_per_second": round(lines / parts["validation_s"]),
        "inserted_jobs_per_second": round(lines / parts["insertion_s"]),
        "most_resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "goals": [
            goal("jobs a second in the transactions", LEAST_JOBS_PER_SECOND, lines / parts["of_it_in_transactions_s"]),
            goal("seconds left of 60 after validation", 0, MOST_SECONDS - parts["validation_s"]),
        ],
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=LINES)
    arguments = parser.parse_args()
    configure_logging(Settings(_env_file=None, log_level="warning"), "bulk")
    write("bulk", {"what": "seconds from the POST of a batch to its last job in the queue", **measure(arguments.lines)})


if __name__ == "__main__":
    main()
