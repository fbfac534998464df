"""The gate of every upgrade of diffusers: all that the catalogue can do comes out of the step engine as out of a call.

To the bit when a job is alone, within rounding when it shares every pass with unlike jobs that come and go.
"""

import pytest

from tests.unit.worker.pipelines.conftest import Shop
from tests.unit.worker.pipelines.still import largest_difference
from tests.unit.worker.step_engine.cases import ALL, EVERY, Case, has_steady_decoder
from tests.unit.worker.step_engine.gate import Gate
from tests.unit.worker.step_engine.running import distance, latents_of, picture_of

torch = pytest.importorskip("torch")

COMPANY = 7
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def gate(shop: Shop) -> Gate:
    return Gate(shop, torch.float32)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_a_job_alone_is_the_plain_call_to_the_bit(gate: Gate, case: Case) -> None:
    assert torch.equal(latents_of(gate.alone(case)), gate.plain(case))


@pytest.mark.parametrize("case", ALL[::4], ids=str)
def test_its_picture_is_that_of_the_plain_call_to_the_byte(gate: Gate, case: Case) -> None:
    assert picture_of(gate.alone(case)).tobytes() == gate.plain_picture(case).tobytes()


@pytest.mark.parametrize("case", ALL, ids=str)
def test_a_job_among_seven_unlike_ones_is_the_plain_call_within_rounding(gate: Gate, case: Case) -> None:
    made = gate.in_company(case)
    assert made.facts["batched_with"] >= COMPANY
    assert distance(latents_of(made), gate.plain(case)) <= TOLERANCE


@pytest.mark.parametrize("case", ALL, ids=str)
def test_its_picture_too(gate: Gate, case: Case) -> None:
    made = gate.in_company(case)
    assert largest_difference(picture_of(made), gate.decoded(case, gate.plain(case))) <= 1
    if has_steady_decoder(case):
        pixels = [gate.pixels(case, latents) for latents in (latents_of(made), gate.plain(case))]
        assert float((pixels[0] - pixels[1]).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("weights", EVERY)
def test_what_a_neighbour_could_leak_would_be_seen(gate: Gate, weights: str) -> None:
    """The tolerance is far below what another prompt, seed or schedule changes."""
    for one, other in zip(EVERY[weights], EVERY[weights][1:], strict=False):
        assert distance(gate.plain(one), gate.plain(other)) > 1000 * TOLERANCE
