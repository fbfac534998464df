"""The worker's way to the object store: what may pass is tried again in place, what was read is checked."""

import hashlib
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from common.domain.errors import JobFailure
from common.domain.job import ClaimedJob, InputRef
from common.storage.port import ObjectMissing, ObjectStore, StoreUnavailable
from worker.engine.frames import step_role

TRIES: Final = 5
FIRST_SECONDS = 0.4  # not Final: tests shorten it
_LONGEST_SECONDS: Final = 5.0

Answer = TypeVar("Answer")


def insist(call: Callable[[], Answer], *, sleep: Callable[[float], object] = time.sleep) -> Answer:
    """`call()`, up to five times while the store is away. Raises the last `StoreUnavailable`.

    Pauses are drawn from [0, 0.4 x 2^n] seconds, at most 5 ("full jitter": Brooker, Exponential Backoff And Jitter,
    2015), so that many workers do not come back at once.
    """
    for number in range(TRIES - 1):
        try:
            return call()
        except StoreUnavailable:
            longest = min(_LONGEST_SECONDS, FIRST_SECONDS * 2**number)
            sleep(random.uniform(0, longest))  # noqa: S311 - spreads retries
    return call()


class InputReader:
    """Loads what a job needs before it can be prepared."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, job: ClaimedJob) -> dict[str, bytes]:
        """The bytes of every input by role, and of what earlier passes handed on, as far as that is still there.

        Raises `JobFailure` (`input_missing`) for an input that is gone or is not what was accepted, `StoreUnavailable`.
        """
        inputs = {role: self._load(reference) for role, reference in job.inputs.items()}
        for step in job.done_steps:
            with suppress(ObjectMissing):  # it is run again then
                data = insist(lambda key=step.key: self._store.get(key))  # type: ignore[misc]
                if hashlib.sha256(data).hexdigest() == step.sha256:
                    inputs[step_role(step.number)] = data
        return inputs

    def _load(self, reference: InputRef) -> bytes:
        try:
            data = insist(lambda: self._store.get(reference.key))
        except ObjectMissing as error:
            raise JobFailure("the input image is no longer in the store", code="input_missing") from error
        if hashlib.sha256(data).hexdigest() != reference.sha256:
            raise JobFailure("the input image in the store is not the one that was accepted", code="input_missing")
        return data
