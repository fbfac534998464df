"""The log of what webhooks were told, as methods of `Darkroom`."""

from collections.abc import Iterator

from client.transport import Transport, quoted, read_body
from client.webhook_endpoints import Delivery, list_deliveries, redeliver, redeliver_many


class DeliveryLog:
    """The part of `Darkroom` that is about deliveries. Every method raises `ClientError`."""

    _transport: Transport

    def deliveries(
        self, *, job: str | None = None, webhook: str | None = None, status: str | None = None
    ) -> Iterator[Delivery]:
        """What webhooks were told or will be, newest first: all, or those of a job, of an endpoint, with a status."""
        return list_deliveries(self._transport, {"job": job, "webhook": webhook, "status": status})

    def delivery(self, delivery_id: str) -> Delivery:
        """One delivery; `raw["body"]` is what is sent."""
        return Delivery(
            read_body(self._transport.request("GET", f"v1/deliveries/{quoted(delivery_id)}", may_repeat=True))
        )

    def redeliver(self, delivery_id: str) -> Delivery:
        """Send a delivery once more, whatever became of it; its id for the receiver is the same."""
        return redeliver(self._transport, delivery_id)

    def redeliver_failed(
        self,
        *,
        job: str | None = None,
        webhook: str | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
    ) -> int:
        """Send again what failed for good, all or within these bounds (RFC 3339 times). Returns how many."""
        bounds = {"created_after": created_after, "created_before": created_before}
        return redeliver_many(self._transport, {"job": job, "webhook": webhook, "status": "failed", **bounds})

    def redeliver_pending(self, *, job: str | None = None, webhook: str | None = None) -> int:
        """Send now what waits for its next attempt. Returns how many."""
        return redeliver_many(self._transport, {"job": job, "webhook": webhook, "status": "pending"})
