"""What is done to a loaded model once to make it faster, at the price of slightly other pictures."""

from typing import Any

from worker.pipelines.family import Parts

CONVOLVING = ("unet", "vae", "movq")
ATTENDING = ("unet", "vae")


def tune(parts: Parts, *, channels_last: bool, fuse_qkv: bool) -> None:
    """Change the parts of a model in place; before anything is made of them, and before adapters hang on them.

    `channels_last`: convolutions of the UNet and the autoencoder keep their weights, and with them what runs through
    them, with the channels innermost. `fuse_qkv`: attention that takes its queries, keys and values from one source
    computes them as one product, where the part can; Kandinsky's cannot. What was fused is gone, so that the model
    takes no more memory; an adapter that is made for it is then hung in part only, without a word, so a model that has
    adapters must not be fused.

    Pictures are then no longer those of the plain diffusers call to the byte, but equal to the eye.
    """
    if channels_last:
        _turn(parts)
    if fuse_qkv:
        for part in _present(parts, ATTENDING):
            if _can_fuse(part):
                _fuse(part)


def _turn(parts: Parts) -> None:
    import torch

    for part in _present(parts, CONVOLVING):
        part.to(memory_format=torch.channels_last)


def _can_fuse(part: Any) -> bool:
    """Only attention as torch computes it in one piece has a fused twin in diffusers."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    kinds = {type(processor) for processor in getattr(part, "attn_processors", {}).values()}
    return hasattr(part, "fuse_qkv_projections") and kinds == {AttnProcessor2_0}


def _fuse(part: Any) -> None:
    from diffusers.models.attention_processor import Attention

    part.fuse_qkv_projections()
    for attention in (one for one in part.modules() if isinstance(one, Attention)):
        # Across to the text, only keys and values have one source: queries are the picture's.
        for fused in ("to_k", "to_v") if attention.is_cross_attention else ("to_q", "to_k", "to_v"):
            setattr(attention, fused, None)


def _present(parts: Parts, names: tuple[str, ...]) -> list[Any]:
    return [parts[name] for name in names if parts.get(name) is not None]
