"""What `darkroom doctor` says of the key that webhook secrets are encrypted with."""

from pathlib import Path
from typing import Any

import pytest

from client.checks import Health, check_webhooks
from common.settings import Settings

SERVICES = {"database_url": "postgresql://x@127.0.0.1/none"}


@pytest.mark.parametrize(
    ("given", "health"),
    [
        ({}, Health.OK),
        (SERVICES, Health.ABSENT),
        (SERVICES | {"secret_key": "k" * 40}, Health.OK),
    ],
)
def test_a_full_deployment_without_a_key_is_told_to_set_one(
    given: dict[str, Any], health: Health, tmp_path: Path
) -> None:
    finding = check_webhooks(Settings(_env_file=None, data_dir=tmp_path, **given))

    assert finding.health is health
    assert bool(finding.remedy) is (health is Health.ABSENT)
    assert "k" * 40 not in repr(finding)
    assert not list(tmp_path.iterdir())
