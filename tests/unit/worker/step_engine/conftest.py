"""The checkpoints of the families' tests, for the step engine, without the prose of failures that are meant."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from tests.unit.worker.pipelines.conftest import _quiet_numpy, shop

__all__ = ["_quiet_numpy", "shop"]


@pytest.fixture(autouse=True)
def _quiet_log() -> Iterator[None]:
    """Drawing the traceback of a failed pass takes longer than the pass."""
    with capture_logs():
        yield
