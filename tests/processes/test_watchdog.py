"""A device that hangs ends its process, and the job is done by the next one."""

import signal
from pathlib import Path

import pytest

from common.domain.lifecycle import JobState
from tests.making import submit
from tests.processes.harness import stack, until_finished

pytestmark = pytest.mark.processes


def test_a_step_that_hangs_ends_the_process_and_the_job_is_tried_again(tmp_path: Path) -> None:
    with stack(tmp_path) as built:
        built.sweeper()
        hung = built.worker(DARKROOM_STUB_STEP_SECONDS="600", DARKROOM_WATCHDOG_SECONDS="1")
        database = built.database
        job = submit(database)
        assert hung.wait() == 70
        healthy = built.worker()
        done = until_finished(database, job.id)
        assert (done.state, done.attempt) == (JobState.SUCCEEDED, 2)
        healthy.signal(signal.SIGTERM)
        assert healthy.wait() == 0
        database.close()
