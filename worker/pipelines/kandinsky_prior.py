"""Kandinsky's prior: from a prompt and a seed to the image embedding that the decoder paints."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from worker.pipelines.family import Frame, Parts
from worker.pipelines.prompts import room_of, token_ids
from worker.pipelines.schedulers import fresh_scheduler

PREFIX = "prior_"
# The image encoder only embeds the empty picture that stands for no negative prompt at all, and there always is one.
LOADING: Mapping[str, Any] = {"image_encoder": None, "image_processor": None}
NUM_INFERENCE_STEPS = 25
GUIDANCE_SCALE = 4.0
CACHED_EMBEDDINGS = 64

Embeddings = tuple[Any, Any]
_Key = tuple[str, str, int]
# By the prior's own weights, so that what a model has cached goes when the model does.
_caches: WeakKeyDictionary[Any, OrderedDict[_Key, Embeddings]] = WeakKeyDictionary()


def loader() -> Any:
    """The class that loads the prior's parts."""
    from diffusers import KandinskyV22PriorPipeline

    return KandinskyV22PriorPipeline


def embeddings_of(parts: Parts, frame: Frame) -> Embeddings:
    """Image embeddings (1, width) of the frame's prompt and of its negative prompt; both depend on its seed.

    The last 64 are kept: a picture that is made again with other steps needs no prior.
    """
    key = (frame.params.prompt, frame.params.negative_prompt, frame.seed)
    cache = _caches.setdefault(parts["prior_prior"], OrderedDict())
    if key not in cache:
        cache[key] = _run(parts, *key)
    cache.move_to_end(key)
    if len(cache) > CACHED_EMBEDDINGS:
        cache.popitem(last=False)
    return cache[key]


def cut_text(parts: Parts, text: str) -> str:
    """The end of a text that the prior's encoder does not read; empty when it reads all."""
    tokenizer = parts["prior_tokenizer"]
    beyond = token_ids(tokenizer, text)[room_of(tokenizer) :]
    return str(tokenizer.decode(beyond)).strip() if beyond else ""


def _run(parts: Parts, prompt: str, negative_prompt: str, seed: int) -> Embeddings:
    import torch

    own = {name.removeprefix(PREFIX): part for name, part in parts.items() if name.startswith(PREFIX)}
    own["scheduler"] = fresh_scheduler(own["scheduler"], None)
    prior = loader()(**own)
    prior.set_progress_bar_config(disable=True)
    made = prior(
        prompt,
        negative_prompt=negative_prompt,
        num_inference_steps=NUM_INFERENCE_STEPS,
        guidance_scale=GUIDANCE_SCALE,
        generator=torch.Generator("cpu").manual_seed(seed),
    )
    return made.image_embeds, made.negative_image_embeds
