"""Cases 9 to 12: what goes wrong on the device, through a whole worker to the job's row and the stored pictures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from common.db.engine import Database
from common.db.tables import attempts
from common.domain.lifecycle import JobState
from common.domain.snapshot import JobSnapshot
from tests.faults.workshop import Workshop, build_workshop, failing, not_a_number, spoil_decoding
from tests.tiny_models import load_stable_diffusion
from tests.unit.worker.pipelines.still import largest_difference
from tests.unit.worker.step_engine.faults import before_each_pass, once
from worker.device import pick_device

torch = pytest.importorskip("torch")

# Schedulers of diffusers that hand torch tensors to numpy; shown to nobody outside of tests.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
GOOD = ("a red circle", "a blue square", "a green hill")
BAD = "poison"

Build = Callable[..., Workshop]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The parts of a tiny model in float32."""
    return load_stable_diffusion(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same in half precision, of the kind that a CPU computes with."""
    device = replace(pick_device("cpu"), dtype=torch.bfloat16)
    return load_stable_diffusion(tmp_path_factory.mktemp("models") / "tiny", device=device)


@pytest.fixture(params=["pipeline", "step"])
def build(
    request: pytest.FixtureRequest, sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Build:
    """Builds a worker on each engine in turn."""
    return lambda parts: build_workshop(sqlite_database, tmp_path, parts, request.param, monkeypatch)


def outcomes(workshop: Workshop, job: JobSnapshot) -> list[str]:
    query = select(attempts.c.outcome).where(attempts.c.job_id == job.id).order_by(attempts.c.fence)
    with workshop.database.read() as connection:
        return list(connection.execute(query).scalars())


def assert_failed(workshop: Workshop, job: JobSnapshot, code: str) -> None:
    """For good, at the first attempt, with this code, without a picture."""
    assert (job.state, (job.error or {}).get("code"), job.images) == (JobState.FAILED, code, [])
    assert outcomes(workshop, job) == ["failed"]


def assert_succeeded_at_once(workshop: Workshop, job: JobSnapshot) -> None:
    assert (job.state, job.error, len(workshop.pictures_of(job))) == (JobState.SUCCEEDED, None, 1)
    assert outcomes(workshop, job) == ["succeeded"]


def test_a_device_that_is_out_of_memory_once_saves_memory_in_place(build: Build, full: dict[str, Any]) -> None:
    workshop = build(full)
    job = workshop.queue(GOOD[0])
    with before_each_pass(full["unet"], once(NO_MEMORY)), workshop.working():
        (end,) = workshop.ends_of([job])
    assert_succeeded_at_once(workshop, end)


def test_a_job_that_never_fits_fails_as_out_of_memory_and_the_next_is_normal(
    build: Build, full: dict[str, Any]
) -> None:
    workshop = build(full)
    with failing(full, BAD, NO_MEMORY), workshop.working():
        (end,) = workshop.ends_of([workshop.queue(BAD)])
        (following,) = workshop.ends_of([workshop.queue(GOOD[0])])
    assert_failed(workshop, end, "out_of_memory")
    assert_succeeded_at_once(workshop, following)


@pytest.mark.parametrize("value", [float("nan"), -1.0], ids=["nan", "black"])
def test_what_half_precision_decodes_to_nothing_is_decoded_once_more_in_float32(
    build: Build, half: dict[str, Any], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    workshop = build(half)
    used = spoil_decoding(half, monkeypatch, value, lambda dtype: dtype != torch.float32)
    with workshop.working():
        (end,) = workshop.ends_of([workshop.queue(GOOD[0])])
    assert_succeeded_at_once(workshop, end)
    assert used == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("value", [float("nan"), -1.0], ids=["nan", "black"])
def test_what_float32_decodes_to_nothing_too_fails_as_invalid_output_and_the_next_is_normal(
    build: Build, half: dict[str, Any], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    workshop = build(half)
    with workshop.working():
        with monkeypatch.context() as patch:
            used = spoil_decoding(half, patch, value, lambda _: True)
            (end,) = workshop.ends_of([workshop.queue(GOOD[0])])
        (following,) = workshop.ends_of([workshop.queue(GOOD[0])])
    assert_failed(workshop, end, "invalid_output")
    assert used == [torch.bfloat16, torch.float32]
    assert_succeeded_at_once(workshop, following)


def test_a_job_that_denoises_to_nan_fails_as_invalid_output_and_never_succeeds(
    build: Build, full: dict[str, Any]
) -> None:
    workshop = build(full)
    with not_a_number(full, BAD), workshop.working():
        (end,) = workshop.ends_of([workshop.queue(BAD)])
    assert_failed(workshop, end, "invalid_output")


@pytest.mark.parametrize("trouble", ["nan", "mistake", "memory"])
def test_of_a_micro_batch_only_the_bad_job_fails_and_the_others_pictures_are_those_of_a_run_without_it(
    build: Build, full: dict[str, Any], trouble: str
) -> None:
    """The same within one level: without the bad one a pass has other rows. Rows that stay are equal to the byte, as
    the tests of the engines show.
    """
    workshop = build(full)
    undisturbed = develop(workshop, GOOD)
    fault, code = {
        "nan": (not_a_number(full, BAD), "invalid_output"),
        "mistake": (failing(full, BAD, ValueError("no such word")), "internal"),
        "memory": (failing(full, BAD, NO_MEMORY), "out_of_memory"),
    }[trouble]
    with fault:
        *good, bad = develop(workshop, (*GOOD, BAD))
    assert_failed(workshop, bad, code)
    for job, same in zip(good, undisturbed, strict=True):
        assert_succeeded_at_once(workshop, job)
        assert largest_difference(workshop.look_at(job), workshop.look_at(same)) <= 1


def develop(workshop: Workshop, prompts: tuple[str, ...]) -> list[JobSnapshot]:
    """The ends of jobs that stood in the queue together before the worker began."""
    queued = [workshop.queue(prompt, max_tries=1, seed=seed) for seed, prompt in enumerate(prompts)]
    with workshop.working():
        return workshop.ends_of(queued)
