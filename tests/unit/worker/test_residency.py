"""Which models stay loaded."""

import weakref
from pathlib import Path

import pytest

from common.domain.catalogue import Catalogue, ModelCard
from common.domain.errors import JobFailure
from common.settings import Settings
from tests.tiny_models import card_of
from worker.checkpoints import Shelf
from worker.engine.building import EngineBuilder
from worker.engine.stub_engine import StubEngine
from worker.residency import Residency


class Builder:
    """Builds stub engines and remembers which were closed."""

    def __init__(self, sizes: dict[str, int] | None = None) -> None:
        self.sizes = sizes or {}
        self.built: list[str] = []
        self.closed: list[str] = []

    def __call__(self, card: ModelCard) -> StubEngine:
        if card.id == "broken":
            raise JobFailure("not there", code="model_unavailable")
        self.built.append(card.id)
        builder = self

        class Engine(StubEngine):
            def close(self) -> None:
                builder.closed.append(card.id)

            def weight_bytes(self) -> int:
                return builder.sizes.get(card.id, 100)

        return Engine()


def card(model_id: str, family: str = "stub") -> ModelCard:
    return card_of(Path("nowhere"), id=model_id, family=family)


def test_a_model_is_loaded_once() -> None:
    builder = Builder()
    residency = Residency(builder, budget_bytes=100)
    assert residency.engine_for(card("a")) is residency.engine_for(card("a"))
    assert builder.built == ["a"]
    assert residency.resident() == ("a",)


def test_the_least_recently_used_model_makes_room_before_the_next_is_loaded() -> None:
    builder = Builder()
    residency = Residency(builder, budget_bytes=200)
    for model_id in ("a", "b", "a", "c"):
        residency.engine_for(card(model_id))
    assert builder.closed == ["b"]
    assert residency.resident() == ("a", "c")


def test_an_evicted_engine_is_not_kept_alive() -> None:
    residency = Residency(Builder(), budget_bytes=100)
    engine = weakref.ref(residency.engine_for(card("a")))
    residency.engine_for(card("b"))
    assert engine() is None


def test_a_model_that_cannot_be_loaded_leaves_room_for_the_next() -> None:
    residency = Residency(Builder(), budget_bytes=100)
    with pytest.raises(JobFailure):
        residency.engine_for(card("broken"))
    residency.engine_for(card("a"))
    assert residency.resident() == ("a",)


def test_clearing_closes_all() -> None:
    builder = Builder()
    residency = Residency(builder, budget_bytes=300)
    for model_id in ("a", "b"):
        residency.engine_for(card(model_id))
    residency.clear()
    assert (builder.closed, residency.resident()) == (["a", "b"], ())


def test_a_model_larger_than_the_budget_is_loaded_alone() -> None:
    builder = Builder()
    residency = Residency(builder, budget_bytes=50)
    for model_id in ("a", "b", "a"):
        residency.engine_for(card(model_id))
    assert (builder.closed, residency.resident()) == (["a", "b"], ("a",))


def test_a_model_whose_size_is_known_evicts_no_more_than_it_needs() -> None:
    builder = Builder({"small": 10, "large": 90})
    residency = Residency(builder, budget_bytes=120)
    for model_id in ("small", "large", "a", "small"):
        residency.engine_for(card(model_id))
    assert builder.closed == ["small", "large"]
    assert residency.resident() == ("a", "small")


def test_busy_models_are_never_evicted_even_when_they_are_the_oldest() -> None:
    builder = Builder()
    residency = Residency(builder, budget_bytes=300)
    for model_id in ("busy", "b", "c", "d"):
        residency.engine_for(card(model_id), busy=("busy",) if "busy" in builder.built else ())
    assert (builder.closed, {*residency.resident()}) == (["b"], {"busy", "c", "d"})


def test_a_model_that_turns_out_larger_than_expected_evicts_no_busy_one() -> None:
    builder = Builder({"a": 10, "b": 10, "large": 1000})
    residency = Residency(builder, budget_bytes=100)
    for model_id in ("a", "b"):
        residency.engine_for(card(model_id))
    residency.engine_for(card("large"), busy=("a",))
    assert (builder.closed, residency.resident()) == (["b"], ("a", "large"))


def test_a_model_that_cannot_be_loaded_beside_busy_ones_leaves_them_alone() -> None:
    builder = Builder()
    residency = Residency(builder, budget_bytes=200)
    for model_id in ("busy", "idle"):
        residency.engine_for(card(model_id))
    with pytest.raises(JobFailure):
        residency.engine_for(card("broken"), busy=("busy",))
    assert (builder.closed, residency.resident()) == (["idle"], ("busy",))


def test_there_is_room_for_what_is_loaded_and_beside_nothing_busy_for_anything() -> None:
    residency = Residency(Builder({"a": 80}), budget_bytes=100)
    assert residency.has_room_for(card("unknown"), ())
    residency.engine_for(card("a"))
    assert residency.has_room_for(card("a"), ("a",))
    assert residency.has_room_for(card("unknown"), ())


def test_beside_busy_models_there_is_room_for_what_fits_without_evicting_them() -> None:
    """What is idle counts for nothing, and an unknown model for as much as the largest known."""
    residency = Residency(Builder({"large": 60, "small": 30, "tiny": 10}), budget_bytes=100)
    for model_id in ("tiny", "small", "large"):
        residency.engine_for(card(model_id))
    assert residency.resident() == ("tiny", "small", "large")
    assert residency.has_room_for(card("unknown"), ("small",))
    assert residency.has_room_for(card("unknown"), ("small", "tiny"))
    assert not residency.has_room_for(card("unknown"), ("large",))
    residency.engine_for(card("unknown"), busy=("small", "tiny"))
    assert residency.resident() == ("small", "tiny", "unknown")
    assert not residency.has_room_for(card("large"), ("small", "unknown"))


def test_a_stub_card_needs_no_device_and_an_unknown_family_is_named() -> None:
    settings = Settings(batch_frames=3, stub_step_seconds=0.5)
    builder = EngineBuilder(device=None, shelf=Shelf(), catalogue=Catalogue({}), settings=settings)
    assert builder(card("a")).load().max_frames == 3
    with pytest.raises(ValueError, match="needs a device"):
        builder(card("b", family="stable_diffusion"))
