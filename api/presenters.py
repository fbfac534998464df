"""From values to the JSON of the answers that are not jobs, which are in `common.job_document`. Pure."""

from dataclasses import asdict
from typing import Any

from common.clock import to_rfc3339
from common.db.deliveries import Delivery
from common.db.queue_stats import Depth
from common.db.webhooks import Webhook
from common.domain.catalogue import AdapterCard, ModelCard
from common.ids import is_id


def present_model(card: ModelCard, resident: int) -> dict[str, Any]:
    """A card of the catalogue; `resident` workers have it in memory."""
    return {
        "id": card.id,
        "title": card.title,
        "tasks": sorted(card.tasks),
        "native_size": card.native_size,
        "licence": card.licence,
        "note": card.note,
        "family": card.family,
        "engine": "step" if card.capability.is_continuous else "pipeline",
        "pool": card.pool,
        "defaults": asdict(card.defaults),
        "schedulers": list(card.capability.schedulers),
        "size_step": card.capability.size_step,
        "adapters": [_present_adapter(one) for one in card.adapters.values()],
        "resident_workers": resident,
    }


def _present_adapter(adapter: AdapterCard) -> dict[str, str]:
    return {"id": adapter.id, "title": adapter.title, "licence": adapter.licence, "note": adapter.note}


def present_depth(depth: Depth) -> dict[str, Any]:
    """One lane of the queue, or one model in it."""
    age = max(0.0, (depth.seen_at - depth.oldest_at).total_seconds())
    model = {} if depth.model is None else {"model": depth.model}
    counts = {"queued": depth.queued, "held": depth.held, "oldest_seconds": round(age, 3)}
    return {"pool": depth.pool, "lane": depth.lane, **model, **counts}


def webhook_url(base: str, webhook_id: str) -> str:
    """The address of a webhook; `base` is that of the API without the final slash."""
    return f"{base}/v1/webhooks/{webhook_id}"


def present_webhook(webhook: Webhook, base: str) -> dict[str, Any]:
    """An endpoint, without its secret."""
    url = webhook_url(base, webhook.id)
    return {
        "id": webhook.id,
        "url": webhook.url,
        "description": webhook.description,
        "events": list(webhook.events),
        "status": "enabled" if webhook.disabled_at is None else "disabled",
        "disabled_reason": webhook.disabled_reason,
        "failing_since": to_rfc3339(webhook.failing_since),
        "created_at": to_rfc3339(webhook.created_at),
        "old_secret_until": to_rfc3339(webhook.old_secret_until),
        "urls": {
            "self": url,
            "test": f"{url}/test",
            "rotate": f"{url}/rotate",
            "enable": f"{url}/enable",
            "deliveries": f"{base}/v1/deliveries?webhook={webhook.id}",
        },
    }


def present_delivery(delivery: Delivery) -> dict[str, Any]:
    """One event on its way to one endpoint, without its body."""
    return {
        "id": delivery.id,
        "webhook": delivery.webhook_id,
        "job": delivery.subject_id if is_id(delivery.subject_id or "", "job") else None,
        "batch": delivery.subject_id if is_id(delivery.subject_id or "", "bat") else None,
        "event": delivery.kind,
        "event_id": delivery.event_id,
        "url": delivery.url,
        "status": delivery.state,
        "attempt": delivery.attempt,
        "next_at": to_rfc3339(delivery.next_at),
        "created_at": to_rfc3339(delivery.created_at),
        "ended_at": to_rfc3339(delivery.ended_at),
        "log": delivery.log,
    }
