"""Many unlike jobs with poison, mistakes, cancels and parks at random ticks: nobody else is harmed, nothing stays."""

import gc
import resource
from typing import Any

import pytest
from greenlet import greenlet
from PIL.Image import Image

from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import largest_difference
from tests.unit.worker.step_engine.cases import Case
from tests.unit.worker.step_engine.plain import Plain
from tests.unit.worker.step_engine.running import distance, latents_of, picture_of
from tests.unit.worker.step_engine.storm import KINDS, ROWS, SD, Storm, storm_over
from worker.engine.port import Failed, Finished, Left
from worker.engine.rows import Call
from worker.engine.running import Running
from worker.failures import classify

torch = pytest.importorskip("torch")

Expected = dict[Case, tuple[Any, Image]]

FULL_SIZE = 1000
MEGABYTE = 1 << 10  # of the kibibytes that Linux counts in


@pytest.fixture(autouse=True)
def _untidied(monkeypatch: pytest.MonkeyPatch) -> None:
    """To give memory back takes a second here, each time."""
    monkeypatch.setattr("worker.engine.passes.release_memory", lambda: None)


@pytest.fixture
def expected(shop: Shop) -> Expected:
    """What a plain call makes of each kind of job."""
    plain = Plain(shop, torch.float32)
    return {case: (plain.latents(case), plain.picture(case)) for case in KINDS}


def check_ends(storm: Storm) -> None:
    """Everyone ended once and as was their fate."""
    assert storm.ends.keys() == storm.jobs.keys()
    for job_id, end in storm.ends.items():
        match storm.jobs[job_id].fate:
            case "wanted":
                assert isinstance(end, Finished), end
            case "poisoned":
                assert isinstance(end, Failed), end
                assert classify(end.error).code == "invalid_output"
            case "culprit":
                assert isinstance(end, Failed), end
                assert str(end.error) == "no such word"
            case "unwanted":
                assert end == Left(end.ref, parked=False)


def check_survivors(storm: Storm, expected: Expected) -> None:
    """Whoever finished has the latents and the picture of a plain call, a deterministic job to the byte."""
    for job_id, end in storm.ends.items():
        if isinstance(end, Finished):
            plan = storm.jobs[job_id]
            latents, picture = expected[plan.case]
            assert distance(latents_of(end), latents) <= (0 if plan.is_exact else 5e-5)
            assert largest_difference(picture_of(end), picture) <= (0 if plan.is_exact else 1)


def living(*kinds: Any) -> int:
    """How many objects of these kinds there are, after all garbage is gone."""
    gc.collect()
    return sum(issubclass(type(one), kinds) for one in gc.get_objects())


def test_in_a_storm_everyone_meets_their_own_fate_only(shop: Shop, expected: Expected) -> None:
    storm = storm_over(shop.parts(SD), 90, seed=1, parks=0.03)
    check_ends(storm)
    check_survivors(storm, expected)
    assert max(storm.weather.rows) > ROWS / 2
    assert storm.parked_frames > 0
    assert storm.parked_engines > 0
    storm.engine.close()


def test_nothing_of_a_storm_stays_behind(shop: Shop) -> None:
    parts = shop.parts(SD)
    storm_over(parts, 16, seed=2).engine.close()
    tensors, others = living(torch.Tensor), living(Running, Call, greenlet)
    storm = storm_over(parts, 40, seed=3)
    assert living(Running, Call, greenlet) <= others
    storm.engine.close()
    del storm
    assert living(torch.Tensor) <= tensors


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_in_a_great_storm_too_and_memory_stays_flat(shop: Shop, expected: Expected) -> None:
    parts = shop.parts(SD)
    storm_over(parts, 100, seed=4).engine.close()
    tensors, peak = living(torch.Tensor), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    storm = storm_over(parts, FULL_SIZE, seed=5, parks=0.003)
    check_ends(storm)
    check_survivors(storm, expected)
    storm.engine.close()
    del storm
    assert living(torch.Tensor) <= tensors
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100 * MEGABYTE
