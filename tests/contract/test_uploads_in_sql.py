"""Uploads in SQL, on both databases: one verdict each, and pictures that live as long as somebody needs them."""

from typing import Any

import pytest
from sqlalchemy import func, select, update

from common.db import uploads as sql
from common.db.engine import Database
from common.db.jobs import insert_job
from common.db.objects import keep_input
from common.db.tables import objects, uploads
from common.db.types import after_now
from common.db.uploads import Upload, UploadState
from common.domain.job import InputRef
from common.ids import new_id
from tests.making import make_job

PICTURE = InputRef("inputs/default/" + "a" * 64 + ".png", "a" * 64, 10, 30, 20)


def ready(database: Database, *, life_seconds: float = 3600) -> Upload:
    upload_id = new_id("upl")
    with database.write() as connection:
        sql.insert_ready(connection, "default", upload_id, PICTURE, life_seconds=life_seconds)
    return look(database, upload_id)


def pending(database: Database) -> Upload:
    upload_id = new_id("upl")
    with database.write() as connection:
        sql.insert_pending(
            connection,
            "default",
            upload_id,
            staging_key=f"uploads/default/{upload_id}",
            declared_bytes=5,
            declared_sha256="b" * 64,
            life_seconds=3600,
        )
    return look(database, upload_id)


def look(database: Database, upload_id: str) -> Upload:
    with database.read() as connection:
        found = sql.find_upload(connection, "default", upload_id)
    assert found is not None
    return found


def life_left(database: Database) -> float | None:
    """Seconds that the picture has left; None: without an end."""
    with database.read() as connection:
        row = connection.execute(select(objects.c.expires_at, after_now(0).label("now"))).one()
    return None if row.expires_at is None else float((row.expires_at - row.now).total_seconds())


def delete(database: Database, upload: Upload) -> None:
    with database.write() as connection:
        sql.delete_upload(connection, "default", upload.id)


def test_a_ready_upload_has_its_picture(database: Database) -> None:
    upload = ready(database)
    assert (upload.state, upload.picture, upload.is_expired) == (UploadState.READY, PICTURE, False)
    with database.read() as connection:
        assert sql.find_upload(connection, "other", upload.id) is None


def test_the_longest_of_its_uploads_decides_how_long_a_picture_lives(database: Database) -> None:
    longer = ready(database, life_seconds=9000)
    shorter = ready(database, life_seconds=7200)
    assert life_left(database) == pytest.approx(9000, abs=30)
    delete(database, longer)
    assert life_left(database) == pytest.approx(7200, abs=30)
    delete(database, shorter)
    assert life_left(database) == pytest.approx(3600, abs=30)  # a submit may just have announced it


def test_a_picture_that_a_job_brought_has_no_end_until_an_upload_gives_it_one(database: Database) -> None:
    with database.write() as connection:
        insert_job(connection, make_job(inputs={"image": PICTURE}))
    assert life_left(database) is None
    upload = ready(database, life_seconds=9000)
    assert life_left(database) == pytest.approx(9000, abs=30)
    delete(database, upload)
    assert life_left(database) == pytest.approx(3600, abs=30)  # after that the job's reference keeps it


def test_a_picture_that_was_about_to_go_lives_again(database: Database) -> None:
    ready(database)
    with database.write() as connection:
        connection.execute(update(objects).values(state="deleting", expires_at=after_now(-60)))
        keep_input(connection, "default", PICTURE, expires_seconds=60)
        assert connection.execute(select(objects.c.state)).scalar_one() == "live"
    assert life_left(database) == pytest.approx(60, abs=30)


def test_of_two_verdicts_the_first_stands(database: Database) -> None:
    upload = pending(database)
    with database.write() as connection:
        assert sql.mark_ready(connection, "default", upload, PICTURE)
        assert not sql.mark_rejected(connection, "default", upload.id)
        assert not sql.mark_ready(connection, "default", upload, PICTURE)
    assert look(database, upload.id).picture == PICTURE
    other = pending(database)
    with database.write() as connection:
        assert sql.mark_rejected(connection, "default", other.id)
        assert not sql.mark_ready(connection, "default", other, PICTURE)
    assert (look(database, other.id).state, look(database, other.id).picture) == (UploadState.REJECTED, None)


def test_only_uploads_past_their_life_are_forgotten(database: Database) -> None:
    kept, over = ready(database), pending(database)
    with database.write() as connection:
        connection.execute(update(uploads).where(uploads.c.id == over.id).values(expires_at=after_now(-1)))
        assert sql.forget_expired(connection) == 1
        assert sql.forget_expired(connection) == 0
    assert look(database, kept.id) == kept
    assert count(database) == 1


def count(database: Database) -> Any:
    with database.read() as connection:
        return connection.execute(select(func.count()).select_from(uploads)).scalar_one()
