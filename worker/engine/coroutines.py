"""A diffusers call as a coroutine: it stops wherever it needs a shared model, and goes on with the model's answer.

Nothing of diffusers is written anew for it. The call runs in a greenlet over stand-ins for the shared models; calling
one of them suspends the greenlet. All coroutines of an engine belong to one thread, and one of them runs at a time.
"""

from collections.abc import Callable
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from worker.engine.rows import Call


class Coroutine:
    """Runs `work` until it is done or waits for a model: `waits_for` is what it waits for, None once it is done.

    `result` is what `work` returned. What `work` raises comes out of `start` and `resume`.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self._greenlet = greenlet(work)
        self.waits_for: Call | None = None
        self.result: Any = None

    def start(self) -> None:
        """Run to the first call of a shared model."""
        self._note(self._greenlet.switch())

    def resume(self, answer: Any) -> None:
        """Go on with what the model answered."""
        self._note(self._greenlet.switch(answer))

    def abandon(self) -> None:
        """Run no further; `finally` clauses of the work still run."""
        self.waits_for = None
        if self._greenlet:
            self._greenlet.throw(GreenletExit)

    def _note(self, value: Any) -> None:
        is_done = self._greenlet.dead
        self.waits_for = None if is_done else value
        self.result = value if is_done else None


def ask(call: Call) -> Any:
    """Suspend the coroutine that runs now until its engine answers this call. Raises RuntimeError outside of one."""
    parent = getcurrent().parent
    if parent is None:
        raise RuntimeError("a shared model was called outside of a coroutine")
    return parent.switch(call)
