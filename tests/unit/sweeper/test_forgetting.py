"""What the sweeper forgets, besides jobs."""

from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update

from common.db.engine import Database
from common.db.intakes import insert_intakes
from common.db.jobs import cancel_job, insert_job
from common.db.tables import intakes, uploads
from common.db.types import after_now
from common.db.uploads import PAGE, insert_pending
from common.ids import new_id
from common.queue.doorbell import NoDoorbell
from common.settings import Settings
from sweeper.main import Sweeper
from tests.making import make_job


def count(database: Database, table: Any) -> int:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_uploads_past_their_life_and_images_that_nobody_awaits_are_forgotten(
    sqlite_database: Database, tmp_path: Path
) -> None:
    job = make_job()
    with sqlite_database.write() as connection:
        insert_job(connection, job)
        insert_intakes(connection, job.id, "default", {"image": "https://pictures.example/", "mask": "https://x.y/"})
        for _ in range(PAGE + 1):
            upload_id = new_id("upl")
            declared = {"declared_bytes": 1, "declared_sha256": "a" * 64, "life_seconds": 60}
            insert_pending(connection, "default", upload_id, staging_key=f"uploads/{upload_id}", **declared)  # type: ignore[arg-type]
    sweeper = Sweeper(Settings(_env_file=None, data_dir=tmp_path), sqlite_database, NoDoorbell())
    sweeper.run_once()
    assert (count(sqlite_database, uploads), count(sqlite_database, intakes)) == (PAGE + 1, 2)
    with sqlite_database.write() as connection:
        connection.execute(update(uploads).values(expires_at=after_now(-1)))
        cancel_job(connection, "default", job.id)
    sweeper.run_once()
    assert (count(sqlite_database, uploads), count(sqlite_database, intakes)) == (0, 0)
