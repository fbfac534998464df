"""Rows of many calls in one pass: each call gets what its own pass would have given it, and nothing of the others."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.rows import Call, Stack, call_of, joined, row_by_row, shares, timesteps

torch = pytest.importorskip("torch")

WIDTH = 3
COUNTS = st.lists(st.integers(1, 4), min_size=1, max_size=6)
TIMES = st.one_of(st.integers(0, 999), st.floats(0, 999, width=32))


def call(rows: int, time: float, seed: int = 0, **changes: Any) -> Call:
    """A call like those of diffusers: two tensors of so many rows, one of them in a nest, and a timestep for all."""
    draw = torch.Generator().manual_seed(seed)
    sample, text = (torch.randn(rows, WIDTH, generator=draw) for _ in range(2))
    named = {"added": {"text": text}, "mask": None, "return_dict": False} | changes
    return call_of("unet", (sample, torch.tensor(time)), named)


def model(sample: Any, time: Any, *, added: Any, **_: Any) -> Any:
    """Row by row, as all models are."""
    return (sample * time.reshape(-1, 1) + added["text"],)


def run_together(calls: list[Call]) -> list[Any]:
    args, kwargs = Stack().of(calls)
    return [answer for (answer,) in shares(model(*args, **kwargs), [one.rows for one in calls])]


def run_each(calls: list[Call]) -> list[Any]:
    return [model(*one.args, **one.kwargs)[0] for one in calls]


def equal(ones: list[Any], others: list[Any]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


@given(st.lists(st.tuples(st.integers(1, 4), TIMES), min_size=1, max_size=6))
def test_each_call_gets_its_own_answer(of: list[tuple[int, float]]) -> None:
    calls = [call(rows, time, seed) for seed, (rows, time) in enumerate(of)]
    assert {one.shape for one in calls} == {calls[0].shape}
    assert equal(run_together(calls), run_each(calls))


@given(COUNTS, st.data())
def test_what_is_no_number_stays_in_its_row(counts: list[int], data: st.DataObject) -> None:
    calls = [call(rows, 5, seed) for seed, rows in enumerate(counts)]
    clean = run_together(calls)
    victim = data.draw(st.integers(0, len(calls) - 1))
    row = data.draw(st.integers(0, counts[victim] - 1))
    calls[victim].args[0][row] = data.draw(st.sampled_from([float("nan"), float("inf"), -float("inf")]))
    poisoned = run_together(calls)
    assert not torch.isfinite(poisoned[victim][row]).any()
    for one, other in zip(clean, poisoned, strict=True):
        other[~torch.isfinite(other)] = one[~torch.isfinite(other)]
    assert equal(clean, poisoned)


@given(st.integers(1, 5), TIMES)
def test_a_call_row_by_row_is_the_call(rows: int, time: float) -> None:
    whole = call(rows, time)
    parts = row_by_row(whole)
    assert [one.rows for one in parts] == [1] * rows
    (answer,) = joined([model(*one.args, **one.kwargs) for one in parts])
    assert torch.equal(answer, model(*whole.args, **whole.kwargs)[0])


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 3)), min_size=1, max_size=5))
def test_timesteps_of_any_kind_become_one_per_row_without_rounding(of: list[tuple[int, int]]) -> None:
    kinds = [torch.int64, torch.float32]
    column = [torch.tensor(time, dtype=kinds[number % 2]) for number, (time, _) in enumerate(of)]
    made = timesteps(column, [rows for _, rows in of])
    assert made.dtype == torch.float32
    assert made.tolist() == [float(time) for time, rows in of for _ in range(rows)]


def test_a_call_alone_is_passed_on_untouched() -> None:
    one = call(2, 7)
    args, kwargs = Stack().of([one])
    assert args is one.args
    assert kwargs is one.kwargs
    answer = object()
    assert shares(answer, [2]) == [answer]


@pytest.mark.parametrize(
    "other",
    [
        call(2, 7, mask=torch.zeros(2, WIDTH)),
        call(2, 7, return_dict=True),
        call(2, 7, added={"image": torch.zeros(2, WIDTH)}),
        call(2, 7, added={"text": torch.zeros(2, WIDTH + 1)}),
        call(2, 7, added={"text": torch.zeros(2, WIDTH, dtype=torch.float16)}),
        call_of("prior_prior", call(2, 7).args, call(2, 7).kwargs),
        call_of("unet", call(2, 7).args[:1], call(2, 7).kwargs),
    ],
    ids=[
        "another tensor",
        "another setting",
        "another name",
        "another size",
        "another format",
        "another model",
        "less",
    ],
)
def test_calls_that_differ_in_more_than_values_do_not_share(other: Call) -> None:
    assert other.shape != call(2, 7).shape


def test_calls_of_other_rows_and_timesteps_do_share() -> None:
    assert call(1, 7.5).shape == call(2, 8).shape


def test_a_call_of_tensors_that_disagree_about_its_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="a tensor of 3 rows in a call of 2"):
        call(2, 7, mask=torch.zeros(3, WIDTH))


def test_what_is_the_same_as_last_time_is_not_copied_again() -> None:
    stack, calls = Stack(), [call(1, 5, seed) for seed in range(3)]
    first_args, first = stack.of(calls)
    again = [call_of("unet", (torch.zeros(1, WIDTH), torch.tensor(4)), one.kwargs) for one in calls]
    second_args, second = stack.of(again)
    assert second["added"]["text"] is first["added"]["text"]
    assert not torch.equal(second_args[0], first_args[0])
    _, fewer = stack.of(again[:2])
    assert torch.equal(fewer["added"]["text"], first["added"]["text"][:2])
    _, swapped = stack.of([again[1], again[0]])
    assert torch.equal(swapped["added"]["text"], first["added"]["text"][[1, 0]])


def test_an_answer_keeps_what_holds_it() -> None:
    outputs = pytest.importorskip("diffusers.models.unets.unet_2d_condition")
    answer = outputs.UNet2DConditionOutput(sample=torch.arange(6.0).reshape(3, 2))
    one, other = shares(answer, [1, 2])
    assert type(one) is type(other) is outputs.UNet2DConditionOutput
    assert torch.equal(one.sample, answer.sample[:1])
    assert torch.equal(other.sample, answer.sample[1:])
    whole = joined([one, other])
    assert torch.equal(whole.sample, answer.sample)
