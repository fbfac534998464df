"""The jobs that benchmarks run: W1, W1h, W2 and W3, drawn with a fixed seed, so that they are the same every time.

A workload is a list of edits, all queued before the clock starts. The CPU twins are small enough for any machine:

- W1: Stable Diffusion 1.5 layout at 64 px (8 x 8 latents), unlike jobs; its passes are bound by overhead.
- W1h: as W1, but all jobs with the same strength, steps and guidance.
- W2: SDXL layout at 256 px (32 x 32 latents), unlike jobs; its passes are bound by arithmetic.
- W3: a shuffled mix of five models and a chain, with sides in the proportions of the real ones (64, 96 and 128 px).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from PIL import Image

from common.domain.catalogue import Task
from common.domain.params import EditParams, Output
from common.domain.steps import effective_steps

STRENGTHS = (0.3, 0.5, 0.8)
STEPS = (20, 30, 50)
GUIDANCES = (1.0, 5.0, 7.5)
SWITCH_AT = 0.8
_COLOURS = ("red", "green", "blue", "yellow", "white", "black", "brown", "grey")
_THINGS = ("circle", "square", "boat", "tree", "lamp", "bridge", "window", "horse")
_PLACES = ("at night", "in the rain", "on a table", "by the sea", "in old paper", "under glass")


@dataclass(frozen=True, slots=True)
class Edit:
    """One img2img job: what is asked of any program. `refiner` names a model that takes the latents over at 0.8."""

    model: str
    prompt: str
    strength: float
    steps: int
    guidance_scale: float
    seed: int
    side: int
    refiner: str | None = None

    @property
    def parameters(self) -> tuple[Any, ...]:
        """What jobs must share to be images of one diffusers call."""
        return (self.model, self.strength, self.steps, self.guidance_scale, self.side, self.refiner)

    @property
    def effective_steps(self) -> int:
        """The denoising steps that run."""
        return effective_steps(self.steps, self.strength)

    @property
    def rows(self) -> int:
        """The rows that it brings into a forward pass: two with guidance."""
        return 2 if self.guidance_scale > 1 else 1

    def as_dict(self) -> dict[str, Any]:
        """As JSON; `Edit(**members)` reads it back."""
        return asdict(self)

    def params(self) -> EditParams:
        """As the service settles it. Raises ValueError for a chain, which only the API settles."""
        if self.refiner is not None:
            raise ValueError("a chain is settled by the API")
        return EditParams(
            task=Task.IMG2IMG,
            model=self.model,
            prompt=self.prompt,
            negative_prompt="",
            strength=self.strength,
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.steps,
            effective_steps=self.effective_steps,
            seed=self.seed,
            width=self.side,
            height=self.side,
            num_images=1,
            output=Output(),
            deterministic=False,
            previews=False,
        )

    def request(self) -> dict[str, Any]:
        """As the body of `POST /v1/jobs`, without its image."""
        fields = {
            "model": self.model,
            "prompt": self.prompt,
            "strength": self.strength,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "seed": self.seed,
            "width": self.side,
            "height": self.side,
        }
        chain = {"refiner": {"model": self.refiner, "switch_at": SWITCH_AT}} if self.refiner else {}
        return fields | chain


def picture(side: int) -> Image.Image:
    """The input of every job: a gradient that is different everywhere."""
    ramp = Image.linear_gradient("L").resize((side, side))
    return Image.merge("RGB", (ramp, ramp.rotate(90), Image.new("L", (side, side), 128)))


def unlike(model: str, side: int, count: int, *, seed: int) -> list[Edit]:
    """Jobs with strength, steps and guidance drawn at random, and prompts and seeds of their own."""
    chance = random.Random(seed)
    return [
        Edit(
            model=model,
            prompt=_prompt(chance, number),
            strength=chance.choice(STRENGTHS),
            steps=chance.choice(STEPS),
            guidance_scale=chance.choice(GUIDANCES),
            seed=1000 + number,
            side=side,
        )
        for number in range(count)
    ]


def alike(edits: Sequence[Edit]) -> list[Edit]:
    """The same prompts and seeds with equal parameters."""
    return [replace(edit, strength=0.5, steps=30, guidance_scale=5.0) for edit in edits]


def mixed(count: int, *, seed: int) -> list[Edit]:
    """40 % Stable Diffusion 1.5, 30 % SDXL, 15 % SDXL and its refiner, 10 % Stable Diffusion 2.1, 5 % Kandinsky 2.2.

    Chains keep a strength and a number of steps of which both models get some.
    """
    shares = {"sd15": 0.4, "sdxl": 0.3, "chain": 0.15, "sd21": 0.1}
    counts = {kind: round(share * count) for kind, share in shares.items()}
    counts["kandinsky22"] = count - sum(counts.values())
    chance = random.Random(seed)
    edits: list[Edit] = []
    for kind, wanted in counts.items():
        model = "sdxl" if kind == "chain" else kind
        found = unlike(model, _W3_SIDES[model], wanted, seed=chance.randrange(1 << 30))
        edits += [_chained(one) for one in found] if kind == "chain" else found
    chance.shuffle(edits)
    return [replace(edit, seed=1000 + number) for number, edit in enumerate(edits)]


def renewed(edits: Sequence[Edit], number: int) -> list[Edit]:
    """The same jobs for another round: new prompts of the same length and new seeds, so that no cache knows them."""
    return [
        replace(edit, prompt=f"{edit.prompt}, take {number:04d}", seed=edit.seed + 10_000 * number) for edit in edits
    ]


def _chained(edit: Edit) -> Edit:
    return replace(edit, refiner="sdxl-refiner", strength=max(0.5, edit.strength), steps=max(30, edit.steps))


def _prompt(chance: random.Random, number: int) -> str:
    return f"a {chance.choice(_COLOURS)} {chance.choice(_THINGS)} {chance.choice(_PLACES)}, number {number}"


_W3_SIDES = {"sd15": 64, "sd21": 96, "sdxl": 128, "kandinsky22": 64}
_MAKERS: Mapping[str, Callable[[int], list[Edit]]] = {
    "W1": lambda count: unlike("sd15", 64, count, seed=1),
    "W1h": lambda count: alike(unlike("sd15", 64, count, seed=1)),
    "W2": lambda count: unlike("sdxl-wide", 256, count, seed=2),
    "W3": lambda count: mixed(count, seed=3),
}
COUNTS: Mapping[str, int] = {"W1": 64, "W1h": 64, "W2": 16, "W3": 100}


def workload(name: str, count: int | None = None) -> list[Edit]:
    """The jobs of a workload, so many of them."""
    return _MAKERS[name](COUNTS[name] if count is None else count)
