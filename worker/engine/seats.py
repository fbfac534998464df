"""Who may be in the step engine: admission of newcomers, and parking of the less urgent when it is full."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from common.domain.batching import step_key
from worker.engine.port import Admission, Prepared
from worker.engine.row_budget import RowBudget
from worker.engine.running import Running, rows_of, urgency_of

FULL = Admission(False, "full")


class Seats:
    """The frames of an engine, parked ones included, in the order in which they joined. `now` is for deadlines."""

    def __init__(self, budget: RowBudget, now: Callable[[], datetime]) -> None:
        self._budget = budget
        self._now = now
        self._taken: list[Running] = []

    def __len__(self) -> int:
        return len(self._taken)

    def all(self) -> Sequence[Running]:
        """Everyone, parked or not."""
        return tuple(self._taken)

    def active(self) -> list[Running]:
        """Those who take part in the next tick."""
        return [one for one in self._taken if not one.is_parked]

    def offer(self, frame: Prepared) -> Admission:
        """Whether the frame can join now. A lone frame always can; an urgent one if others can be parked for it."""
        if not self._taken:
            return Admission(True)
        if self._taken[0].frame.params.adapters != frame.params.adapters:
            return Admission(False, "other adapters")
        if self._has_room(frame, self.active()):
            waits = any(one.is_parked and one.urgency >= urgency_of(frame) for one in self._taken)
            return Admission(False, "parked frames come first") if waits else self._keeps_deadlines(frame)
        return FULL if self._who_makes_way(frame) is None else Admission(True)

    def take(self, one: Running) -> None:
        """The frame is in; who has to make way for it is parked."""
        if self._taken and not self._has_room(one.frame, self.active()):
            for other in self._who_makes_way(one.frame) or ():
                other.is_parked = True
        self._taken.append(one)

    def leave(self, gone: Iterable[Running]) -> None:
        """These are out."""
        names = {one.ref for one in gone}
        self._taken = [one for one in self._taken if one.ref not in names]

    def wake(self) -> None:
        """Parked frames go on where there is room, the most urgent first, and one in any case when all are parked."""
        parked = [one for one in self._taken if one.is_parked]
        for one in sorted(parked, key=lambda other: -other.urgency):
            active = self.active()
            if not active or self._has_room(one.frame, active):
                one.is_parked = False

    def _has_room(self, frame: Prepared, active: Sequence[Running]) -> bool:
        key, rows = step_key(frame.params), rows_of(frame)
        alike = sum(rows_of(one.frame) for one in active if one.key == key)
        return (
            sum(rows_of(one.frame) for one in active) + rows <= self._budget.most_rows
            and (not alike or alike + rows <= self._budget.limit(key))
        )  # fmt: skip

    def _who_makes_way(self, frame: Prepared) -> list[Running] | None:
        """The least urgent frames to park so that this one fits, those with the most before them first; or None."""
        staying, leaving = self.active(), []
        lesser = [one for one in staying if one.urgency < urgency_of(frame)]
        for one in sorted(lesser, key=lambda other: (other.urgency, -other.left)):
            staying.remove(one)
            leaving.append(one)
            if not staying or self._has_room(frame, staying):
                return leaving
        return None

    def _keeps_deadlines(self, frame: Prepared) -> Admission:
        """Refused where a slower tick would cost a running job a deadline that it meets now."""
        key = step_key(frame.params)
        alike = [one for one in self.active() if one.key == key]
        rows = sum(rows_of(one.frame) for one in alike)
        now, then = self._budget.seconds(key, rows), self._budget.seconds(key, rows + rows_of(frame))
        if now is None or then is None:
            return Admission(True)
        for one in alike:
            slack = (one.frame.job.deadline_at - self._now()).total_seconds()
            if one.left * now <= slack < one.left * then:
                return Admission(False, "a running job would miss its deadline")
        return Admission(True)
