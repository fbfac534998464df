"""What several tiny checkpoints are made of."""

from typing import Any

TEXT_WIDTH = 32
NATIVE_SIZE = 64
# A smaller one makes the pipelines warn about very old configurations.
LATENT_SIZE = 64


def scheduler(name: str, **changes: Any) -> Any:
    """A scheduler with the settings of the real checkpoints."""
    import diffusers

    shared = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    own: dict[str, dict[str, Any]] = {
        "DDIMScheduler": {"clip_sample": False},
        "EulerDiscreteScheduler": {"timestep_spacing": "leading"},
        "PNDMScheduler": {"skip_prk_steps": True},
    }
    return getattr(diffusers, name)(**(shared | own.get(name, {}) | changes))


def vae(**changes: Any) -> Any:
    """Four levels, so that a latent pixel is 8 picture pixels as in the real one."""
    from diffusers import AutoencoderKL

    members: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": NATIVE_SIZE,
        "scaling_factor": 0.18215,
    }
    return AutoencoderKL(**members | changes)


def unet(**changes: Any) -> Any:
    """A UNet in the SD 1.5 layout, with other values where asked."""
    from diffusers import UNet2DConditionModel

    members: dict[str, Any] = {
        "sample_size": LATENT_SIZE,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**members | changes)


def text_encoder(tokens: Any, *, projects: bool = False, **changes: Any) -> Any:
    """A CLIP text encoder for this tokenizer; `projects` makes the kind that also gives a pooled embedding."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    members: dict[str, Any] = {
        "vocab_size": len(tokens),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "projection_dim": TEXT_WIDTH,
        "max_position_embeddings": 77,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
    }
    kind = CLIPTextModelWithProjection if projects else CLIPTextModel
    return kind(CLIPTextConfig(**members | changes))


def tokenizer(pad: str = "<|endoftext|>") -> Any:
    """A tokenizer of single bytes: CLIP's alphabet, its two special tokens, and no merges."""
    from transformers import CLIPTokenizer

    alphabet = _byte_alphabet()
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, pad_token=pad)


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]
