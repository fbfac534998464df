"""Reading event streams in tests: plainly, by the lines, and apart from the SDK that does it for users."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpx

LASTING = ("status", "output", "done")


@dataclass(frozen=True, slots=True)
class Told:
    """One event; `raw` is its data as it came."""

    kind: str
    id: str
    raw: str

    @property
    def data(self) -> dict[str, Any]:
        """What it says."""
        found: dict[str, Any] = json.loads(self.raw)
        return found

    @property
    def place(self) -> tuple[int, int]:
        """Version and number."""
        version, number = self.id.split(".")
        return int(version), int(number)

    @property
    def lasting(self) -> tuple[str, str, str]:
        """What must be the same on every stream: all but the snapshot that a fresh stream begins with."""
        members = {name: value for name, value in self.data.items() if self.kind != "status" or name != "job"}
        return self.kind, self.id, json.dumps(members)


def read_told(lines: Iterable[str]) -> Iterator[Told]:
    """The events of a stream's lines; comments are passed over."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if not line and "data" in fields:
            yield Told(fields["event"], fields["id"], fields["data"])
        if not line:
            fields = {}
        elif name:
            fields[name] = value


def follow(
    client: httpx.Client,
    job_id: str,
    after: str | None = None,
    *,
    most: int | None = None,
    hear: Callable[[Told], None] = lambda event: None,
) -> tuple[int, list[Told]]:
    """The status of a stream and its events until it ends, or so many, after which the connection is cut.

    `hear` is called with each event when it comes.
    """
    headers = {"Last-Event-ID": after} if after else {}
    found: list[Told] = []
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        # Closed here, or it would be closed by whoever collects it, on a connection that is gone.
        with closing(read_told(answer.iter_lines())) as events:
            for event in events:
                found.append(event)
                hear(event)
                if len(found) == most:
                    break
        return answer.status_code, found


def lasting(events: Sequence[Told]) -> list[tuple[str, str, str]]:
    """What must be the same on every stream, in order."""
    return [event.lasting for event in events if event.kind in LASTING]


def goes_back(events: Sequence[Told]) -> list[Told]:
    """The events that are older than one before them."""
    newest, found = (0, 0), []
    for event in events:
        if event.place < newest:
            found.append(event)
        newest = max(newest, event.place)
    return found
