"""What webhooks tell: the kinds of events, which of them an endpoint gets unless it says otherwise, and their ids."""

from typing import Final
from uuid import UUID, uuid4, uuid5

TEST_EVENT: Final = "webhook.test"
STARTED_EVENT: Final = "job.started"
DEFAULT_EVENTS: Final = ("job.succeeded", "job.failed", "job.canceled", "batch.completed", "batch.canceled")
EVENTS: Final = (STARTED_EVENT, *DEFAULT_EVENTS)
"""What an endpoint may subscribe to; `TEST_EVENT` is sent on request only."""

# Fixed for ever: receivers know an event by the id that follows from it.
_NAMESPACE: Final = UUID("6f1c3d0e-6c1f-5b8e-9a43-2f0f6f6f8a11")


def event_id(subject_id: str, version: int) -> str:
    """The `webhook-id` of the event that brought a job or batch to this version: `evt_` and 32 hexadecimal digits.

    The same for every endpoint, every attempt and every process.
    """
    return f"evt_{uuid5(_NAMESPACE, f'{subject_id}:{version}').hex}"


def test_event_id() -> str:
    """A fresh `webhook-id` for an event that nothing but a request has brought about."""
    return f"evt_{uuid4().hex}"
