"""Which devices there are, and how a process gets one of them."""

import subprocess
import sys
from typing import Any

import pytest

from worker import pinning
from worker.device import pick_device, use_threads
from worker.pinning import count_gpus, list_device_specs, pin_environment

LISTING = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-1)
  MIG 3g.20gb Device 0: (UUID: MIG-1)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-2)
"""


def test_a_pinned_process_sees_one_card_and_keeps_its_name() -> None:
    environment = pin_environment("cuda:3")
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment["DARKROOM_DEVICE"] == "cuda:3"
    assert environment["DARKROOM_PINNED_DEVICE"] == "cuda:3"


def test_pinning_counts_within_the_devices_that_the_launcher_may_see() -> None:
    visible = {"CUDA_VISIBLE_DEVICES": "GPU-aa, GPU-bb"}
    assert pin_environment("cuda:1", visible)["CUDA_VISIBLE_DEVICES"] == "GPU-bb"
    assert list_device_specs(visible) == ["cuda:0", "cuda:1"]
    with pytest.raises(ValueError, match="cuda:2 is not among the 2"):
        pin_environment("cuda:2", visible)


def test_a_cpu_process_sees_no_card() -> None:
    assert pin_environment("cpu")["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("spec", ["auto", "cuda", "mps"])
def test_a_device_without_a_number_is_not_pinned(spec: str) -> None:
    assert "CUDA_VISIBLE_DEVICES" not in pin_environment(spec)


def test_slices_of_a_card_are_not_cards() -> None:
    assert count_gpus(LISTING) == 2
    assert count_gpus("No devices found.\n") == 0


def test_each_installed_card_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout=LISTING)

    monkeypatch.setattr(subprocess, "run", answer)
    assert list_device_specs() == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(("system", "machine", "specs"), [("Linux", "x86_64", ["cpu"]), ("Darwin", "arm64", ["mps"])])
def test_without_cards_there_is_still_one_device(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, specs: list[str]
) -> None:
    monkeypatch.setattr(pinning.platform, "system", lambda: system)
    monkeypatch.setattr(pinning.platform, "machine", lambda: machine)
    assert list_device_specs({"CUDA_VISIBLE_DEVICES": ""}) == specs


def test_neither_pinning_nor_building_engines_loads_torch_by_import() -> None:
    program = (
        "import sys, worker.pinning, worker.device, worker.residency, worker.failures, worker.engine.building;"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_cpu_computes_in_float32_and_wants_full_weights() -> None:
    torch = pytest.importorskip("torch")
    device = pick_device("cpu")
    assert (device.spec, device.kind, device.dtype) == ("cpu", "cpu", torch.float32)
    assert device.variant_of("fp16") is None


def test_a_card_follows_its_abilities_and_a_pinned_one_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    old = pick_device("cuda:3", is_pinned=True)
    assert (old.spec, old.torch_device, old.dtype) == ("cuda:3", torch.device("cuda:0"), torch.float16)
    assert old.variant_of("fp16") == "fp16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    assert pick_device("auto").dtype == torch.bfloat16
    with pytest.raises(ValueError, match="torch sees 1 CUDA devices"):
        pick_device("cuda:3")


def test_threads_are_half_of_the_cores_unless_said() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    try:
        use_threads(0)
        assert torch.get_num_threads() >= 1
        use_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
