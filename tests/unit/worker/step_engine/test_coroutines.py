"""Work that stops where it needs an answer."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest

from worker.engine.coroutines import Coroutine, ask
from worker.engine.rows import Call


def question(name: str) -> Call:
    return Call(name, (), {}, 1, name)


def asking(*names: str) -> Callable[[], list[Any]]:
    return lambda: [ask(question(name)) for name in names]


def test_work_stops_at_each_question_and_goes_on_with_the_answer() -> None:
    coroutine = Coroutine(asking("a", "b"))
    seen: list[tuple[Call | None, Any]] = []
    coroutine.start()
    for answer in (1, 2):
        seen.append((coroutine.waits_for, coroutine.result))
        coroutine.resume(answer)
    seen.append((coroutine.waits_for, coroutine.result))
    assert seen == [(question("a"), None), (question("b"), None), (None, [1, 2])]


def test_work_without_a_question_is_done_at_once() -> None:
    coroutine = Coroutine(lambda: "done")
    coroutine.start()
    assert (coroutine.waits_for, coroutine.result) == (None, "done")


def test_coroutines_that_take_turns_get_their_own_answers() -> None:
    ones = [Coroutine(asking("a", "b")) for _ in range(5)]
    for one in ones:
        one.start()
    for _ in range(2):
        for number, one in enumerate(reversed(ones)):
            one.resume(number)
    assert [one.result for one in ones] == [[4, 4], [3, 3], [2, 2], [1, 1], [0, 0]]


def test_what_work_raises_comes_out_of_start_and_of_resume() -> None:
    def fail() -> None:
        ask(question("a"))
        raise ValueError("no")

    with pytest.raises(ZeroDivisionError):
        Coroutine(lambda: 1 // 0).start()
    coroutine = Coroutine(fail)
    coroutine.start()
    with pytest.raises(ValueError, match="no"):
        coroutine.resume(None)
    coroutine.abandon()


def test_abandoned_work_runs_its_finally_clauses_and_nothing_else() -> None:
    seen: list[str] = []

    def work() -> None:
        try:
            ask(question("a"))
            seen.append("went on")
        except Exception:
            seen.append("took it for an error")
        finally:
            seen.append("tidied up")

    coroutine = Coroutine(work)
    coroutine.start()
    coroutine.abandon()
    coroutine.abandon()
    assert seen == ["tidied up"]
    assert coroutine.waits_for is None


def test_work_that_never_began_can_be_abandoned() -> None:
    seen: list[str] = []
    Coroutine(lambda: seen.append("ran")).abandon()
    assert seen == []


def test_abandoned_work_lets_go_of_what_it_held() -> None:
    class Held:
        """Something that can be referred to weakly."""

    def work(held: Held) -> None:
        ask(question("a"))
        assert held

    held = Held()
    seen = weakref.ref(held)
    coroutine = Coroutine(lambda held=held: work(held))  # type: ignore[misc]
    coroutine.start()
    coroutine.abandon()
    del coroutine, held
    assert seen() is None


def test_a_question_outside_of_a_coroutine_is_a_mistake() -> None:
    with pytest.raises(RuntimeError, match="outside of a coroutine"):
        ask(question("a"))
