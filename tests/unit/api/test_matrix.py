"""A matrix as lines: every one, in order, or a refusal with the count."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.matrix import Matrix, check_matrix, expand_matrix
from common.domain.errors import Invalid, Problem

NAMES = ["prompt", "negative_prompt", "strength", "seed", "guidance_scale", "image"]


def problems(zipped: dict[str, Any], crossed: dict[str, Any]) -> list[Problem]:
    with pytest.raises(Invalid) as caught:
        check_matrix(Matrix(zipped, crossed))
    return list(caught.value.problems)


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    names = draw(st.permutations(NAMES))
    at = draw(st.integers(0, 3))
    rows = draw(st.integers(1, 5))
    zipped = {name: [f"{name}{number}" for number in range(rows)] for name in names[:at]}
    crossed = {name: list(range(draw(st.integers(1, 4)))) for name in names[at : at + draw(st.integers(0, 3))]}
    if not zipped and not crossed:
        crossed = {"seed": [1]}
    return Matrix(zipped, crossed)


@given(matrices())
def test_every_row_meets_every_combination_once_in_order(matrix: Matrix) -> None:
    check_matrix(matrix)

    lines = list(expand_matrix(matrix))

    rows = range(len(next(iter(matrix.zipped.values())))) if matrix.zipped else [0]
    combinations = list(product(*matrix.crossed.values()))
    wanted = [
        {name: values[row] for name, values in matrix.zipped.items()}
        | dict(zip(matrix.crossed, combination, strict=True))
        for row in rows
        for combination in combinations
    ]
    assert lines == wanted
    assert len(lines) == matrix.rows * matrix.combinations


def test_the_last_field_changes_fastest_and_the_rows_slowest() -> None:
    matrix = Matrix({"prompt": ["a", "b"]}, {"strength": [0.3, 0.6], "seed": [1, 2]})

    lines = [tuple(line.values()) for line in expand_matrix(matrix)]

    assert lines[:5] == [("a", 0.3, 1), ("a", 0.3, 2), ("a", 0.6, 1), ("a", 0.6, 2), ("b", 0.3, 1)]


def test_custom_ids_are_numbered_where_a_row_becomes_several_lines() -> None:
    several = Matrix({"custom_id": ["x", "y"]}, {"seed": [1, 2]})
    one = Matrix({"custom_id": ["x", "y"]}, {"seed": [1]})

    assert [line["custom_id"] for line in expand_matrix(several)] == ["x-0", "x-1", "y-0", "y-1"]
    assert [line["custom_id"] for line in expand_matrix(one)] == ["x", "y"]


def test_lists_of_unequal_lengths_are_refused_with_both_counts() -> None:
    (problem,) = problems({"prompt": ["a", "b", "c"], "seed": [1, 2]}, {})

    assert problem.pointer == "/matrix/zip/seed"
    assert "prompt has 3, seed has 2" in problem.detail


def test_more_lines_than_a_batch_has_are_refused_with_the_count() -> None:
    (problem,) = problems({"prompt": ["a"] * 1001}, {"seed": list(range(100))})

    assert (problem.pointer, problem.allowed) == ("/matrix", {"maximum": 100_000})
    assert "100100 lines" in problem.detail


def test_a_hundred_thousand_lines_are_not_too_many() -> None:
    check_matrix(Matrix({"prompt": ["a"] * 1000}, {"seed": list(range(100))}))


@pytest.mark.parametrize(
    ("zipped", "crossed", "pointer", "code"),
    [
        ({}, {}, "/matrix", "validation_error"),
        ({"strenght": [1]}, {}, "/matrix/zip/strenght", "unknown_field"),
        ({}, {"strenght": [1]}, "/matrix/product/strenght", "unknown_field"),
        ({"priority": ["low"]}, {}, "/matrix/zip/priority", "validation_error"),
        ({}, {"webhook": [{}]}, "/matrix/product/webhook", "validation_error"),
        ({}, {"custom_id": ["a"]}, "/matrix/product/custom_id", "validation_error"),
        ({"seed": [1]}, {"seed": [2]}, "/matrix/product/seed", "validation_error"),
        ({"a/b~": [1]}, {}, "/matrix/zip/a~1b~0", "unknown_field"),
    ],
)
def test_fields_that_no_line_can_have_are_refused(
    zipped: dict[str, Any], crossed: dict[str, Any], pointer: str, code: str
) -> None:
    (problem,) = problems(zipped, crossed)

    assert (problem.pointer, problem.code) == (pointer, code)
