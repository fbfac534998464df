"""What the soak makes of its facts: recovery times from attempts, questions to an API, and the page."""

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from common.db.engine import Database
from common.domain.lifecycle import Outcome
from tests.faults import soak_report
from tests.faults.deployment import Blow
from tests.faults.invariants import foreign_answers, wrong_counts
from tests.faults.recovery import Rescue, lost_without_a_blow, percentile, rescues
from tests.faults.soak import SeedResult, wrong_ends
from tests.making import submit

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def blow(seconds: float, worker: str = "wrk_a", number: signal.Signals = signal.SIGKILL) -> Blow:
    return Blow("worker-0", "worker", 1, number, at(seconds), seconds, worker)


def attempt(fence: int, claimed: float, ended: float, outcome: Outcome, worker: str = "wrk_a") -> SimpleNamespace:
    moments = {"claimed_at": at(claimed), "ended_at": at(ended)}
    return SimpleNamespace(job_id="job_a", fence=fence, worker_id=worker, outcome=outcome, **moments)


def facts(*tried: SimpleNamespace) -> Any:
    return SimpleNamespace(attempts={"job_a": tried})


def test_recovery_counts_from_the_blow_to_the_rescue_and_to_the_next_claim() -> None:
    seen = facts(attempt(1, 0, 3.5, Outcome.LOST), attempt(2, 4, 5, Outcome.SUCCEEDED, "wrk_b"))
    assert rescues(seen, [blow(1.0), blow(4.5)]) == [Rescue("job_a", 1, 2.5, 3.0, backs_off=False)]


def test_a_second_loss_backs_off_and_a_released_attempt_is_none() -> None:
    seen = facts(
        attempt(1, 0, 0.5, Outcome.RELEASED), attempt(2, 1, 4, Outcome.LOST), attempt(3, 5, 9, Outcome.LOST, "wrk_b")
    )
    found = rescues(seen, [blow(2.0), blow(6.0, "wrk_b", signal.SIGSTOP), blow(8.0, "wrk_b", signal.SIGCONT)])
    assert [(one.rescued, one.claimed, one.backs_off) for one in found] == [(2.0, 3.0, False), (3.0, None, True)]


def test_an_attempt_whose_worker_nobody_struck_is_lost_without_a_blow() -> None:
    seen = facts(attempt(1, 0, 3, Outcome.LOST))
    others = [blow(4.0), blow(1.0, "wrk_b"), blow(-1.0, number=signal.SIGSTOP), blow(-0.5, number=signal.SIGCONT)]
    assert rescues(seen, others) == []
    assert lost_without_a_blow(seen, others) == 1


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1, 100)])
def test_a_percentile_is_a_value_that_was_seen(share: float, expected: int) -> None:
    assert percentile(list(range(1, 101)), share) == expected


def test_of_no_values_the_percentile_is_0() -> None:
    assert percentile([], 0.99) == 0


def test_a_count_that_is_no_recount_is_reported(sqlite_database: Database) -> None:
    submit(sqlite_database)
    pools = [{"pool": "default", "running": 0}]
    right = {"lanes": [{"pool": "default", "lane": "normal", "queued": 1}], "pools": pools}
    assert wrong_counts(sqlite_database, saying(right)) == []
    pools[0]["running"] = 1
    assert [one.split()[0:2] for one in wrong_counts(sqlite_database, saying(right))] == [["I7", "running:"]]


def test_a_job_that_another_tenant_gets_to_see_is_reported() -> None:
    answers = {"/v1/jobs": httpx.Response(200, json={"data": [{"id": "job_a"}]}), "/v1/jobs/job_a": httpx.Response(200)}

    def answer(request: httpx.Request) -> httpx.Response:
        return answers.get(request.url.path, httpx.Response(404))

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://test") as client:
        found = foreign_answers(client, ["job_a"])
    assert found == ["I10 job_a is in the list of another", "I10 another asked for job_a and got 200"]


def saying(body: object) -> httpx.Client:
    return httpx.Client(
        transport=httpx.MockTransport(lambda request: httpx.Response(200, json=body)), base_url="http://test"
    )


def test_a_job_that_failed_is_a_violation_unless_it_was_rightly_poisoned() -> None:
    poisoned = SimpleNamespace(state="failed", error={"code": "poisoned"}, solo_crashes=2)
    other = SimpleNamespace(state="failed", error={"code": "internal"}, solo_crashes=0)
    unknown = SimpleNamespace(state="succeeded")
    seen: Any = SimpleNamespace(jobs={"job_p": poisoned, "job_o": other, "job_u": unknown})
    order: Any = SimpleNamespace(key="a"), SimpleNamespace(key="a")
    found = list(wrong_ends(seen, {"job_p": order[0], "job_o": order[1]}, set()))
    assert [one.split()[:2] for one in found] == [["S3", "job_o"], ["S1", "job_u"], ["S4", "a"]]


def result(seed: int, *violations: str) -> SeedResult:
    return SeedResult(
        seed=seed,
        jobs=1000,
        sweepers=2,
        seconds=61.4,
        blows={"worker": 7, "sweeper": 2},
        stops=1,
        states={"succeeded": 960, "canceled": 40},
        attempts=1040,
        attempts_lost=40,
        lost_without_a_blow=0,
        orphans=12,
        pictures_served=150,
        violations=list(violations),
        load=1.5,
        sweeper_starts=[0.6, 0.9],
        rescues=[Rescue("job_a", 1, 2.25, 2.75, backs_off=False), Rescue("job_b", 2, 2.5, 20.0, backs_off=True)],
    )


def test_the_page_shows_each_seed_and_keeps_what_stands_between_its_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak_report, "_machine", lambda: "a machine\n")
    page = tmp_path / "reliability.md"
    page.write_text(f"old\n{soak_report.CASES_BEGIN}\nby hand\n{soak_report.CASES_END}\n")
    soak_report.write_report(page, [result(1), result(2, "I1 job_x was lost", "I4 job_y twice")], store="s3")
    text = page.read_text()
    assert "\nby hand\n" in text
    assert not text.startswith("old")
    assert "**1 lost, 1 doubled**" in text
    assert "| 1 | 1000 | 2 | 7 / 0 / 0 / 2 | 1 | 1040 | 40 | 0 | 0 | 0 | 0 | 61 |" in text
    assert "| 1 | 2 | 2.25 | 2.50 | 2.50 | 2.75 / 2.75 / 2.75 | 1 | 0.6 / 0.9 | 1.5 |" in text
