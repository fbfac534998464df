"""Prompts for CLIP encoders: as text where they fit its window, in chunks where they do not."""

from collections.abc import Sequence
from typing import Any

from common.domain.params import PassParams
from worker.pipelines.family import Frame, Parts

# The first is all that Stable Diffusion has, the second all that the refiner of SDXL has.
_ENCODERS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))


def chunk_count(parts: Parts, params: PassParams) -> int:
    """How many windows of the encoders the longer of prompt and negative prompt fills, at least one."""
    texts = (params.prompt, params.negative_prompt)
    return max(
        windows_in(parts[tokenizer], text)
        for tokenizer, _ in _ENCODERS
        if parts.get(tokenizer) is not None
        for text in texts
    )


def windows_in(tokenizer: Any, text: str) -> int:
    """How many windows of a tokenizer a text fills, at least one."""
    return max(1, -(-len(token_ids(tokenizer, text)) // room_of(tokenizer)))


def room_of(tokenizer: Any) -> int:
    """How many tokens of text fit one window, between its start and its end."""
    return int(tokenizer.model_max_length) - 2


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text, however many, without start and end."""
    ids: list[int] = tokenizer(text, truncation=False, add_special_tokens=False, verbose=False).input_ids
    return ids


def clip_prompts(parts: Parts, frames: Sequence[Frame]) -> dict[str, Any]:
    """The prompt arguments of a call: text that fits one window as it is, so that diffusers encodes it itself.

    Longer text becomes embeddings of all its chunks, one after the other along the sequence.
    """
    count = chunk_count(parts, frames[0].params)
    prompts, negatives = texts_of(frames)
    if count == 1:
        return {"prompt": prompts, "negative_prompt": negatives}
    return {
        "prompt_embeds": encode_chunks(parts, prompts, count),
        "negative_prompt_embeds": encode_chunks(parts, negatives, count),
    }


def clip_pair_prompts(parts: Parts, frames: Sequence[Frame]) -> dict[str, Any]:
    """As `clip_prompts`, for the two encoders of SDXL or the one of its refiner."""
    count = chunk_count(parts, frames[0].params)
    prompts, negatives = texts_of(frames)
    if count == 1:
        return {"prompt": prompts, "negative_prompt": negatives}
    embeds, pooled = encode_pair_chunks(parts, prompts, count)
    negative_embeds, negative_pooled = encode_pair_chunks(parts, negatives, count)
    return {
        "prompt_embeds": embeds,
        "pooled_prompt_embeds": pooled,
        "negative_prompt_embeds": negative_embeds,
        "negative_pooled_prompt_embeds": negative_pooled,
    }


def texts_of(frames: Sequence[Frame]) -> tuple[list[str], list[str]]:
    """Prompts and negative prompts, one per frame."""
    return [frame.params.prompt for frame in frames], [frame.params.negative_prompt for frame in frames]


def encode_chunks(parts: Parts, texts: Sequence[str], count: int) -> Any:
    """Embeddings (texts, count x window, width): each window is encoded by itself and all are put in a row."""
    import torch

    encoder = parts["text_encoder"]
    with torch.no_grad():
        rows = [encoder(_windows_for(encoder, parts["tokenizer"], text, count))[0] for text in texts]
    return torch.stack([row.reshape(-1, row.shape[-1]) for row in rows])


def encode_pair_chunks(parts: Parts, texts: Sequence[str], count: int) -> tuple[Any, Any]:
    """Embeddings (texts, count x window, width of all encoders) and pooled ones (texts, width of the last encoder).

    As SDXL does it: the layer before the last of each encoder side by side; pooled from the first window, which has
    the beginning of the text.
    """
    import torch

    with torch.no_grad():
        pairs = [_encode_pair(parts, text, count) for text in texts]
    return torch.stack([row for row, _ in pairs]), torch.stack([pooled for _, pooled in pairs])


def windows_of(tokenizer: Any, text: str, count: int) -> Any:
    """Token ids (count, model_max_length): start, a piece of the text, end, padding, per window."""
    import torch

    room = room_of(tokenizer)
    ids = token_ids(tokenizer, text)
    rows = []
    for number in range(count):
        piece = ids[number * room : (number + 1) * room]
        row = [tokenizer.bos_token_id, *piece, tokenizer.eos_token_id]
        rows.append(row + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(row)))
    return torch.tensor(rows)


def _windows_for(encoder: Any, tokenizer: Any, text: str, count: int) -> Any:
    return windows_of(tokenizer, text, count).to(encoder.device)


def _encode_pair(parts: Parts, text: str, count: int) -> tuple[Any, Any]:
    import torch

    outputs = [
        parts[encoder](_windows_for(parts[encoder], parts[tokenizer], text, count), output_hidden_states=True)
        for tokenizer, encoder in _ENCODERS
        if parts.get(encoder) is not None
    ]
    row = torch.cat([output.hidden_states[-2].flatten(0, 1) for output in outputs], dim=-1)
    return row, outputs[-1].text_embeds[0]
