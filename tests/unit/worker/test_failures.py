"""The one table that sorts exceptions."""

import pytest
from sqlalchemy.exc import OperationalError

from common.domain.errors import JobFailure, Unavailable
from common.domain.retry import FailureClass
from common.images.untrusted import ImageRejected
from common.storage.port import ObjectMissing, StoreUnavailable
from worker.engine.port import DeviceLost
from worker.failures import classify, is_device_lost, is_out_of_memory


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class AcceleratorError(RuntimeError):
    """Named as torch's."""


CASES = [
    (JobFailure("gone", code="input_missing"), FailureClass.CLIENT, "input_missing"),
    (JobFailure("no", code="model_unavailable"), FailureClass.CONFIG, "model_unavailable"),
    (JobFailure("nan", code="invalid_output"), FailureClass.INVALID_OUTPUT, "invalid_output"),
    (JobFailure("big", code="out_of_memory"), FailureClass.OUT_OF_MEMORY, "out_of_memory"),
    (JobFailure("late", code="deadline_exceeded"), FailureClass.TIMEOUT, "deadline_exceeded"),
    (JobFailure("lost", code="worker_lost"), FailureClass.WORKER_LOST, "worker_lost"),
    (JobFailure("odd", code="something_new"), FailureClass.UNKNOWN, "something_new"),
    (ImageRejected("image_too_large", "too large"), FailureClass.CLIENT, "image_too_large"),
    (ObjectMissing("inputs/x"), FailureClass.CLIENT, "input_missing"),
    (StoreUnavailable("inputs/x", "503"), FailureClass.TRANSIENT, "store_failed"),
    (Unavailable("database away"), FailureClass.TRANSIENT, "internal"),
    (OperationalError("SELECT 1", {}, Exception("gone away")), FailureClass.TRANSIENT, "internal"),
    (ConnectionResetError(), FailureClass.TRANSIENT, "store_failed"),
    (TimeoutError(), FailureClass.TRANSIENT, "store_failed"),
    (OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"), FailureClass.OUT_OF_MEMORY, "out_of_memory"),
    (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), FailureClass.OUT_OF_MEMORY, "out_of_memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FailureClass.OUT_OF_MEMORY, "out_of_memory"),
    (AcceleratorError("CUDA error: out of memory"), FailureClass.OUT_OF_MEMORY, "out_of_memory"),
    (MemoryError(), FailureClass.OUT_OF_MEMORY, "out_of_memory"),
    (AcceleratorError("CUDA error: device-side assert triggered"), FailureClass.DEVICE_FAULT, "worker_lost"),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), FailureClass.DEVICE_FAULT, "worker_lost"),
    (RuntimeError("uncorrectable ECC error encountered"), FailureClass.DEVICE_FAULT, "worker_lost"),
    (DeviceLost("gone"), FailureClass.DEVICE_FAULT, "worker_lost"),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), FailureClass.UNKNOWN, "internal"),
    (KeyError("x"), FailureClass.UNKNOWN, "internal"),
]


@pytest.mark.parametrize(("error", "kind", "code"), CASES, ids=lambda case: str(case)[:40])
def test_each_exception_has_its_class_and_code(error: BaseException, kind: FailureClass, code: str) -> None:
    assert classify(error)[:2] == (kind, code)


def test_there_is_an_exception_of_every_class_but_the_one_that_a_drain_decides() -> None:
    assert {kind for _, kind, _ in CASES} == set(FailureClass) - {FailureClass.DRAIN}


@pytest.mark.parametrize(
    "error", [error for error, _, _ in CASES if not isinstance(error, (JobFailure, ImageRejected))]
)
def test_no_exception_text_reaches_the_client(error: BaseException) -> None:
    detail = classify(error).detail
    assert detail
    assert not str(error) or str(error) not in detail


def test_our_own_failures_keep_their_sentence() -> None:
    assert classify(JobFailure("visit the page", code="model_unavailable")).detail == "visit the page"


def test_torch_itself_is_recognised() -> None:
    torch = pytest.importorskip("torch")
    assert is_out_of_memory(torch.OutOfMemoryError("no"))
    assert is_device_lost(torch.AcceleratorError("CUDA error: unspecified launch failure"))
