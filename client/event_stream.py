"""Server-sent events as the WHATWG HTML standard has them: bytes in, events out. Pure; it neither reads nor waits."""

import re
from dataclasses import dataclass
from typing import Final

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event of any stream. `id` is the last one that the stream named, empty before the first."""

    kind: str
    id: str
    data: str


class EventStreamParser:
    """Takes one stream, cut into pieces anywhere: the events are the same whatever the cuts.

    `retry_seconds` is how long the stream last asked to wait before connecting again, None before it did.
    """

    def __init__(self) -> None:
        self.retry_seconds: float | None = None
        self._unfinished: list[bytes] = []
        self._may_skip_line_feed = False
        self._is_first_line = True
        self._id = ""
        self._kind = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that this piece completes. What is not completed by a blank line never becomes one."""
        if not piece:
            return []
        if self._may_skip_line_feed:  # a carriage return has already ended the line; this is its other half
            piece = piece.removeprefix(b"\n")
        self._may_skip_line_feed = piece.endswith(b"\r")
        first, *others = _LINE_END.split(piece)
        self._unfinished.append(first)
        events = []
        for following in others:
            event = self._take(self._finished_line())
            self._unfinished = [following]
            if event is not None:
                events.append(event)
        return events

    def _finished_line(self) -> str:
        line = b"".join(self._unfinished)
        if self._is_first_line:
            line = line.removeprefix(_BYTE_ORDER_MARK)
            self._is_first_line = False
        return line.decode("utf-8", "replace")

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._kind = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_seconds = int(value[:9]) / 1000
        return None  # a comment has no name, and every other name means nothing

    def _dispatch(self) -> ServerEvent | None:
        kind, data = self._kind or "message", self._data
        self._kind, self._data = "", []
        return ServerEvent(kind, self._id, "\n".join(data)) if data else None
