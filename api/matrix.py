"""A matrix of fields as the lines of a manifest. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Final

from api.manifests import too_many_lines
from common.domain.batch import MOST_LINES
from common.domain.errors import Invalid, Problem
from common.requests.lines import wrong_names
from common.requests.validation import MAX_PROBLEMS, pointer_to

POINTER: Final = "/matrix"

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Values by field: those of `zipped` go together, each of their rows with every combination of `crossed`."""

    zipped: Columns
    crossed: Columns

    @property
    def rows(self) -> int:
        """How many rows the zipped fields have; one of nothing where there are none."""
        return len(next(iter(self.zipped.values()))) if self.zipped else 1

    @property
    def combinations(self) -> int:
        """How many lines each row becomes."""
        return prod(len(values) for values in self.crossed.values())


def check_matrix(matrix: Matrix) -> None:
    """Raises `Invalid` for names that no line may have, for lists of unequal lengths, and for too many lines."""
    problems = [
        *wrong_names(matrix.zipped, f"{POINTER}/zip", ("custom_id",)),
        *_crossed_names(matrix),
        *_unequal(matrix.zipped),
    ]
    if not matrix.zipped and not matrix.crossed:
        problems.append(Problem(POINTER, "validation_error", "matrix needs fields in zip or in product"))
    if problems:
        raise Invalid(problems[:MAX_PROBLEMS])
    lines = matrix.rows * matrix.combinations
    if lines > MOST_LINES:
        raise too_many_lines(POINTER, lines, "the matrix makes")


def expand_matrix(matrix: Matrix) -> Iterator[dict[str, Any]]:
    """The lines of a matrix that was checked, row by row, the last field of the product changing fastest.

    Where a row becomes several lines, its `custom_id` gets the number of each: `-0`, `-1` and so on.
    """
    several = matrix.combinations > 1
    for row in zip(*matrix.zipped.values(), strict=True) if matrix.zipped else [()]:
        members = dict(zip(matrix.zipped, row, strict=True))
        for number, values in enumerate(product(*matrix.crossed.values())):
            line = members | dict(zip(matrix.crossed, values, strict=True))
            if several and isinstance(members.get("custom_id"), str):
                line["custom_id"] = f"{members['custom_id']}-{number}"
            yield line


def _crossed_names(matrix: Matrix) -> list[Problem]:
    pointer = f"{POINTER}/product"
    problems = wrong_names({name: 0 for name in matrix.crossed if name != "custom_id"}, pointer)
    if "custom_id" in matrix.crossed:
        detail = "custom_id is of one line; it goes into zip, where each line of a product gets its number behind it"
        problems.append(Problem(f"{pointer}/custom_id", "validation_error", detail))
    twice = [name for name in matrix.crossed if name in matrix.zipped and name != "custom_id"]
    for name in twice:
        detail = f"{name} is in zip and in product; it can be in one of them"
        problems.append(Problem(pointer + pointer_to([name]), "validation_error", detail))
    return problems


def _unequal(columns: Columns) -> list[Problem]:
    """Every list that is not as long as the first."""
    lengths = {name: len(values) for name, values in columns.items()}
    first = next(iter(lengths), "")
    return [
        Problem(
            f"{POINTER}/zip{pointer_to([name])}",
            "validation_error",
            f"zipped fields have equally many values: {first} has {lengths[first]}, {name} has {length}",
        )
        for name, length in lengths.items()
        if length != lengths[first]
    ]
