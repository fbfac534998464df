"""The events of one job: one stream to whoever reads it, over as many connections as that takes."""

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import httpx

from client.errors import ClientError, ConnectionFailed, DarkroomAPIError
from client.event_stream import EventStreamParser, ServerEvent
from client.patience import RETRYABLE_STATUSES, reconnect_wait
from client.transport import Transport, read_body
from common.domain.lifecycle import TERMINAL

EventKind: TypeAlias = Literal["status", "progress", "preview", "output", "done"]

# The server says something every 15 s at the least; a stream that misses three of its pings is dead.
SILENCE_SECONDS: Final = 45.0

_KINDS: Final = frozenset(get_args(EventKind))
_PASSING: Final = frozenset({"progress", "preview"})
_ID: Final = re.compile(r"([0-9]{1,15})\.([0-9]{1,15})")
_BEFORE_ALL: Final = (-1, -1)


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job. `id` is `<version>.<number>`; `data` is the server's JSON.

    `status`: a new version; the first one of a stream has the whole job in `data["job"]`. `progress`: how far it is, in
    full. `preview`: there is a new rough picture. `output`: one finished picture. `done`: the whole finished job.
    """

    kind: EventKind
    id: str
    data: dict[str, Any]


class JobStream:
    """Iterate over it, once: what happens to a job from now on, or strictly after the event `since`, until `done`.

    Connects again whenever a connection is refused, breaks, ends early or is silent for 45 s, for as long as the server
    can be reached at least every `retry_seconds` of the transport. Every event comes once and in order; of progress and
    previews only what is newest. To who has seen all, `done` is told once more. Raises `DarkroomAPIError` for a refusal
    that will stay, `ConnectionFailed` when patience ends. Ends without `done` only at `end_at`, a moment of the
    transport's clock. Without `insists` a first connection that fails is not tried again.
    """

    def __init__(
        self,
        transport: Transport,
        address: str,
        since: str | None = None,
        *,
        end_at: float | None = None,
        insists: bool = True,
        luck: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport
        self._address = address
        self._cursor = _Cursor(since)
        self._end_at = end_at
        self._insists = insists
        self._luck = luck
        self._retry_seconds: float | None = None
        self._attempts = 0  # since the last event
        self._failing_since: float | None = None  # since the last byte

    def __iter__(self) -> Iterator[JobEvent]:
        while not self._cursor.is_done and not self._is_over():
            try:
                yield from self._connection()
                failure: ClientError = ConnectionFailed(f"{self._address} ended before the job did")
            except ConnectionFailed as error:
                failure = error
            except DarkroomAPIError as error:
                if error.status < httpx.codes.INTERNAL_SERVER_ERROR and error.status not in RETRYABLE_STATUSES:
                    raise
                failure = error
            if not self._cursor.is_done and not self._is_over():
                self._wait(failure)

    def _connection(self) -> Iterator[JobEvent]:
        headers = {"Last-Event-ID": self._cursor.last_id} if self._cursor.last_id else {}
        with self._transport.stream(
            self._address, headers, silence_seconds=SILENCE_SECONDS, end_at=self._end_at
        ) as answer:
            if answer.status_code == httpx.codes.NO_CONTENT:  # nothing comes after what was seen
                yield from self._last_event()
                return
            parser = EventStreamParser()
            for piece in answer.iter_bytes():
                self._insists, self._failing_since = True, None
                for found in parser.feed(piece):
                    event = _read(found)
                    if event is not None and self._cursor.takes(event):
                        self._attempts = 0
                        yield event
                        if self._cursor.is_done:
                            return
                self._retry_seconds = parser.retry_seconds or self._retry_seconds

    def _last_event(self) -> Iterator[JobEvent]:
        """`done`, made of the job: a server whose job lost its pictures meanwhile has counted fewer events than we."""
        job = read_body(self._transport.request("GET", self._address.removesuffix("/events"), may_repeat=True))
        if job.get("status") in TERMINAL:
            version, number = _position(self._cursor.last_id or "") or (job["version"], 0)
            event = JobEvent("done", f"{version}.{number + 1}", job)
            self._cursor.takes(event)
            yield event

    def _wait(self, failure: ClientError) -> None:
        now = self._transport.clock()
        self._failing_since = now if self._failing_since is None else self._failing_since
        self._attempts += 1
        asked = failure.retry_after_seconds if isinstance(failure, DarkroomAPIError) else None
        pause = reconnect_wait(self._attempts, self._retry_seconds, asked, self._luck())
        if not self._insists or now + pause > self._failing_since + self._transport.retry_seconds:
            raise failure
        self._transport.sleep(pause if self._end_at is None else max(0.0, min(pause, self._end_at - now)))

    def _is_over(self) -> bool:
        return self._end_at is not None and self._transport.clock() >= self._end_at


class _Cursor:
    """What of a job has been seen, by (version, number)."""

    def __init__(self, since: str | None) -> None:
        self.last_id = since
        self.is_done = False
        self._settled = self._newest = _position(since or "") or _BEFORE_ALL
        self._passing: dict[str, JobEvent] = {}

    def takes(self, event: JobEvent) -> bool:
        """Whether this is news; then it has been seen."""
        position = _position(event.id)
        if position is None:
            return False
        is_news = self._is_news(event, position)
        if is_news and event.kind not in _PASSING:
            self._settled = position
        elif is_news:
            self._passing[event.kind] = event
        if position >= self._newest:
            self._newest, self.last_id = position, event.id
        self.is_done = self.is_done or event.kind == "done"
        return is_news

    def _is_news(self, event: JobEvent, position: tuple[int, int]) -> bool:
        if event.kind in _PASSING:
            return position >= self._newest and event != self._passing.get(event.kind)
        return position > self._settled


def merge_event(job: dict[str, Any], event: JobEvent) -> dict[str, Any]:
    """The Job as it is after the event, as far as the event tells: the whole of it by `done` and the first `status`.

    Otherwise `status`, `version`, `attempt`, `stage`, `progress` and `queue` are new and all else is as it was.
    """
    if event.kind == "done":
        return event.data
    if event.kind == "status":
        if "job" in event.data:
            return dict(event.data["job"])
        stage = job.get("stage") if event.data.get("status") == job.get("status") else None
        return job | {"stage": stage} | _members(event.data, "status", "version", "attempt")
    if event.kind == "progress":
        return job | _members(event.data, "status", "version", "stage", "progress", "queue")
    return job


def _members(data: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: data[name] for name in names if name in data}


def _read(found: ServerEvent) -> JobEvent | None:
    """None for a kind that this release does not know. Raises `ClientError` for data that is no JSON object."""
    if found.kind not in _KINDS:
        return None
    try:
        data = json.loads(found.data)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise ClientError(f"the event {found.id} of the stream is not as a Darkroom server writes it")
    return JobEvent(found.kind, found.id, data)  # type: ignore[arg-type]


def _position(event_id: str) -> tuple[int, int] | None:
    match = _ID.fullmatch(event_id)
    return None if match is None else (int(match[1]), int(match[2]))
