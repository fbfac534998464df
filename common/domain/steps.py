"""How many denoising steps run. The formulas of the diffusers pipelines, float traps included, and their inverse."""

TRAINED_STEPS = 1000
_BEYOND_REASON = 1_000_000


def effective_steps(steps: int, strength: float | None) -> int:
    """The denoising steps that run: min(int(steps x strength), steps), as the img2img pipelines of diffusers do."""
    return steps if strength is None else min(int(steps * strength), steps)


def scheduled_steps(steps: int, strength: float | None, *, exact: bool) -> int:
    """The length of the schedule to ask for: `steps`, or with `exact` the shortest of which exactly `steps` run.

    May be longer than the 1000 steps that models are trained for; such a schedule cannot be made. A strength near 0
    gives some number beyond all reason, not the right one: above it floats no longer tell one step from the next.
    """
    if not exact or strength is None:
        return steps
    if strength * _BEYOND_REASON < steps:
        return _BEYOND_REASON
    scheduled = max(steps, int(steps / strength) - 1)
    while effective_steps(scheduled, strength) < steps:
        scheduled += 1
    return scheduled


def split_at(steps: int, effective: int, switch_at: float) -> tuple[int, int]:
    """How many of the `effective` last steps of a schedule a base model and its refiner run.

    The schedule is cut where its timesteps fall below (1 - `switch_at`) x 1000, as diffusers does it.
    Exact for "leading" timesteps, as SDXL has them; schedulers with a spacing of their own may cut a little elsewhere.
    """
    cutoff = round(TRAINED_STEPS * (1 - switch_at))
    late = sum(number * (TRAINED_STEPS // steps) + 1 < cutoff for number in range(steps))
    refining = min(effective, late)
    return effective - refining, refining
