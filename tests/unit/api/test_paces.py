"""What submits are charged by: what workers measured, read seldom, and never in the way of a submit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import select

from common.catalogue_file import load_catalogue
from common.db.tables import flows
from common.db.workers import beat
from common.domain.errors import Unavailable
from common.paces import Paces
from common.settings import Settings
from tests.unit.api.conftest import WORKER, Api

CATALOGUE = load_catalogue(Settings(_env_file=None))
GUESS = CATALOGUE.require("demo").seconds_per_megapixel_step


class Looks:
    """A database whose workers have measured this, or that fails; it counts how often it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[dict[str, float]] | Exception = []
        self.count, self.now = 0, 100.0
        monkeypatch.setattr("common.paces.look_at_paces", lambda *_: self._look())
        self.paces = Paces(self, CATALOGUE, fresh_seconds=30, clock=lambda: self.now)  # type: ignore[arg-type]

    @contextmanager
    def read(self) -> Iterator[None]:
        yield

    def _look(self) -> tuple[list[dict[str, float]], bool]:
        self.count += 1
        if isinstance(self.told, Exception):
            raise self.told
        return self.told, False

    def scale(self, pool: str = "default") -> float:
        return self.paces.scale(pool, "demo")


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def test_the_guess_stands_until_a_worker_has_measured(looks: Looks) -> None:
    assert looks.scale() == 1.0
    looks.told, looks.now = [{"demo": 3 * GUESS}, {"demo": 5 * GUESS}, {"sdxl": 1.0}], looks.now + 5
    assert looks.scale() == pytest.approx(4.0)
    looks.told, looks.now = [], looks.now + 5  # they are gone: what they measured is better than a guess
    assert looks.scale() == pytest.approx(4.0)


def test_one_look_at_a_pool_serves_five_seconds(looks: Looks) -> None:
    for _ in range(10):
        looks.scale()
        looks.now += 0.49
    assert looks.count == 1
    looks.scale("other")
    assert looks.count == 2
    looks.now += 0.2
    looks.scale()
    assert looks.count == 3


@pytest.mark.parametrize("error", [Unavailable("the database is away"), RuntimeError("a bug")])
def test_a_look_that_fails_fails_no_submit(looks: Looks, error: Exception) -> None:
    looks.told = [{"demo": 3 * GUESS}]
    assert looks.scale() == pytest.approx(3.0)
    looks.told, looks.now = error, looks.now + 5
    assert looks.scale() == pytest.approx(3.0)
    assert looks.scale("other") == 1.0
    assert looks.scale("other") == 1.0
    assert looks.count == 3


def charged(api: Api) -> dict[str, float]:
    with api.database.read() as connection:
        return {row.lane: row.finish for row in connection.execute(select(flows))}


def test_a_submit_and_a_change_of_priority_are_charged_by_what_was_measured(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    job: Any = api.submit()
    guessed = charged(api)["normal"]
    with api.database.write() as connection:
        for _ in range(2):  # the first only registers it
            beat(connection, WORKER, state="ready", resident=(), paces={job["model"]: 3 * GUESS})
    monkeypatch.setattr(api.app.state.services.paces, "_clock", lambda: float("inf"))
    api.submit()
    assert charged(api)["normal"] == pytest.approx(guessed * 4)
    answer = api.client.patch(job["urls"]["self"], json={"priority": "low"})
    assert answer.status_code == 200, answer.text
    assert charged(api)["low"] == pytest.approx(guessed * 4 * 3)
