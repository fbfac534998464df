"""The five parts of the demo pipeline, untrained: the classes and names are those of Stable Diffusion 1.5."""

from __future__ import annotations

from typing import Any, TypeAlias

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.demo_model.shapes import WORDS

# The classes of diffusers show a type checker none of their attributes.
Pipeline: TypeAlias = Any
Vae: TypeAlias = Any

TEXT_WIDTH = 64
MAX_TOKENS = 77


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes of the GPT-2 / CLIP tokenizer, in its order."""
    codes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(code) for code in codes]
    spare = (chr(256 + extra) for extra in range(256 - len(codes)))
    return characters + list(spare)


def build_tokenizer(words: tuple[str, ...] = WORDS) -> CLIPTokenizer:
    """A CLIP tokenizer in which each of `words` is one token; any other text falls apart into bytes."""
    alphabet = _byte_alphabet()
    vocabulary = {piece: index for index, piece in enumerate([*alphabet, *[c + "</w>" for c in alphabet]])}
    merges: Any = []
    for word in words:
        current = word[0]
        for index, letter in enumerate(word[1:], 1):
            piece = letter + ("</w>" if index == len(word) - 1 else "")
            if (current, piece) not in merges:
                merges.append((current, piece))
            current += piece
            vocabulary.setdefault(current, len(vocabulary))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS, pad_token="<|endoftext|>")


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of width 64 over 77 tokens."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_vae() -> Vae:
    """Four blocks, hence 8 pixels to a latent cell, and four latent channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=128,
    )


def build_unet() -> UNet2DConditionModel:
    """Two levels, cross-attention on both; native size 128 pixels (16 latent cells)."""
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(40, 72),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(5, 9),
        norm_num_groups=8,
    )


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.5."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


def build_pipeline() -> Pipeline:
    """All of it, with random weights and no safety checker."""
    tokenizer = build_tokenizer()
    return StableDiffusionPipeline(
        vae=build_vae(),
        text_encoder=build_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=build_unet(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
