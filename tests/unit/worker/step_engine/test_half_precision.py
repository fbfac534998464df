"""The same in the number formats of GPUs, against the plain call in the same format."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.step_engine.cases import ALL, Case, has_steady_decoder
from tests.unit.worker.step_engine.gate import Gate
from tests.unit.worker.step_engine.running import decibels, latent_decibels, latents_of, picture_of

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore:.*upcast_vae.*:FutureWarning")

LEAST_DECIBELS = 40
# The calls of 2.1 are those of 1.5.
CASES = [case for case in ALL if case.weights != "stable_diffusion_2"]


def formats(**ordinary: int) -> list[Any]:
    """All cases in both formats, of which every n-th of a format is an ordinary test and the rest takes its time.

    Processors do float16 slowly: only those of two checkpoints are ordinary.
    """
    return [
        pytest.param(dtype, case, id=f"{dtype}-{case}", marks=() if is_ordinary else pytest.mark.chaos)
        for dtype, n in ordinary.items()
        for number, case in enumerate(CASES)
        for is_ordinary in [number % n == 0 and (dtype != "float16" or case.weights in {"stable_diffusion", "sdxl"})]
    ]


@pytest.fixture(scope="module")
def gate_of(shop: Shop) -> Callable[[str], Gate]:
    return cache(lambda dtype: Gate(shop, getattr(torch, dtype)))


@pytest.mark.parametrize(("dtype", "case"), formats(bfloat16=4, float16=4))
def test_a_job_alone_is_the_plain_call_to_the_bit(gate_of: Callable[[str], Gate], dtype: str, case: Case) -> None:
    gate = gate_of(dtype)
    assert torch.equal(latents_of(gate.alone(case)), gate.plain(case))


@pytest.mark.parametrize(("dtype", "case"), formats(bfloat16=1, float16=1))
def test_a_job_in_company_is_the_plain_call_within_40_decibels(
    gate_of: Callable[[str], Gate], dtype: str, case: Case
) -> None:
    gate = gate_of(dtype)
    made, expected = gate.in_company(case), gate.plain(case)
    assert made.facts["batched_with"] >= 7
    assert latent_decibels(latents_of(made), expected) >= LEAST_DECIBELS
    if has_steady_decoder(case):
        assert decibels(picture_of(made), gate.decoded(case, expected)) >= LEAST_DECIBELS
