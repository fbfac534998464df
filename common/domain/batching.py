"""Which frames may share work, decided at submit without loading anything; the engine's `offer` has the last word."""

import hashlib

from common.domain.params import EditParams


def step_key(params: EditParams) -> str:
    """What must be equal to share one forward pass of the step engine: the checkpoint and the latent size."""
    return f"{params.model}:{params.width}x{params.height}"


def call_key(params: EditParams, job_id: str) -> str:
    """What must be equal to share one diffusers call: all but prompts, image and seed. 32 hexadecimal digits.

    A deterministic job shares with nobody, so its key is its own.
    """
    shared = (
        step_key(params),
        params.task,
        params.num_inference_steps,
        params.strength,
        params.guidance_scale,
        job_id if params.deterministic else "",
    )
    return hashlib.sha256(repr(shared).encode()).hexdigest()[:32]
