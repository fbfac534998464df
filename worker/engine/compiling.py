"""Compiled UNets, one number of rows after the other, behind the scenes: the plain UNet serves until each is done.

What is compiled is a twin that shares the UNet's weights, so the UNet itself stays as it was. Rows are padded to a few
numbers, the buckets, because each number is compiled by itself; a row is padded with, never mixed into another.
"""

import atexit
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import chain
from threading import Condition, Lock, Thread
from time import perf_counter
from typing import Any
from weakref import WeakSet

import structlog
import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from worker.failures import is_device_lost, is_out_of_memory
from worker.memory import release_memory

Backend = str | Callable[..., Any]

BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32)
# Sizes come from requests: without a bound, odd ones would be compiled for ever.
MOST_VARIANTS = 64
MOST_COUNTED = 1024
# Per kind of block torch stops at 8 variants of its own accord; a block comes in up to 14 shapes within one UNet.
RECOMPILE_LIMIT = 16 * MOST_VARIANTS
THREAD = "compiler"
EXIT_SECONDS = 60.0

# Held while something is compiled: by one thread of the process at a time, whichever model it is for.
_compiling = Lock()
_at_work: "WeakSet[CompiledDenoiser]" = WeakSet()

_log = structlog.get_logger()


class State(StrEnum):
    """What has become of a variant."""

    WAITING = "waiting"
    WARM = "warm"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor with any number of rows: its number format, and the shape of one row."""

    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Variant:
    """What is compiled at a time: calls that differ in nothing but values, padded to `rows`.

    `leaves` are `Rows`, or what is no tensor as it is.
    """

    rows: int
    nest: TreeSpec
    leaves: tuple[Any, ...]

    def call(self, device: torch.device, given: Sequence[Any] | None = None) -> Any:
        """Positional and keyword arguments out of these leaves, or of zeros: laid out the same way every time.

        A timestep without dimensions becomes one per row; other tensors repeat their last row where they have fewer.
        """
        given = self.leaves if given is None else given
        pairs = zip(self.leaves, given, strict=True)
        whole = [self._whole(one, leaf, device) if isinstance(one, Rows) else leaf for one, leaf in pairs]
        return tree_unflatten(whole, self.nest)

    def _whole(self, rows: Rows, leaf: Any, device: torch.device) -> Tensor:
        whole = torch.empty((self.rows, *rows.shape), dtype=rows.dtype, device=device)
        if not isinstance(leaf, Tensor):
            return whole.zero_()
        if not leaf.ndim:
            return whole.copy_(leaf)
        whole[: len(leaf)].copy_(leaf)
        whole[len(leaf) :].copy_(leaf[-1:])
        return whole


class CompiledDenoiser:
    """Called like the UNet that it is made from, in inference mode; from any thread, one at a time.

    The UNet itself answers, to the bit, where nothing is compiled: before a variant is, when it cannot be, for more
    rows than the largest bucket, and while adapters hang on it, which the twin knows nothing of. Elsewhere answers
    differ from its own by rounding. Nothing is ever compiled by the caller's thread.

    A bucket beyond `most_rows` gives way to `most_rows`. `is_whole` compiles the UNet in one piece, which takes longer
    and leaves less to Python, instead of its blocks. `patience` is how many calls a variant must have seen before it is
    compiled; the most wanted comes first. `announce` is called, on the compiling thread, whenever a variant has become
    warm or was given up. The UNet must not be moved, converted or changed in structure afterwards.
    """

    def __init__(
        self,
        unet: Module,
        *,
        buckets: Iterable[int] = BUCKETS,
        most_rows: int = BUCKETS[-1],
        backend: Backend = "inductor",
        is_whole: bool = False,
        patience: int = 1,
        announce: Callable[[], None] | None = None,
    ) -> None:
        self._unet = unet
        self._device = next(unet.parameters()).device
        self._twin = _compiled_twin(unet, backend, is_whole=is_whole)
        self._buckets = sorted({min(bucket, most_rows) for bucket in buckets})
        self._patience = patience
        self._announce = announce
        self._calls: Counter[Variant] = Counter()
        self._states: dict[Variant, State] = {}
        self._waiting: list[Variant] = []
        self._changed = Condition()
        self._is_closed = False
        self._thread: Thread | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the UNet answers."""
        leaves, nest = tree_flatten((args, kwargs))
        rows = _rows_in(leaves)
        variant = self._variant(rows, nest, leaves)
        if variant is None:
            return self._unet(*args, **kwargs)
        if self._states.get(variant) is State.WARM:
            is_disturbed = is_compiling()
            try:
                return self._answer(variant, rows, leaves)
            except Exception as error:
                if is_out_of_memory(error) or is_device_lost(error):
                    raise
                if is_disturbed or is_compiling():  # torch changes things in the whole process then: no verdict
                    _log.info("compile.disturbed", rows=variant.rows, exc_info=error)
                else:
                    self._give_up(variant, error)
        self._want(variant)
        return self._unet(*args, **kwargs)

    def settle(self, timeout_seconds: float | None = None) -> bool:
        """Wait until nothing is left to be compiled; False when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting or self._is_closed, timeout_seconds)

    def counts(self) -> dict[State, int]:
        """How many variants there are, by what has become of them."""
        return dict(Counter(self._states.copy().values()))

    def close(self, wait_seconds: float = 0.0) -> None:
        """Compile nothing more; wait so long for a compilation that runs.

        It goes on to its end in any case, and holds the weights until then.
        """
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(wait_seconds)

    def _variant(self, rows: int | None, nest: TreeSpec, leaves: Sequence[Any]) -> Variant | None:
        """The variant of a call; None where the UNet itself must answer."""
        bucket = next((one for one in self._buckets if rows is not None and one >= rows), None)
        if bucket is None or getattr(self._unet, "_hf_peft_config_loaded", False):
            return None
        return Variant(bucket, nest, tuple(_told(leaf) for leaf in leaves))

    def _answer(self, variant: Variant, rows: int | None, leaves: Sequence[Any]) -> Any:
        with torch.inference_mode(), _without_compiling():
            args, kwargs = variant.call(self._device, leaves)
            answer = self._twin(*args, **kwargs)
            return tree_map_only(Tensor, lambda leaf: leaf[:rows], answer)

    def _want(self, variant: Variant) -> None:
        if len(self._calls) >= MOST_COUNTED:
            self._calls.clear()
        self._calls[variant] += 1
        is_known = variant in self._states or len(self._states) >= MOST_VARIANTS
        if is_known or self._calls[variant] < self._patience or self._is_closed:
            return
        with self._changed:
            self._states[variant] = State.WAITING
            self._waiting.append(variant)
            self._changed.notify_all()
        if len(self._states) == MOST_VARIANTS:
            _log.warning("compile.full", variants=MOST_VARIANTS)
        if self._thread is None:
            _at_work.add(self)
            _end_in_order()
            self._thread = Thread(target=self._work, name=THREAD, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        # Settings of dynamo are those of a thread; this is the only one that compiles.
        limits = {"recompile_limit": RECOMPILE_LIMIT, "accumulated_recompile_limit": RECOMPILE_LIMIT}
        with torch.inference_mode(), torch._dynamo.config.patch(limits):
            while (variant := self._next()) is not None:
                self._warm(variant)
                if self._announce is not None:
                    self._announce()

    def _next(self) -> Variant | None:
        """The most wanted variant, which counts as waiting until it is done; None when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            return None if self._is_closed else max(self._waiting, key=self._calls.__getitem__)

    def _warm(self, variant: Variant) -> None:
        began = perf_counter()
        try:
            with _compiling:
                args, kwargs = variant.call(self._device)
                self._twin(*args, **kwargs)
                with _without_compiling():
                    self._twin(*args, **kwargs)
        except Exception as error:  # the edge of one compilation
            self._give_up(variant, error)
            return
        _log.info("compile.warm", rows=variant.rows, seconds=round(perf_counter() - began, 1))
        self._settled(variant, State.WARM)

    def _give_up(self, variant: Variant, error: Exception) -> None:
        """This variant stays with the plain UNet for good. At the end of a process, compilations fail for no fault."""
        if not self._is_closed:
            _log.warning("compile.failed", rows=variant.rows, exc_info=error)
        if is_out_of_memory(error.with_traceback(None)):
            release_memory()
        self._settled(variant, State.GIVEN_UP)

    def _settled(self, variant: Variant, state: State) -> None:
        with self._changed:
            self._states[variant] = state
            if variant in self._waiting:
                self._waiting.remove(variant)
            self._changed.notify_all()


def is_compiling() -> bool:
    """Whether this process compiles now, which takes memory of the device as a pass over the rows in question does."""
    return _compiling.locked()


def _compiled_twin(unet: Module, backend: Backend, *, is_whole: bool) -> Module:
    """A copy of the modules over the same parameters and buffers, of which some compile when they are called."""
    twin = deepcopy(unet, {id(tensor): tensor for tensor in chain(unet.parameters(), unet.buffers())})
    for part in [twin] if is_whole else _regions(twin):
        part.compile(fullgraph=True, dynamic=False, backend=backend)
    return twin


def _regions(unet: Any) -> Sequence[Module]:
    """The blocks that repeat, as the model's class names them; its ResNets where it has none of those (Kandinsky)."""
    kinds = [frozenset(getattr(unet, "_repeated_blocks", None) or ()), frozenset({"ResnetBlock2D"})]
    found = ([part for part in unet.modules() if type(part).__name__ in kind] for kind in kinds)
    return next(filter(None, found), [unet])


def _rows_in(leaves: Sequence[Any]) -> int | None:
    """How many rows the tensors of a call have; None when they do not agree."""
    counts = {len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim}
    return counts.pop() if len(counts) == 1 else None


def _told(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    # As float32, which is exact for all timesteps: then calls with one for all and with one per row are alike.
    return Rows(leaf.dtype, tuple(leaf.shape[1:])) if leaf.ndim else Rows(torch.float32, ())


@cache
def _end_in_order() -> None:
    """Let the process end after what is being compiled, not within, which aborts it."""
    atexit.register(_close_all)


def _close_all() -> None:
    for one in tuple(_at_work):
        one.close(EXIT_SECONDS)


def _without_compiling() -> Any:
    """A context in which what would have to be compiled raises."""
    return torch._dynamo.config.patch(error_on_recompile=True)
