"""Many calls of one model as one call over all their rows, and its answer taken apart again.

A row is one entry along the first dimension: a frame has one, or two with guidance. Rows are put side by side and never
mixed by arithmetic, so that a NaN stays in its own.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Call:
    """A call that a frame waits for: which shared model, and with what.

    `rows` is the length of its tensors along the first dimension; calls of equal `shape` may share a forward pass.
    """

    model: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    rows: int
    shape: Hashable


def call_of(model: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """The call with its rows counted and its shape told. Its first tensor that has dimensions has the rows."""
    rows = next(len(leaf) for leaf in _leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim)
    return Call(model, args, kwargs, rows, (model, _form((args, kwargs), rows)))


class Stack:
    """Puts the rows of calls of one shape together.

    Tensors that were put together last time and have not changed since, such as prompts, are not copied again.
    """

    def __init__(self) -> None:
        self._last: dict[int, tuple[Sequence[Tensor], Tensor]] = {}

    def of(self, calls: Sequence[Call]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The arguments of one call for all; a call alone keeps its own, untouched."""
        if len(calls) == 1:
            return calls[0].args, calls[0].kwargs
        columns = zip(*(_leaves((call.args, call.kwargs)) for call in calls), strict=True)
        counts = [call.rows for call in calls]
        stacked = iter([self._column(number, column, counts) for number, column in enumerate(columns)])
        args, kwargs = _rebuilt((calls[0].args, calls[0].kwargs), lambda _: next(stacked))
        return args, kwargs

    def _column(self, number: int, column: Sequence[Any], counts: Sequence[int]) -> Any:
        first = column[0]
        if not isinstance(first, Tensor):
            return first
        if not first.ndim:
            return timesteps(column, counts)
        tensors, stacked = self._last.get(number, ((), first))
        if len(tensors) != len(column) or any(one is not other for one, other in zip(tensors, column, strict=True)):
            stacked = torch.cat(list(column))
            self._last[number] = (column, stacked)
        return stacked


def timesteps(column: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """One timestep per row, as float32, which is exact for all that schedulers use."""
    return torch.cat([one.float().expand(count) for one, count in zip(column, counts, strict=True)])


def shares(answer: Any, counts: Sequence[int]) -> list[Any]:
    """The answer of one call for all, taken apart: tensors by rows, whatever holds them kept."""
    if len(counts) == 1:
        return [answer]
    pieces = [
        torch.split(leaf, list(counts)) if isinstance(leaf, Tensor) else [leaf] * len(counts)
        for leaf in _leaves(answer)
    ]
    return [_share(answer, [piece[number] for piece in pieces]) for number in range(len(counts))]


def row_by_row(call: Call) -> list[Call]:
    """The call as calls of one row each, for a device with too little memory for more."""
    return [call_of(call.model, *_rebuilt((call.args, call.kwargs), partial(_row, row))) for row in range(call.rows)]


def joined(answers: Sequence[Any]) -> Any:
    """The answers to calls of `row_by_row` as one."""
    columns = [torch.cat(list(column)) for column in zip(*(_leaves(answer) for answer in answers), strict=True)]
    return _share(answers[0], columns)


def _share(answer: Any, leaves: Iterable[Any]) -> Any:
    rest = iter(leaves)
    return _rebuilt(answer, lambda _: next(rest))


def _row(row: int, leaf: Any) -> Any:
    return leaf[row : row + 1] if isinstance(leaf, Tensor) and leaf.ndim else leaf


def _form(value: Any, rows: int) -> Hashable:
    """What calls that share a pass have in common: names, their order, and the shape of each leaf."""
    if isinstance(value, Mapping):
        return tuple((name, _form(one, rows)) for name, one in value.items())
    if isinstance(value, (tuple, list)):
        return tuple(_form(one, rows) for one in value)
    return _shape(value, rows)


def _shape(leaf: Any, rows: int) -> Hashable:
    if not isinstance(leaf, Tensor):
        return repr(leaf)
    if not leaf.ndim:
        return "timestep"
    if len(leaf) != rows:
        raise ValueError(f"a tensor of {len(leaf)} rows in a call of {rows}")
    return (leaf.dtype, *leaf.shape[1:])


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _leaves(one)
    else:
        yield value


def _rebuilt(value: Any, leaf_for: Callable[[Any], Any]) -> Any:
    """The same nest of mappings and sequences with other leaves, asked for in the order of `_leaves`."""
    if isinstance(value, Mapping):
        return type(value)(**{name: _rebuilt(one, leaf_for) for name, one in value.items()})
    if isinstance(value, (tuple, list)):
        return type(value)(_rebuilt(one, leaf_for) for one in value)
    return leaf_for(value)
