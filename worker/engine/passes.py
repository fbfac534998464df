"""Forward passes over the frames that wait for a model: who shares one, and what happens when it fails."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import structlog

from common.domain.errors import JobFailure
from worker.engine.decoding import CHUNK_PIXELS, NO_MEMORY
from worker.engine.measuring import Gauge
from worker.engine.port import DeviceLost
from worker.engine.row_budget import RowBudget
from worker.engine.rows import Stack, joined, row_by_row, shares
from worker.engine.running import Running, count_pass
from worker.engine.stand_ins import DENOISERS, ENCODE
from worker.failures import is_device_lost, is_out_of_memory
from worker.memory import release_memory

Run = Callable[..., Any]
Group = Sequence[Running]

_log = structlog.get_logger()


class FastRun(Protocol):
    """Answers as a shared model does, faster and with slightly other rounding."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As of the model."""

    def close(self) -> None:
        """It is not used again."""


class Passes:
    """Runs the shared models of one engine. `shared` are the models by the names in calls; `fast` may stand in for
    some of them, with slightly other rounding, wherever a pass is not a deterministic job's. While `is_disturbed`, as
    by a compilation, what a pass takes says nothing.
    """

    def __init__(
        self,
        shared: Mapping[str, Run],
        *,
        budget: RowBudget,
        gauge: Gauge,
        fast: Mapping[str, FastRun] | None = None,
        is_disturbed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._shared = shared
        self._fast: Mapping[str, Run] = {**shared, **(fast or {})}
        self._budget = budget
        self._gauge = gauge
        self._is_disturbed = is_disturbed
        self._stacks: dict[Any, Stack] = {}

    def groups(self, active: Iterable[Running], models: Sequence[str]) -> list[Group]:
        """Those who wait for one of these models, by what can share a pass; no more in one than fit the memory.

        A deterministic frame is by itself.
        """
        alike: dict[Any, list[Running]] = {}
        for one in active:
            if not one.is_through and one.call.model in models:
                alike.setdefault(_company(one), []).append(one)
        if models == DENOISERS:
            self._stacks = {name: self._stacks.get(name, Stack()) for name in alike}
        return [portion for whole in alike.values() for portion in _portions(whole, self._most(whole[0]))]

    def answers(self, group: Group) -> list[Any]:
        """What the model answers each frame, or the exception that remains when the frame is alone.

        A pass that fails is run again by halves, which finds the frame that it fails for; a step that does not fit
        lowers the budget besides, and a lone frame that does not fit is run row by row. Raises `DeviceLost`.
        """
        try:
            return self._pass(group)
        except Exception as error:  # the edge of one pass; no frame has taken anything from it
            _log.warning("engine.pass_failed", frames=len(group), exc_info=error)
            failure = error.with_traceback(None)  # which would keep the pass's tensors alive
        if is_device_lost(failure):
            raise DeviceLost(str(failure)) from failure
        if is_out_of_memory(failure):
            release_memory()
            if group[0].call.model in DENOISERS:  # the rows of an encoding are other rows
                self._budget.lower(group[0].key, sum(one.rows for one in group) // 2)
            if len(group) == 1:
                return [self._answer_row_by_row(group[0])]
        if len(group) == 1:
            return [failure]
        half = (len(group) + 1) // 2
        return self.answers(group[:half]) + self.answers(group[half:])

    def _most(self, one: Running) -> int:
        """The most rows of a pass: for pictures what a decoder takes, else what fits."""
        if one.call.model == ENCODE:
            return max(1, CHUNK_PIXELS // (one.frame.params.width * one.frame.params.height))
        return self._budget.fitting(one.key)

    def _pass(self, group: Group) -> list[Any]:
        model, key = group[0].call.model, group[0].key
        run = (self._shared if group[0].is_alone else self._fast)[model]
        args, kwargs = self._stacks.get(_company(group[0]), Stack()).of([one.call for one in group])
        rows = [one.rows for one in group]

        def note(seconds: float, used_bytes: int | None) -> None:
            if model == DENOISERS[0] and not self._is_disturbed():
                self._budget.note(key, sum(rows), seconds, used_bytes)

        weigh = model == DENOISERS[0] and self._budget.is_unmeasured(key, sum(rows))
        answer = self._gauge.run(lambda: run(*args, **kwargs), note, weigh=weigh)
        if model in DENOISERS:
            count_pass(group)
        return shares(answer, rows)

    def _answer_row_by_row(self, one: Running) -> Any:
        run = self._shared[one.call.model]
        try:
            answer = joined([run(*row.args, **row.kwargs) for row in row_by_row(one.call)])
        except Exception as error:  # the edge of one frame
            if not is_out_of_memory(error):
                return error
        else:
            if one.call.model in DENOISERS:
                count_pass([one])
            return answer
        release_memory()
        return JobFailure(NO_MEMORY, code="out_of_memory")


def _company(one: Running) -> tuple[Any, ...]:
    return one.call.shape, one.key, one.ref if one.is_alone else None


def _portions(whole: Sequence[Running], most_rows: int) -> list[Group]:
    portions: list[list[Running]] = [[]]
    for one in whole:
        if portions[-1] and sum(other.rows for other in portions[-1]) + one.rows > most_rows:
            portions.append([])
        portions[-1].append(one)
    return list(portions)
