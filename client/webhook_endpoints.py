"""Webhooks at the server: the endpoints that are told of every job, and the log of what they were told."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from client.transport import Transport, quoted, read_body


@dataclass(frozen=True, slots=True, repr=False)
class Webhook:
    """A standing endpoint; `raw` is the server's JSON."""

    raw: dict[str, Any]

    def __repr__(self) -> str:
        return f"Webhook({self.id!r}, {self.url!r})"  # and not its secret, which would land in logs

    @property
    def id(self) -> str:
        """The id, `whe_…`."""
        return str(self.raw["id"])

    @property
    def url(self) -> str:
        """Where deliveries go."""
        return str(self.raw["url"])

    @property
    def events(self) -> tuple[str, ...]:
        """What it is told of."""
        return tuple(self.raw.get("events") or ())

    @property
    def status(self) -> str:
        """`enabled` or `disabled`; then `raw["disabled_reason"]` says why."""
        return str(self.raw["status"])

    @property
    def description(self) -> str:
        """What people call it, "" when it has no name."""
        return self.raw.get("description") or ""

    @property
    def secret(self) -> str | None:
        """`whsec_…` as `create` and `rotate` answer it, this once; None ever after."""
        return self.raw.get("secret")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one endpoint; `raw` is the server's JSON, its `log` every attempt."""

    raw: dict[str, Any]

    @property
    def id(self) -> str:
        """The id, `whd_…`."""
        return str(self.raw["id"])

    @property
    def event(self) -> str:
        """`job.succeeded` and the like."""
        return str(self.raw["event"])

    @property
    def status(self) -> str:
        """`pending`, `delivered`, `failed` or `disabled`."""
        return str(self.raw["status"])

    @property
    def next_at(self) -> datetime | None:
        """When the next attempt is due; None once there will be none."""
        moment = self.raw.get("next_at")
        return None if moment is None else datetime.fromisoformat(moment)

    @property
    def log(self) -> tuple[dict[str, Any], ...]:
        """Every attempt, oldest first: `at`, `status`, `ms`, `response`, `error`."""
        return tuple(self.raw.get("log") or ())


class Webhooks:
    """The standing endpoints of the key's tenant, as `Darkroom.webhooks`. Needs the scope `webhooks`.

    Every method raises `ClientError`. What makes a secret or a delivery is not tried again when its answer was lost.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        url: str,
        *,
        events: Sequence[str] | None = None,
        secret: str | None = None,
        description: str | None = None,
    ) -> Webhook:
        """Tell `url` of these events from now on, by default of the end of every job.

        Without a `secret` of yours the server makes one; keep the answer's.
        """
        wishes = {"url": url, "events": None if events is None else list(events)}
        wishes |= {"secret": secret, "description": description}
        given = {name: value for name, value in wishes.items() if value is not None}
        return Webhook(self._ask("POST", "", may_repeat=False, json=given))

    def list(self) -> Iterator[Webhook]:
        """Every endpoint, newest first."""
        return map(Webhook, self._transport.pages("v1/webhooks"))

    def get(self, webhook_id: str) -> Webhook:
        """One endpoint."""
        return Webhook(self._ask("GET", f"/{quoted(webhook_id)}"))

    def delete(self, webhook_id: str) -> None:
        """Forget the endpoint and its deliveries; nothing more is sent."""
        self._transport.request("DELETE", f"v1/webhooks/{quoted(webhook_id)}", may_repeat=True)

    def rotate(self, webhook_id: str, *, secret: str | None = None) -> Webhook:
        """The endpoint with a new `secret`; for 24 hours deliveries are signed with the old one too."""
        given = {} if secret is None else {"secret": secret}
        return Webhook(self._ask("POST", f"/{quoted(webhook_id)}/rotate", may_repeat=False, json=given))

    def test(self, webhook_id: str) -> Delivery:
        """Send the endpoint a `webhook.test`; the delivery says in time how that went."""
        return Delivery(self._ask("POST", f"/{quoted(webhook_id)}/test", may_repeat=False))

    def enable(self, webhook_id: str) -> Webhook:
        """Let deliveries go to an endpoint again that was disabled."""
        return Webhook(self._ask("POST", f"/{quoted(webhook_id)}/enable"))

    def _ask(self, method: str, path: str, *, may_repeat: bool = True, **content: Any) -> dict[str, Any]:
        return read_body(self._transport.request(method, f"v1/webhooks{path}", may_repeat=may_repeat, **content))


def list_deliveries(transport: Transport, filters: Mapping[str, str | None]) -> Iterator[Delivery]:
    """See `Darkroom.deliveries`."""
    return map(Delivery, transport.pages("v1/deliveries", filters))


def redeliver(transport: Transport, delivery_id: str) -> Delivery:
    """See `Darkroom.redeliver`."""
    address = f"v1/deliveries/{quoted(delivery_id)}/redeliver"
    return Delivery(read_body(transport.request("POST", address, may_repeat=True)))


def redeliver_many(transport: Transport, filters: Mapping[str, str | None]) -> int:
    """See `Darkroom.redeliver_failed` and `redeliver_pending`."""
    given = {name: value for name, value in filters.items() if value is not None}
    return int(
        read_body(transport.request("POST", "v1/deliveries/redeliver", may_repeat=True, json=given))["redelivered"]
    )
