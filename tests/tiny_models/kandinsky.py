"""Tiny checkpoints of Kandinsky 2.2: the prior, the decoder and the inpainting decoder."""

from pathlib import Path
from typing import Any

from tests.tiny_models import parts


def save_kandinsky_prior(folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny prior; the folder again."""
    import torch
    from diffusers import KandinskyV22PriorPipeline, PriorTransformer, UnCLIPScheduler

    torch.manual_seed(seed)
    tokens = parts.tokenizer()
    prior = PriorTransformer(num_attention_heads=2, attention_head_dim=12, embedding_dim=parts.TEXT_WIDTH, num_layers=1)
    prior.clip_std.data.fill_(1.0)  # new ones have 0, and with it every embedding
    made: Any = KandinskyV22PriorPipeline(
        prior=prior,
        image_encoder=_image_encoder(),
        text_encoder=parts.text_encoder(tokens, projects=True),
        tokenizer=tokens,
        scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10.0, num_train_timesteps=1000
        ),
        image_processor=_image_processor(),
    )
    made.save_pretrained(folder)
    return folder


def save_kandinsky(folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny decoder; the folder again."""
    import torch
    from diffusers import KandinskyV22Pipeline

    torch.manual_seed(seed)
    made: Any = KandinskyV22Pipeline(unet=_unet(4), scheduler=_scheduler(), movq=_movq())
    made.save_pretrained(folder)
    return folder


def save_kandinsky_inpaint(folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny inpainting decoder, with nine input channels; the folder again."""
    import torch
    from diffusers import KandinskyV22InpaintPipeline

    torch.manual_seed(seed)
    made: Any = KandinskyV22InpaintPipeline(unet=_unet(9), scheduler=_scheduler(), movq=_movq())
    made.save_pretrained(folder)
    return folder


def _scheduler() -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, variance_type="learned_range"
    )


def _unet(in_channels: int) -> Any:
    return parts.unet(
        in_channels=in_channels,
        out_channels=8,
        block_out_channels=(32, 64),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        addition_embed_type="image",
        encoder_hid_dim=parts.TEXT_WIDTH,
        encoder_hid_dim_type="image_proj",
        resnet_time_scale_shift="scale_shift",
        class_embed_type=None,
    )


def _movq() -> Any:
    """At least 32 channels: its normalisation has 32 groups, always."""
    from diffusers import VQModel

    return VQModel(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )


def _image_encoder() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=parts.TEXT_WIDTH,
        intermediate_size=37,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=224,
        patch_size=32,
        projection_dim=parts.TEXT_WIDTH,
    )
    return CLIPVisionModelWithProjection(config)


def _image_processor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size=224, crop_size=224)
