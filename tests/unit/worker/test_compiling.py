"""Compiled UNets: what they answer, and who answers before, without and beyond them."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from torch.nn import Conv2d, Linear, Module, ModuleList

from common.domain.capabilities import Task
from tests.tiny_models import TEXT_WIDTH, load, load_stable_diffusion, save_adapter, save_kandinsky, save_sdxl
from tests.tiny_models.kandinsky import save_kandinsky_prior
from worker.engine.compiling import THREAD, CompiledDenoiser, State, is_compiling
from worker.pipelines.registry import pipeline_for

SECONDS = 60
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Block(Module):
    """What a toy repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(TEXT_WIDTH, 4)

    def forward(self, sample: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return sample + torch.tanh(self.linear(text.mean(1)))[:, :, None, None] * sample


class Toy(Module):
    """Called as a UNet is, and compiled in no time."""

    _repeated_blocks = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = Conv2d(4, 4, 3, padding=1)
        self.blocks = ModuleList([Block(), Block()])

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor, **_rest: Any
    ) -> tuple[torch.Tensor]:
        sample = self.conv(sample) * torch.cos(timestep.float().expand(len(sample)))[:, None, None, None]
        for block in self.blocks:
            sample = block(sample, encoder_hidden_states)
        return (sample,)


class Backend:
    """Compiles nothing, and keeps count: of what it was given, and of the runs of what it gave back."""

    def __init__(self) -> None:
        self.graphs = 0
        self.runs = 0

    def __call__(self, graph: Any, _inputs: Any) -> Callable[..., Any]:
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.runs += 1
            return graph.forward(*args)

        return run


class Door:
    """A backend that lets compilation in and then on when it is told to."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, graph: Any, _inputs: Any) -> Callable[..., Any]:
        self.entered.set()
        assert self.opened.wait(SECONDS)
        forward: Callable[..., Any] = graph.forward
        return forward


@pytest.fixture
def toy() -> Module:
    return Toy().eval()


@pytest.fixture(autouse=True)
def _ends_in_order() -> Iterator[None]:
    """No compilation outlives its test, and none serves another."""
    yield
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join(SECONDS)
            assert not thread.is_alive()
    torch._dynamo.reset()


def call(rows: int, *, size: int = 8, timestep: Any = 500.0, **changes: Any) -> Arguments:
    """The arguments of a call of Stable Diffusion's UNet with random rows."""
    source = torch.Generator().manual_seed(rows)
    latents = torch.randn(rows, 4, size, size, generator=source)
    text = torch.randn(rows, 77, TEXT_WIDTH, generator=source)
    members = {"encoder_hidden_states": text, "timestep_cond": None, "added_cond_kwargs": None, "return_dict": False}
    return (latents, torch.as_tensor(timestep)), members | changes


def answer(model: Any, arguments: Arguments) -> torch.Tensor:
    args, kwargs = arguments
    with torch.inference_mode():
        tensor: torch.Tensor = model(*args, **kwargs)[0]
    return tensor


def warmed(unet: Any, *calls: Arguments, **how: Any) -> CompiledDenoiser:
    """A denoiser that has compiled for these calls."""
    denoiser = CompiledDenoiser(unet, **{"backend": "eager"} | how)
    for arguments in calls:
        answer(denoiser, arguments)
    assert denoiser.settle(SECONDS)
    return denoiser


def test_a_warm_bucket_answers_as_the_plain_unet(tmp_path: Path) -> None:
    unet = load_stable_diffusion(tmp_path / "tiny")["unet"]
    denoiser = warmed(unet, call(3), backend="aot_eager")
    assert denoiser.counts() == {State.WARM: 1}
    assert torch.allclose(answer(denoiser, call(3)), answer(unet, call(3)), atol=1e-5)
    denoiser.close()


def test_the_rows_that_fill_a_bucket_change_nothing_and_are_not_answered(toy: Module) -> None:
    backend = Backend()
    denoiser = warmed(toy, call(4), backend=backend, buckets=[4])
    graphs = backend.graphs
    whole = answer(denoiser, call(4))
    args, kwargs = call(4)
    three = (args[0][:3], args[1]), kwargs | {"encoder_hidden_states": kwargs["encoder_hidden_states"][:3]}
    assert torch.equal(answer(denoiser, three), whole[:3])
    assert backend.graphs == graphs
    assert answer(denoiser, three).shape == (3, 4, 8, 8)
    denoiser.close()


def test_a_row_of_nan_stays_alone_also_when_it_is_the_one_that_is_repeated(toy: Module) -> None:
    (latents, timestep), kwargs = call(3)
    denoiser = warmed(toy, call(3))
    clean = answer(denoiser, call(3))
    latents[2] = torch.nan
    spoilt = answer(denoiser, ((latents, timestep), kwargs))
    assert torch.equal(spoilt[:2], clean[:2])
    assert spoilt[2].isnan().all()
    denoiser.close()


def test_the_plain_unet_serves_to_the_bit_while_a_bucket_is_cold(toy: Module) -> None:
    door, plain = Door(), toy
    denoiser = CompiledDenoiser(plain, backend=door)
    assert torch.equal(answer(denoiser, call(2)), answer(plain, call(2)))
    assert door.entered.wait(SECONDS)
    assert is_compiling()
    assert torch.equal(answer(denoiser, call(2)), answer(plain, call(2)))
    assert denoiser.counts() == {State.WAITING: 1}
    door.opened.set()
    assert denoiser.settle(SECONDS)
    assert denoiser.counts() == {State.WARM: 1}
    denoiser.close()


def test_only_what_is_asked_for_is_compiled_and_each_bucket_and_size_once(toy: Module) -> None:
    backend = Backend()
    denoiser = warmed(toy, call(1), call(1, size=16), backend=backend)
    assert denoiser.counts() == {State.WARM: 2}
    graphs, runs = backend.graphs, backend.runs
    for arguments in (call(1), call(1, size=16)):
        answer(denoiser, arguments)
    assert backend.graphs == graphs
    assert backend.runs > runs
    denoiser.close()


def test_a_timestep_for_all_and_one_per_row_are_the_same_to_a_bucket(toy: Module) -> None:
    denoiser = warmed(toy, call(2, timestep=torch.tensor([7.0, 900.0])))
    for timestep in (7, torch.tensor(7.0), torch.tensor([7.0, 7.0])):
        assert torch.allclose(answer(denoiser, call(2, timestep=timestep)), answer(toy, call(2, timestep=7)))
    assert denoiser.counts() == {State.WARM: 1}
    denoiser.close()


def test_latents_may_lie_in_memory_as_they_like(toy: Module) -> None:
    backend = Backend()
    denoiser = warmed(toy, call(2), backend=backend)
    (latents, timestep), kwargs = call(2)
    graphs = backend.graphs
    turned = answer(denoiser, ((latents.contiguous(memory_format=torch.channels_last), timestep), kwargs))
    assert torch.equal(turned, answer(denoiser, call(2)))
    assert backend.graphs == graphs
    denoiser.close()


def test_more_rows_than_the_largest_bucket_are_left_to_the_plain_unet(toy: Module) -> None:
    denoiser = CompiledDenoiser(toy, buckets=[1, 2], backend="eager")
    assert torch.equal(answer(denoiser, call(3)), answer(toy, call(3)))
    assert denoiser.counts() == {}
    denoiser.close()


def test_no_bucket_is_larger_than_the_most_rows_there_can_be(toy: Module) -> None:
    denoiser = warmed(toy, call(5), call(6), most_rows=6)
    assert denoiser.counts() == {State.WARM: 1}
    denoiser.close()


def test_what_is_asked_for_seldom_is_not_compiled(toy: Module) -> None:
    denoiser = warmed(toy, call(1), call(1), patience=3)
    assert denoiser.counts() == {}
    answer(denoiser, call(1))
    assert denoiser.counts().keys() <= {State.WAITING, State.WARM}
    assert denoiser.settle(SECONDS)
    assert denoiser.counts() == {State.WARM: 1}
    denoiser.close()


def test_what_cannot_be_compiled_is_logged_once_and_left_to_the_plain_unet(toy: Module) -> None:
    def refuse(_graph: Any, _inputs: Any) -> Any:
        refused.append(True)
        raise NotImplementedError("no such kernel")

    refused: list[bool] = []
    announced = threading.Event()
    denoiser = CompiledDenoiser(toy, backend=refuse, announce=announced.set)
    with capture_logs() as logs:
        for _ in range(3):
            assert torch.equal(answer(denoiser, call(2)), answer(toy, call(2)))
            assert denoiser.settle(SECONDS)
    assert announced.wait(SECONDS)
    assert [one["event"] for one in logs] == ["compile.failed"]
    assert len(refused) == 1
    assert denoiser.counts() == {State.GIVEN_UP: 1}
    denoiser.close()


def test_what_is_compiled_and_then_fails_is_left_to_the_plain_unet(toy: Module) -> None:
    def compile_badly(graph: Any, _inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            if is_broken:
                raise AssertionError("wrong number of dimensions")
            return graph.forward(*args)

        return run

    is_broken: list[bool] = []
    denoiser = warmed(toy, call(2), backend=compile_badly)
    is_broken.append(True)
    with capture_logs() as logs:
        assert torch.equal(answer(denoiser, call(2)), answer(toy, call(2)))
    assert [one["event"] for one in logs] == ["compile.failed"]
    assert denoiser.counts() == {State.GIVEN_UP: 1}
    denoiser.close()


def test_too_little_memory_is_the_callers_to_know_of(toy: Module) -> None:
    def compile_large(graph: Any, _inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            if is_full:
                raise torch.OutOfMemoryError("out of memory")
            return graph.forward(*args)

        return run

    is_full: list[bool] = []
    denoiser = warmed(toy, call(2), backend=compile_large)
    is_full.append(True)
    with pytest.raises(torch.OutOfMemoryError):
        answer(denoiser, call(2))
    assert denoiser.counts() == {State.WARM: 1}
    denoiser.close()


def test_the_caller_never_compiles_even_when_what_is_warm_no_longer_fits(toy: Module) -> None:
    backend = Backend()
    denoiser = warmed(toy, call(2), backend=backend)
    graphs, threads = backend.graphs, torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with capture_logs() as logs:
            assert torch.equal(answer(denoiser, call(2)), answer(toy, call(2)))
    finally:
        torch.set_num_threads(threads)
    assert [one["event"] for one in logs] == ["compile.failed"]
    assert backend.graphs == graphs
    denoiser.close()


def test_while_adapters_hang_on_the_unet_it_answers_itself(tmp_path: Path) -> None:
    parts = load_stable_diffusion(tmp_path / "tiny")
    plain, pipeline = parts["unet"], pipeline_for("stable_diffusion").pipeline(parts, Task.TXT2IMG, None)
    denoiser = warmed(plain, call(2))
    before = answer(denoiser, call(2))
    adapter = save_adapter(tmp_path / "lora")
    pipeline.load_lora_weights(str(adapter.parent), weight_name=adapter.name)
    assert torch.equal(answer(denoiser, call(2)), answer(plain, call(2)))
    assert not torch.equal(answer(denoiser, call(2)), before)
    pipeline.unload_lora_weights()
    assert torch.equal(answer(denoiser, call(2)), before)
    denoiser.close()


def test_the_twin_takes_no_memory_for_weights_and_leaves_the_unet_as_it_was(toy: Module) -> None:
    plain = toy
    denoiser = warmed(plain, call(1))
    own = dict(plain.named_parameters())
    shared = [tensor for name, tensor in denoiser._twin.named_parameters() if tensor is own[name]]
    assert len(shared) == len(own)
    assert not [part for part in plain.modules() if part._compiled_call_impl is not None]
    denoiser.close()


@pytest.mark.parametrize(("is_whole", "runs_per_call"), [(False, 2), (True, 1)])
def test_the_unet_is_compiled_by_its_blocks_once_for_all_alike_or_in_one_piece(
    toy: Module, is_whole: bool, runs_per_call: int
) -> None:
    backend = Backend()
    denoiser = warmed(toy, call(1), backend=backend, is_whole=is_whole)
    assert backend.graphs == 1
    runs = backend.runs
    assert torch.allclose(answer(denoiser, call(1)), answer(toy, call(1)), atol=1e-5)
    assert backend.runs == runs + runs_per_call
    denoiser.close()


def test_sdxl_is_compiled_with_what_conditions_it_besides(tmp_path: Path) -> None:
    unet = load(save_sdxl(tmp_path / "sdxl"), "sdxl")["unet"]
    text = torch.randn(3, 77, 2 * TEXT_WIDTH)
    added = {"text_embeds": torch.randn(3, TEXT_WIDTH), "time_ids": torch.full((3, 6), 64.0)}
    arguments = call(3, encoder_hidden_states=text, added_cond_kwargs=added)
    denoiser = warmed(unet, arguments)
    assert denoiser.counts() == {State.WARM: 1}
    assert torch.allclose(answer(denoiser, arguments), answer(unet, arguments), atol=1e-5)
    args, kwargs = arguments
    with torch.inference_mode():
        assert denoiser(*args, **kwargs | {"return_dict": True}).sample.shape == (3, 4, 8, 8)
    denoiser.close()


def test_kandinsky_which_has_no_transformer_blocks_is_compiled_by_its_resnets(tmp_path: Path) -> None:
    prior = save_kandinsky_prior(tmp_path / "prior")
    unet = load(save_kandinsky(tmp_path / "decoder"), "kandinsky", prior=prior)["unet"]
    kwargs = {
        "sample": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor(3),
        "encoder_hidden_states": None,
        "added_cond_kwargs": {"image_embeds": torch.randn(2, TEXT_WIDTH)},
        "return_dict": False,
    }
    backend = Backend()
    denoiser = warmed(unet, ((), kwargs), backend=backend)
    assert backend.graphs
    assert torch.allclose(answer(denoiser, ((), kwargs)), answer(unet, ((), kwargs)), atol=1e-5)
    denoiser.close()


def test_closing_ends_after_what_is_being_compiled_and_drops_what_waits(toy: Module) -> None:
    door = Door()
    denoiser = CompiledDenoiser(toy, backend=door)
    answer(denoiser, call(1))
    assert door.entered.wait(SECONDS)
    answer(denoiser, call(2))
    denoiser.close()
    assert denoiser.settle(SECONDS)
    door.opened.set()
    denoiser.close(SECONDS)
    assert THREAD not in {thread.name for thread in threading.enumerate()}
    assert denoiser.counts() == {State.WARM: 1, State.WAITING: 1}
    assert torch.equal(answer(denoiser, call(2)), answer(toy, call(2)))
    answer(denoiser, call(4))
    assert denoiser.counts() == {State.WARM: 1, State.WAITING: 1}
