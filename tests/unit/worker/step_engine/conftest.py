"""The checkpoints of the families' tests, for the step engine."""

from tests.unit.worker.pipelines.conftest import _quiet_numpy, shop

__all__ = ["_quiet_numpy", "shop"]
