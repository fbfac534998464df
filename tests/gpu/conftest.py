"""Checks that need a CUDA device: each is skipped with its reason where there is none."""

import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import pytest
import structlog

from tests.gpu.studio import Studio, device_of
from worker.device import Device
from worker.quiet import quiet_libraries


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what is in this folder. What libraries warn of on a device is shown, but fails nothing."""
    item.add_marker(pytest.mark.gpu)
    item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_runtest_setup() -> None:
    """Before any fixture of theirs is made."""
    if not _has_device():
        pytest.skip("no CUDA device")


@cache
def _has_device() -> bool:
    if find_spec("torch") is None or find_spec("diffusers") is None:
        return False
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver that is too old is a warning
        return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _no_tracebacks() -> Iterator[None]:
    """To show one would be to print its tensors, which takes memory that a test may just have run out of."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """Where the checkpoints of this session are."""
    quiet_libraries()
    return Studio(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def device() -> Device:
    """The device as a worker picks it."""
    return device_of()


@pytest.fixture(params=["float16", "bfloat16"])
def half(request: pytest.FixtureRequest, device: Device) -> Device:
    """The device in each of the two half precisions."""
    import torch

    return replace(device, dtype=getattr(torch, request.param))
