"""The real process: it says where it listens, answers, and ends in good order."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from common.db.engine import Database
from common.db.migrate import migrate
from common.settings import Settings
from tests.waiting import wait_until

pytestmark = pytest.mark.processes

_SERVE = """
import sys
from api.main import serve
from common.logging import configure_logging
from common.settings import Settings
settings = Settings(_env_file=None, data_dir=sys.argv[1], port=0, log_format="json", decoders=1)
configure_logging(settings, "api")
serve(settings)
"""


@pytest.fixture
def process(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[str]]:
    monkeypatch.setenv("DARKROOM_LINGER_SECONDS", getattr(request, "param", "0"))
    database = Database(Settings(_env_file=None, data_dir=tmp_path).database)
    migrate(database)
    database.close()
    command = [sys.executable, "-c", _SERVE, str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def address(process: subprocess.Popen[str]) -> str:
    """Waits for the line that says where it listens."""
    assert process.stderr
    for line in process.stderr:
        if "api.listening" in line:
            return str(json.loads(line)["url"])
    raise AssertionError("it never listened")


def resident_megabytes(process: subprocess.Popen[str]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_listens_on_a_free_port_and_ends_with_0(process: subprocess.Popen[str], stop: signal.Signals) -> None:
    url = address(process)
    with urlopen(f"{url}/readyz") as response:
        assert response.status == 200
        assert "server" not in response.headers

    process.send_signal(stop)

    assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("process", ["4"], indirect=True)
def test_it_goes_on_accepting_for_a_while_after_its_readiness_turned(process: subprocess.Popen[str]) -> None:
    url = address(process)
    assert status_of(f"{url}/readyz") == 200
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: status_of(f"{url}/readyz") == 503, what="the turn")
    assert status_of(f"{url}/v1/models") == 200
    assert process.wait(timeout=30) == 0


def status_of(url: str) -> int:
    try:
        with urlopen(url) as response:
            return int(response.status)
    except HTTPError as error:
        with error:
            return error.code


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_it_is_small(process: subprocess.Popen[str]) -> None:
    with urlopen(f"{address(process)}/v1/models") as response:
        assert response.status == 200

    assert resident_megabytes(process) < 150
