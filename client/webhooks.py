"""Webhooks at the receiver: is this delivery Darkroom's, and what does it say?

from client.webhooks import WebhookVerificationError, verify_webhook

event = verify_webhook(request.headers, await request.body(), secret)
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from client.errors import WebhookVerificationError
from common.signing import BadSignature, key_of, verify

__all__ = ["WebhookEvent", "WebhookVerificationError", "verify_webhook"]


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """What happened. `id` is the same however often it is delivered; `timestamp`, in UTC, is when it happened.

    `type` is `job.succeeded` and the like. `data` is the Job without prompts and params; deliveries may overtake one
    another, and its `version` says which is newer.
    """

    id: str
    type: str
    timestamp: datetime
    data: dict[str, Any]


def verify_webhook(headers: Mapping[str, str], body: bytes, secret: str, *, now: float | None = None) -> WebhookEvent:
    """The event of a delivery that is Darkroom's, unaltered, and sent within 300 s of `now` (Unix; default: the clock).

    `body` is what came over the wire, not JSON written anew; header names are read in any case; `secret` is the
    endpoint's `whsec_…`. While a secret rotates, both the new and the old one verify. The same delivery verifies again
    within the 300 s: remember its `id`. Raises `WebhookVerificationError`, and ValueError for a secret that is none.
    """
    key_of(secret)
    try:
        verify(headers, body, secret, now=time.time() if now is None else now)
        event_id = next(value for name, value in headers.items() if name.lower() == "webhook-id")
        return _read(event_id, body)
    except BadSignature as error:
        raise WebhookVerificationError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:  # ValueError also for headers that are no text
        raise WebhookVerificationError(f"the delivery is not as Darkroom writes it: {error}") from error


def _read(event_id: str, body: bytes) -> WebhookEvent:
    document = json.loads(body)
    data = document["data"]
    if not isinstance(data, dict):
        raise TypeError("data is no object")
    return WebhookEvent(event_id, str(document["type"]), datetime.fromisoformat(document["timestamp"]), data)
