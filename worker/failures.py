"""What kind of failure an exception is: one table, read from the top. Pure; imports no torch."""

from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy.exc import InterfaceError, OperationalError

from common.domain.errors import JobFailure, Unavailable
from common.domain.retry import FailureClass
from common.images.untrusted import ImageRejected
from common.storage.port import ObjectMissing, StoreUnavailable


class Verdict(NamedTuple):
    """A failure's class, its stable code, and one sentence that a client may read."""

    kind: FailureClass
    code: str
    detail: str


def classify(error: BaseException) -> Verdict:
    """The verdict on an attempt that ended in `error`. Never raises; nothing internal gets into the detail."""
    if isinstance(error, (JobFailure, ImageRejected)):
        return Verdict(_KIND_OF_CODE.get(error.code, FailureClass.UNKNOWN), error.code, error.detail)
    return next((verdict for matches, verdict in _TABLE if matches(error)), _UNKNOWN)


def is_out_of_memory(error: BaseException) -> bool:
    """True when the device or the host had too little memory."""
    return _is_named("OutOfMemoryError")(error) or isinstance(error, MemoryError) or _says(_MEMORY_WORDS)(error)


def is_device_lost(error: BaseException) -> bool:
    """True when every later call on the device would fail too, until a new process starts."""
    if is_out_of_memory(error):
        return False
    return _is_named("DeviceLost", "AcceleratorError")(error) or _says(_STICKY_WORDS)(error)


def _is_named(*names: str) -> Callable[[BaseException], bool]:
    return lambda error: any(kind.__name__ in names for kind in type(error).__mro__)


def _is_a(*kinds: type[BaseException]) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, kinds)


def _says(words: tuple[str, ...]) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, RuntimeError) and any(word in str(error) for word in words)


_MEMORY_WORDS = (
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
_STICKY_WORDS = (
    "CUDA error:",
    "device-side assert",
    "illegal memory access",
    "misaligned address",
    "unspecified launch failure",
    "uncorrectable ECC",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_EXECUTION_FAILED",
)
_KIND_OF_CODE = {
    "input_missing": FailureClass.CLIENT,
    "image_unreadable": FailureClass.CLIENT,
    "image_too_large": FailureClass.CLIENT,
    "unsupported_media_type": FailureClass.CLIENT,
    "infeasible": FailureClass.CLIENT,
    "unsupported_param": FailureClass.CLIENT,
    "unknown_model": FailureClass.CONFIG,
    "model_unavailable": FailureClass.CONFIG,
    "out_of_memory": FailureClass.OUT_OF_MEMORY,
    "invalid_output": FailureClass.INVALID_OUTPUT,
    "worker_lost": FailureClass.WORKER_LOST,
    "deadline_exceeded": FailureClass.TIMEOUT,
    "store_failed": FailureClass.TRANSIENT,
}
_UNKNOWN = Verdict(FailureClass.UNKNOWN, "internal", "the worker failed in an unexpected way")
_STORE = Verdict(FailureClass.TRANSIENT, "store_failed", "the object store could not be reached")
_TABLE: tuple[tuple[Callable[[BaseException], bool], Verdict], ...] = (
    (
        is_out_of_memory,
        Verdict(FailureClass.OUT_OF_MEMORY, "out_of_memory", "the device has too little memory for this size"),
    ),
    (is_device_lost, Verdict(FailureClass.DEVICE_FAULT, "worker_lost", "the device failed and its worker restarts")),
    (
        _is_a(ObjectMissing),
        Verdict(FailureClass.CLIENT, "input_missing", "an input image is no longer in the object store"),
    ),
    (_is_a(StoreUnavailable), _STORE),
    (
        _is_a(OperationalError, InterfaceError, Unavailable),
        Verdict(FailureClass.TRANSIENT, "internal", "the database could not be reached"),
    ),
    (_is_a(OSError), _STORE),  # ConnectionError and TimeoutError among them
)
