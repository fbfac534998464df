"""Schedulers by the names that requests use."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import wraps
from typing import Any
from weakref import ref

_CLASSES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "kdpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


def names() -> tuple[str, ...]:
    """Every name there is."""
    return tuple(_CLASSES)


def fresh_scheduler(own: Any, name: str | None, *, without: Sequence[str] = ()) -> Any:
    """A new scheduler object of this name, or of the checkpoint's own kind, from the configuration of `own`.

    `without` are settings that schedulers of other kinds must not take over. A scheduler carries the state of a run, so
    every call has its own. Raises KeyError for an unknown name.
    """
    if name is None:
        return type(own).from_config(own.config)
    import diffusers

    kind, extra = _CLASSES[name]
    # Checkpoints of other kinds do not say it, and these two would clip by default.
    config = {"clip_sample": False, **own.config}
    for setting in without:
        config.pop(setting, None)
    return getattr(diffusers, kind).from_config(config, **extra)


def unused_copy(scheduler: Any) -> Any:
    """A scheduler like this one, which has not run, with tensors of its own; several times faster than a new one."""
    return deepcopy(scheduler, {id(scheduler.config): scheduler.config})


def keep_on_host(scheduler: Any) -> None:
    """Timesteps stay on the CPU whatever device is asked for: on the device, reading one waits for all that runs there.

    The values are the same; every scheduler takes timesteps of the host beside pictures of a device.
    """
    own, itself = type(scheduler).set_timesteps, ref(scheduler)  # not in a circle, which would keep its tensors a while

    @wraps(own)
    def set_timesteps(*args: Any, device: Any = None, **kwargs: Any) -> None:
        own(itself(), *args, device="cpu", **kwargs)

    scheduler.set_timesteps = set_timesteps
