"""What a host answers: its headers, and its body whole or its body's start."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import httpcore

from common.outbound.bodies import PIECE_BYTES, decoded, limited
from common.outbound.errors import FetchFailed, FileTooLong

_WORTH_ANOTHER_TRY: Final = frozenset({408, 425, 429})


def headers_of(response: httpcore.Response) -> dict[str, str]:
    """The headers by lower-case name; those that come repeatedly are joined by commas."""
    joined: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("utf-8", "replace")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def media_type(headers: Mapping[str, str]) -> str | None:
    """What the host says that it sends, such as `image/png`, without parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() or None


def whole_body(response: httpcore.Response, headers: Mapping[str, str], max_bytes: int) -> bytes:
    """The body without its content coding. Raises `FetchFailed` when the status is not 200, `FileTooLong`."""
    if response.status != 200:
        is_worth_it = response.status >= 500 or response.status in _WORTH_ANOTHER_TRY
        raise FetchFailed(f"The host answered with status {response.status}, not with 200.", retryable=is_worth_it)
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise FileTooLong(max_bytes)
    # Counted on both sides: a coded body can be endless and inflate to nothing.
    pieces = limited(response.iter_stream(), max_bytes)
    return b"".join(limited(decoded(pieces, headers.get("content-encoding", "")), max_bytes))


def start_of_body(response: httpcore.Response, headers: Mapping[str, str], max_bytes: int) -> bytes:
    """What comes of the body without its content coding, up to `max_bytes`. That it breaks off is no error."""
    start = bytearray()
    with suppress(FetchFailed, httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError):
        pieces = limited(response.iter_stream(), max_bytes + PIECE_BYTES)
        for piece in decoded(pieces, headers.get("content-encoding", "")):
            start += piece
            if len(start) >= max_bytes:
                break
    return bytes(start[:max_bytes])
