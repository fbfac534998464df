"""Stand-ins for the shared models: to a diffusers call they look like the model, and suspend it when called."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor
from torch.nn import Module

from worker.engine.coroutines import ask
from worker.engine.decoding import in_float32
from worker.engine.rows import call_of

Run = Callable[..., Any]

# What is called once per denoising step; everything else is called once per frame.
DENOISERS = ("unet", "prior_prior")
ENCODE = "vae.encode"
CACHED_TEXTS = 64


class StandIn(Module):
    """Has the attributes of `model`, which is not a part of it: no parameter shows here."""

    def __init__(self, name: str, model: Module) -> None:
        super().__init__()
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_model", model)
        object.__setattr__(self, "device", model.device)  # which it would look for in all its parameters, each time

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_model"), name)

    def to(self, *args: Any, **kwargs: Any) -> "StandIn":
        """Nothing: what the shared model computes in is the engine's business."""
        return self


class Denoiser(StandIn):
    """Every call waits for the next tick."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ask(call_of(self._name, args, kwargs))


class PictureEncoder(StandIn):
    """An autoencoder whose pictures are encoded together with those of other newcomers."""

    def encode(self, pictures: Tensor) -> Any:
        """As of the model. The noise of the distribution has the number format of the pictures."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
        from diffusers.models.modeling_outputs import AutoencoderKLOutput

        moments = ask(call_of(ENCODE, (pictures,), {})).to(pictures.dtype)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))


class TextEncoder(StandIn):
    """Remembers the last texts, by their tokens: a negative prompt is encoded once. `forget` when adapters change."""

    def __init__(self, name: str, model: Module) -> None:
        super().__init__(name, model)
        object.__setattr__(self, "_known", OrderedDict())

    def __call__(self, input_ids: Tensor, **how: Any) -> Any:
        known: OrderedDict[Any, Any] = self._known
        if any(isinstance(value, Tensor) for value in how.values()):  # a mask, which no checkpoint of ours asks for
            return self._model(input_ids, **how)
        key = (tuple(input_ids.flatten().tolist()), len(input_ids), repr(sorted(how.items())))
        if key not in known:
            known[key] = _slim(self._model(input_ids, **how))
            if len(known) > CACHED_TEXTS:
                known.popitem(last=False)
        known.move_to_end(key)
        return known[key]

    def forget(self) -> None:
        """Encode anew from now on."""
        self._known.clear()


def stand_ins_for(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a model with stand-ins for all that frames share."""
    made = dict(parts)
    made |= denoisers_for(parts)
    made |= {
        name: TextEncoder(name, part)
        for name, part in parts.items()
        if name.endswith(("text_encoder", "text_encoder_2")) and part is not None
    }
    if "vae" in parts:
        made["vae"] = PictureEncoder("vae", parts["vae"])
    return made


def denoisers_for(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Stand-ins for what is called once per step. What families remember by them is not remembered by others."""
    return {name: Denoiser(name, parts[name]) for name in DENOISERS if parts.get(name) is not None}


def shared_calls(parts: Mapping[str, Any]) -> dict[str, Run]:
    """What the engine runs for the stand-ins, by the names in their calls."""
    runs: dict[str, Run] = {name: parts[name] for name in DENOISERS if parts.get(name) is not None}
    if "vae" in parts:
        vae = parts["vae"]
        runs[ENCODE] = lambda pictures: _encode(vae, pictures)
    return runs


def _encode(vae: Any, pictures: Tensor) -> Tensor:
    """Means and variances of the latents, computed in the number format of the pictures, as the call would have it.

    SDXL's calls encode in float32 and all others in the format of the model, whatever the VAE's configuration says.
    """
    with nullcontext() if pictures.dtype == vae.dtype else in_float32(vae):
        return vae.encode(pictures.to(vae.dtype)).latent_dist.parameters  # type: ignore[no-any-return]


def _slim(answer: Any) -> Any:
    """Without the hidden states that no pipeline reads; the others are megabytes per text."""
    if getattr(answer, "hidden_states", None) is not None:
        answer.hidden_states = answer.hidden_states[-2:]
    return answer
