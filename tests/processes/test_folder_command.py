"""`darkroom batch` against a real API, courier and worker: killed, interrupted and resumed."""

import json
import signal
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import func, select

from common.db.engine import Database
from common.db.tables import batches, jobs
from tests.processes.full import start_api
from tests.processes.harness import Process, Stack, eventually, stack

pytestmark = pytest.mark.processes

PICTURES = 200
BROKEN = (7, 77, 177)


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Stack]:
    """A stub stack that develops about 40 pictures a second."""
    with stack(tmp_path, DARKROOM_STUB_STEP_SECONDS="0.002") as built:
        yield built


def make_photos(folder: Path, count: int, broken: tuple[int, ...] = ()) -> Path:
    """So many different pictures in two folders, some of which are none."""
    for number in range(count):
        path = folder / f"roll {number % 2}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = BytesIO()
        Image.new("RGB", (64, 64), (number, 255 - number, 7)).save(picture, "PNG")
        path.write_bytes(b"no picture" * (number + 1) if number in broken else picture.getvalue())
    return folder


def start_batch(built: Stack, url: str, *arguments: str) -> Process:
    return built.start("client.cli", "batch", "--url", url, "--out", str(built.folder / "edited"), *arguments)


def results_in(built: Stack) -> list[Path]:
    out = built.folder / "edited"
    return [path for path in out.rglob("*.png") if ".darkroom-batch" not in path.parts]


def notes_in(built: Stack, kind: str) -> int:
    journal = built.folder / "edited" / ".darkroom-batch" / "journal.jsonl"
    return journal.read_text(encoding="utf-8").count(f'"note": "{kind}"') if journal.exists() else 0


def count_rows(database: Database) -> tuple[int, int]:
    """Batches and jobs."""
    with database.read() as connection:
        return tuple(connection.execute(select(func.count()).select_from(one)).scalar_one() for one in (batches, jobs))  # type: ignore[return-value]


def test_two_hundred_pictures_with_three_broken_survive_two_kills(built: Stack) -> None:
    photos = make_photos(built.folder / "photos", PICTURES, BROKEN)
    url = start_api(built)
    built.start("client.cli", "courier")
    built.worker()
    built.sweeper()
    first = start_batch(built, url, str(photos), "--prompt", "snow", "--model", "stub")
    eventually(lambda: notes_in(built, "sent") > 50, seconds=90, what="the first uploads")
    first.signal(signal.SIGKILL)
    first.wait()
    assert notes_in(built, "batch") == 0
    second = start_batch(built, url, "--resume")
    eventually(lambda: len(results_in(built)) > 20, seconds=120, what="the first results")
    second.signal(signal.SIGKILL)
    second.wait()
    assert len(results_in(built)) < PICTURES
    last = start_batch(built, url, "--resume")
    assert last.wait(240) == 1, last.log.read_text()
    assert "197 done, 3 failed" in last.log.read_text()
    found = {path.relative_to(built.folder / "edited").as_posix() for path in results_in(built)}
    assert found == {f"roll {number % 2}/{number:03}.png" for number in range(PICTURES) if number not in BROKEN}
    for path in results_in(built):
        with Image.open(path) as picture:
            picture.load()
    failed = [json.loads(line) for line in (built.folder / "edited" / "failed.jsonl").read_text().splitlines()]
    assert [line["custom_id"] for line in failed] == ["roll 1/007.png", "roll 1/077.png", "roll 1/177.png"]
    database = built.database
    try:
        assert count_rows(database) == (1, PICTURES - len(BROKEN))
    finally:
        database.close()


def test_ctrl_c_ends_the_command_and_not_the_batch(built: Stack) -> None:
    photos = make_photos(built.folder / "photos", 30)
    url = start_api(built)
    built.start("client.cli", "courier")
    command = start_batch(built, url, str(photos), "--prompt", "snow", "--model", "stub")
    eventually(lambda: notes_in(built, "batch"), seconds=90, what="the batch")
    command.signal(signal.SIGINT)
    assert command.wait(60) == 130, command.log.read_text()
    assert "--resume" in command.log.read_text()
    assert "Traceback" not in command.log.read_text()
    built.worker()
    last = start_batch(built, url, "--resume")
    assert last.wait(120) == 0, last.log.read_text()
    assert len(results_in(built)) == 30
