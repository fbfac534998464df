"""A job as its parts see it: what is submitted, what a worker claims, what an attempt leaves behind."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from common.domain.fairness import Lane
from common.domain.params import EditParams

GRID_INDEX = -1  # the index of the grid, which stands beside the images


@dataclass(frozen=True, slots=True)
class InputRef:
    """One prepared input in the object store: our own RGB PNG; sizes in pixels."""

    key: str
    sha256: str
    bytes: int
    width: int
    height: int

    def as_dict(self) -> dict[str, Any]:
        """As JSON; `from_dict` reads it back."""
        return asdict(self)

    @staticmethod
    def from_dict(members: dict[str, Any]) -> "InputRef":
        """The reference that `as_dict` wrote, in this release or the next."""
        return InputRef(**{name: members[name] for name in InputRef.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class NewJob:
    """An accepted job, before its row exists; seconds count from submit.

    `cost` is device seconds as the catalogue predicts them, `scale` what workers have measured / that prediction: the
    order of service charges their product.
    """

    id: str
    tenant_id: str
    pool: str
    lane: Lane
    params: EditParams
    inputs: dict[str, InputRef]
    request: dict[str, Any]
    step_key: str
    call_key: str
    cost: float
    max_tries: int
    deadline_seconds: int
    expires_in_seconds: int
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    external_id: str | None = None
    warnings: tuple[dict[str, str], ...] = ()
    retry_of: str | None = None
    scale: float = 1.0
    batch_id: str | None = None


@dataclass(frozen=True, slots=True)
class AcceptedRequest:
    """What a job was asked to be: its request as JSON, and those of its inputs that are stored, by role.

    An input that was still to be fetched stands in the request, with its `url`.
    """

    request: dict[str, Any]
    inputs: dict[str, InputRef]


@dataclass(frozen=True, slots=True)
class DoneStep:
    """A finished pass of a job, by an earlier attempt: the object that holds exactly what it handed on."""

    number: int
    key: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that this worker holds: `fence` proves it in every later write; `tries` counts this claim.

    `done_steps` are the passes that need not run again, in order and without a gap.
    """

    id: str
    tenant_id: str
    fence: int
    tries: int
    max_tries: int
    solo: bool
    solo_crashes: int
    created_at: datetime
    deadline_at: datetime
    params: EditParams
    inputs: dict[str, InputRef]
    done_steps: tuple[DoneStep, ...] = ()
    lane: Lane = Lane.NORMAL


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One result as it lies in the object store; `sha256` is of the encoded bytes."""

    index: int
    key: str
    seed: int
    width: int
    height: int
    content_type: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A full snapshot of how far an attempt is: `step` of `steps` summed over the job's frames."""

    stage: str
    step: int
    steps: int
