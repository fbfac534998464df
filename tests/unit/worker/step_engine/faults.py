"""Faults of the shared models of an engine, put in from outside."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Check = Callable[[Any], None]


@contextmanager
def before_each_pass(model: Any, check: Check) -> Iterator[None]:
    """Calls `check` with the prompts of each forward pass, one per row; what it raises the model raises."""
    hook = model.register_forward_pre_hook(
        lambda _module, _args, kwargs: check(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def poisoned(model: Any, row: int, value: float) -> Iterator[None]:
    """One row of the answer of each forward pass within is this value everywhere."""

    def poison(_module: Any, _args: Any, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        answer[0][row] = value
        return answer

    hook = model.register_forward_hook(poison)
    try:
        yield
    finally:
        hook.remove()


def unless_at_most(rows: int, error: Exception) -> Check:
    """Fails for more rows."""

    def check(prompts: Any) -> None:
        if len(prompts) > rows:
            raise error

    return check


def unless_without(text: Any, error: Exception) -> Check:
    """Fails when a row has this prompt, given as its embedding (window, width)."""

    def check(prompts: Any) -> None:
        if (prompts == text).flatten(1).all(dim=1).any():
            raise error

    return check


def once(error: Exception) -> Check:
    """Fails the first time."""
    errors = [error]

    def check(_prompts: Any) -> None:
        if errors:
            raise errors.pop()

    return check
