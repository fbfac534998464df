"""Which frames may share work, decided at submit without loading anything; the engine's `offer` has the last word."""

import hashlib

from common.domain.params import EditParams, PassParams


def step_key(params: PassParams) -> str:
    """What must be equal to share one forward pass of the step engine: checkpoint, adapters and the latent size."""
    adapters = "".join(f"+{use.id}@{use.weight!r}" for use in params.adapters)
    return f"{params.model}{adapters}:{params.width}x{params.height}"


def pass_key(params: PassParams, job_id: str, *, deterministic: bool) -> str:
    """What must be equal to share one diffusers call: all but prompts, pictures and seed. 32 hexadecimal digits.

    A deterministic job shares with nobody, so its key is its own.
    """
    shared = (
        step_key(params),
        params.task,
        params.num_inference_steps,
        params.steps_mode,
        params.strength,
        params.guidance_scale,
        params.scheduler,
        params.denoising_end,
        params.denoising_start,
        job_id if deterministic else "",
    )
    return _digest(repr(shared))


def call_key(params: EditParams, job_id: str) -> str:
    """What must be equal for jobs to share all their calls: the keys of all passes. 32 hexadecimal digits."""
    keys = [pass_key(one, job_id, deterministic=params.deterministic) for one in params.passes]
    return keys[0] if len(keys) == 1 else _digest(" ".join(keys))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
