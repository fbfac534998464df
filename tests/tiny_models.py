"""Random checkpoints of the real classes, small enough to build in a test run: no weights are committed.

They are saved by `save_pretrained` and loaded by the production loader.
"""

from pathlib import Path
from typing import Any

from common.domain.catalogue import ModelCard, Source, Task
from worker.checkpoints import Shelf, load_components
from worker.device import Device, pick_device

TEXT_WIDTH = 32
NATIVE_SIZE = 64


def save_stable_diffusion(folder: Path, *, scheduler: str = "DDIMScheduler", seed: int = 0) -> Path:
    """Save a tiny checkpoint in the Stable Diffusion 1.5 layout; the folder again."""
    import torch
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(),
        scheduler=_scheduler(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def card_of(folder: Path, **changes: Any) -> ModelCard:
    """A card for a checkpoint that lies in this folder."""
    members: dict[str, Any] = {
        "id": "tiny",
        "title": "Tiny",
        "family": "stable_diffusion",
        "source": Source(directory=str(folder)),
        "tasks": frozenset(Task),
        "native_size": NATIVE_SIZE,
        "licence": "none",
    }
    return ModelCard(**members | changes)


def load_stable_diffusion(folder: Path, *, device: Device | None = None, **changes: Any) -> dict[str, Any]:
    """The parts of a new tiny checkpoint, by way of the folder and the production loader."""
    save_stable_diffusion(folder, **changes)
    return load_components(card_of(folder), device or pick_device("cpu"), Shelf())


def _scheduler(name: str) -> Any:
    import diffusers

    shared = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    own = {"DDIMScheduler": {"clip_sample": False}, "PNDMScheduler": {"skip_prk_steps": True}}
    return getattr(diffusers, name)(**shared, **own.get(name, {}))


def _vae() -> Any:
    """Four levels, so that a latent pixel is 8 picture pixels as in the real one."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=NATIVE_SIZE,
        scaling_factor=0.18215,
    )


def _unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=64,  # a smaller one makes the pipelines warn about very old configurations
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def _text_encoder(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=TEXT_WIDTH,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def _tokenizer() -> Any:
    """A tokenizer of single bytes: CLIP's alphabet, its two special tokens, and no merges."""
    from transformers import CLIPTokenizer

    alphabet = _byte_alphabet()
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, pad_token="<|endoftext|>")


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]
