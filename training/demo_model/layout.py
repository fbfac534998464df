"""The exact class layout of Stable Diffusion 1.5, in miniature: configs, tokenizer, saving."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.demo_model.shapes import WORDS

HIDDEN = 64


def make_autoencoder() -> AutoencoderKL:
    """8x downsampling, four latent channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(12, 24, 48, 64),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=128,
    )


def make_unet() -> UNet2DConditionModel:
    """Two levels, both with cross attention."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(40, 72),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=HIDDEN,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers over the small vocabulary."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=HIDDEN,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.5."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


def make_tokenizer() -> CLIPTokenizer:
    """A byte-level CLIP tokenizer in which every word of the captions is one token."""
    alphabet = _byte_alphabet()
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, *[piece + "</w>" for piece in alphabet]])}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        _add_word(word, vocabulary, merges)
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, pad_token="<|endoftext|>")


def save(
    folder: Path, autoencoder: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel, tokenizer: CLIPTokenizer
) -> None:
    """Save the whole pipeline as fp16 safetensors under plain file names."""
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)


def _add_word(word: str, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
    if len(word) == 1:
        return
    whole = word[0]
    for position, letter in enumerate(word[1:], 1):
        piece = letter + ("</w>" if position == len(word) - 1 else "")
        if (whole, piece) not in merges:
            merges.append((whole, piece))
        whole += piece
        vocabulary.setdefault(whole, len(vocabulary))


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes of GPT-2's tokenizer."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
