"""What `darkroom up` starts, and when it refuses."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.settings import Settings, load_settings
from deploy.local.folder import FolderInUse, taken_folder
from deploy.local.stack import StackError, choose_devices, settle_settings, stack_children

ROOT = Path(__file__).parents[3]
TAKES_FOLDER = """
import pathlib, sys
from deploy.local.folder import taken_folder
with taken_folder(pathlib.Path(sys.argv[1])):
    pass
"""


def settings(folder: Path, **overrides: Any) -> Settings:
    return load_settings(data_dir=folder, port=0, **overrides)


def test_children_get_one_port_and_absolute_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settled = settle_settings(settings(Path("data")))
    assert settled.port > 0
    assert settled.data_dir == tmp_path / "data"
    assert settled.database_url == f"sqlite:///{tmp_path / 'data' / 'darkroom.db'}"
    assert settled.broker_url == "filesystem://"
    assert settled.store_url == f"file://{tmp_path / 'data' / 'store'}"


def test_the_order_of_the_children_is_the_order_in_which_they_stop(tmp_path: Path) -> None:
    children = stack_children(settle_settings(settings(tmp_path)), ["cpu", "cuda:1"])
    assert [child.name for child in children] == ["api", "worker-1", "worker-2", "courier", "sweeper"]
    assert list(children[2].argv)[1:] == ["-m", "client.cli", "worker", "--device", "cuda:1"]
    assert children[0].log_file == tmp_path / "logs" / "api.log"
    assert children[0].environment["DARKROOM_DATA_DIR"] == str(tmp_path)


def test_workers_take_the_devices_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert choose_devices(settings(tmp_path), None) == ["cuda:0", "cuda:1"]
    assert choose_devices(settings(tmp_path), 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert choose_devices(settings(tmp_path, device="cpu"), 2) == ["cpu", "cpu"]


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=f"127.0.0.1 port {port} .*choose another with --port"):
            settle_settings(settings(tmp_path).model_copy(update={"port": port}))


def test_an_open_address_without_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="DARKROOM_AUTH=keys"):
        settle_settings(settings(tmp_path, host="0.0.0.0"))
    assert settle_settings(settings(tmp_path, host="0.0.0.0", auth="keys")).auth == "keys"


def test_a_folder_serves_one_stack_and_is_free_again_afterwards(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKES_FOLDER, str(tmp_path)]
    with taken_folder(tmp_path):
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert FolderInUse.__name__ in second.stderr
        assert str(tmp_path) in second.stderr
    subprocess.run(command, cwd=ROOT, check=True)
