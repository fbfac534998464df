"""The counts of a batch: they add up, whatever its jobs do and wherever it is."""

from hypothesis import given
from hypothesis import strategies as st

from common.domain.batch import BatchCounts, BatchState, LineError, counts_of
from common.domain.lifecycle import JobState

numbers = st.integers(0, 1000)


def sum_of(counts: BatchCounts) -> int:
    return counts.queued + counts.running + counts.succeeded + counts.failed + counts.canceled


@given(st.sampled_from(BatchState), st.dictionaries(st.sampled_from(JobState), numbers), numbers, numbers)
def test_the_counts_add_up_to_the_total(
    state: BatchState, jobs: dict[JobState, int], wrong: int, without_job: int
) -> None:
    # Of a completed batch every line has its job or its error.
    rest = 0 if state is BatchState.COMPLETED else without_job
    total = sum(jobs.values()) + wrong + rest
    counts = counts_of(state, total, jobs, wrong)
    assert sum_of(counts) == counts.total == total
    assert counts.running == jobs.get(JobState.RUNNING, 0)


def test_lines_that_have_no_job_yet_are_queued_until_the_batch_ends() -> None:
    jobs = {JobState.RUNNING: 2, JobState.SUCCEEDED: 1}
    assert counts_of(BatchState.VALIDATING, 10, {}, 0).queued == 10
    assert counts_of(BatchState.RUNNING, 10, jobs, 1).queued == 6
    assert counts_of(BatchState.PAUSED, 10, jobs, 1).queued == 6
    assert counts_of(BatchState.CANCELED, 10, jobs, 1).canceled == 6
    assert counts_of(BatchState.REJECTED, 10, {}, 0).failed == 10


def test_wrong_lines_that_were_skipped_count_as_failed() -> None:
    assert counts_of(BatchState.RUNNING, 5, {JobState.FAILED: 1}, 2).failed == 3


def test_a_batch_leaves_no_terminal_state() -> None:
    assert {state for state in BatchState if state.is_terminal} == {
        BatchState.COMPLETED,
        BatchState.CANCELED,
        BatchState.REJECTED,
    }


def test_a_line_error_is_its_line_and_its_problem() -> None:
    problem = {"pointer": "/prompt", "code": "required", "detail": "it needs a prompt"}
    assert LineError(7, problem).as_dict() == {"line": 7, **problem}
