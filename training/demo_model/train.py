"""Train the demo model: `python -m training.demo_model.train --out worker/assets/demo --minutes 60`.

Three stages: the VAE, the UNet with the text encoder on its latents, and the decoder of the VAE once more. A stage
whose share is 0 is left out, so that with --init a checkpoint can be trained further, one stage at a time.
"""

from __future__ import annotations

import argparse
import random
import time
from functools import partial
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from training.demo_model import checkpoint
from training.demo_model.components import build_pipeline
from training.demo_model.unet import train_unet
from training.demo_model.vae import train_vae


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=60.0, help="wall time of both stages together")
    parser.add_argument("--shares", type=float, nargs=3, default=(0.3, 0.5, 0.2), help="of the time, for each stage")
    parser.add_argument("--init", type=Path, help="start from the weights of this checkpoint, not from scratch")
    parser.add_argument("--pictures", type=int, default=12000, help="pairs of pictures encoded for the second stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Train stage by stage; the second saves every few minutes."""
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    started = time.monotonic()

    def log(line: str) -> None:
        print(f"[{(time.monotonic() - started) / 60:5.1f} min] {line}", flush=True)

    pipeline = checkpoint.load(options.init) if options.init else build_pipeline()
    vae_minutes, unet_minutes, decoder_minutes = (options.minutes * share for share in options.shares)
    if vae_minutes > 0:
        pipeline.register_modules(vae=train_vae(pipeline.vae, vae_minutes, options.seed, log))
        log(f"vae done, scaling factor {pipeline.vae.config.scaling_factor}")
    if unet_minutes > 0:
        save = partial(checkpoint.save, folder=options.out)
        train_unet(pipeline, unet_minutes, options.seed, log, save, pictures=options.pictures)
    if decoder_minutes > 0:
        polished = train_vae(pipeline.vae, decoder_minutes, options.seed + 1, log, decoder_only=True)
        pipeline.register_modules(vae=polished)
    checkpoint.save(pipeline, options.out)
    log(f"saved {options.out}")


if __name__ == "__main__":
    main()
