"""From values to the JSON of the answers that are not jobs, which are in `common.job_document`. Pure."""

from dataclasses import asdict
from typing import Any

from common.db.queue_stats import LaneDepth
from common.domain.catalogue import AdapterCard, ModelCard


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


def present_lane(lane: LaneDepth) -> dict[str, Any]:
    """One lane of the queue."""
    age = max(0.0, (lane.seen_at - lane.oldest_at).total_seconds())
    members = {"pool": lane.pool, "lane": lane.lane, "queued": lane.queued, "held": lane.held}
    return members | {"oldest_seconds": round(age, 3)}
