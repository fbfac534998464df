"""Stable Diffusion 1.5 and SDXL in the real sizes with random weights, so that nothing is downloaded; and tiny ones.

Floors are computed: counted operations of one pass over 790 TFLOP/s, what a matrix product reaches on an H200 in
bfloat16. A pass with guidance has two rows per picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import tiny_models as tiny
from tests.tiny_models import parts
from worker.device import Device
from worker.memory import release_memory

CEILING_TFLOPS = 790.0
_UNETS: Mapping[str, Mapping[str, Any]] = {
    "sd15": {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
_VOCABULARY = 49408
_TINY_SIDE = 64


@dataclass(frozen=True, slots=True)
class Floor:
    """Milliseconds that arithmetic alone takes: of a pass of two rows, of a picture in and of a picture out."""

    guided_pass: float
    encode: float
    decode: float

    def rows(self, rows: int) -> float:
        """Of a pass of so many rows."""
        return self.guided_pass * rows / 2


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: a model's name, its family, the side of its pictures, and how many jobs make a backlog."""

    name: str
    family: str
    side: int
    floor: Floor
    most_rows: int
    jobs: int


SUBJECTS: Mapping[str, Subject] = {
    "sd15": Subject("sd15", "stable_diffusion", 512, Floor(2.0, 1.4, 3.2), most_rows=32, jobs=64),
    "sdxl": Subject("sdxl", "sdxl", 1024, Floor(17.1, 6.2, 13.3), most_rows=16, jobs=24),
}
TINY: Mapping[str, Subject] = {
    name: Subject(name, one.family, _TINY_SIDE, one.floor, most_rows=8, jobs=6) for name, one in SUBJECTS.items()
}


def save_subject(subject: Subject, folder: Path, device: Device) -> Path:
    """Save a random checkpoint in the device's number format below the folder, unless it is there; its own folder.

    It is made on the device, where that takes seconds.
    """
    place = folder / subject.name
    if (place / "model_index.json").is_file():
        return place
    if subject.side == _TINY_SIDE:
        return tiny.save_sdxl(place) if subject.name == "sdxl" else tiny.save_stable_diffusion(place)
    import diffusers
    import torch

    tokens = parts.tokenizer()
    with torch.device(device.torch_device):
        members = _members(subject, tokens)
    members |= {"scheduler": parts.scheduler("DDIMScheduler"), "tokenizer": tokens}
    kind = diffusers.StableDiffusionPipeline if subject.name == "sd15" else diffusers.StableDiffusionXLPipeline
    made: Any = kind(**members)
    made.to(dtype=device.dtype).save_pretrained(place)
    del made, members
    release_memory()
    return place


def unet_arguments(unet: Any, rows: int, side: int, device: Device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a call of the UNet takes, with random numbers."""
    import torch

    config = unet.config
    common: dict[str, Any] = {"device": device.torch_device, "dtype": device.dtype}
    latents = torch.randn(rows, config.in_channels, side // 8, side // 8, **common)
    moments = torch.full((rows,), 500.0, device=device.torch_device)
    keywords: dict[str, Any] = {
        "encoder_hidden_states": torch.randn(rows, 77, config.cross_attention_dim, **common),
        "return_dict": False,
    }
    if config.addition_embed_type == "text_time":
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": torch.randn(rows, width, **common), "time_ids": torch.full((rows, 6), 512.0, **common)}
        keywords["added_cond_kwargs"] = added
    return (latents, moments), keywords


def _members(subject: Subject, tokens: Any) -> dict[str, Any]:
    members: dict[str, Any] = {
        "unet": parts.unet(
            sample_size=subject.side // 8, layers_per_block=2, norm_num_groups=32, **_UNETS[subject.name]
        ),
        "vae": parts.vae(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32, sample_size=subject.side
        ),
        "text_encoder": _text_encoder(tokens, _CLIP_L),
    }
    if subject.name == "sd15":
        return members | {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    second = _text_encoder(tokens, _CLIP_G, projects=True, hidden_act="gelu")
    return members | {"tokenizer_2": tokens, "text_encoder_2": second, "add_watermarker": False}


def _text_encoder(tokens: Any, size: Mapping[str, Any], **changes: Any) -> Any:
    own: dict[str, Any] = {"projection_dim": size["hidden_size"], "vocab_size": _VOCABULARY}
    return parts.text_encoder(tokens, **size, **own, **changes)
