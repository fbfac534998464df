"""Messages between the decoder and its child: two lengths, a small JSON object, a body. Never pickle.

A message is the header's and the body's length in bytes (two unsigned 32-bit big-endian numbers), the header as JSON
in UTF-8, and the body as it is.
"""

import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, Final

_LENGTHS: Final = struct.Struct(">II")
_MAX_HEADER_BYTES: Final = 4096


def send(peer: socket.socket, header: Mapping[str, Any], body: bytes = b"", *, deadline: float | None = None) -> None:
    """Send one message. `deadline` is a value of `time.monotonic()`; None waits without end.

    Raises TimeoutError at the deadline and OSError when the peer is gone.
    """
    head = json.dumps(header).encode()
    _await(peer, deadline)
    peer.sendall(_LENGTHS.pack(len(head), len(body)) + head)
    _await(peer, deadline)
    peer.sendall(body)


def receive(peer: socket.socket, *, max_body_bytes: int, deadline: float | None = None) -> tuple[dict[str, Any], bytes]:
    """The next message as (header, body), whole or not at all.

    Raises EOFError when the peer closes, TimeoutError at the deadline, OSError when the connection breaks, and
    ValueError for a message that is longer than agreed or not made as above.
    """
    head_bytes, body_bytes = _LENGTHS.unpack(_receive_exactly(peer, _LENGTHS.size, deadline))
    if head_bytes > _MAX_HEADER_BYTES or body_bytes > max_body_bytes:
        raise ValueError(f"a message of {head_bytes} + {body_bytes} bytes is longer than agreed")
    header = json.loads(_receive_exactly(peer, head_bytes, deadline))
    if not isinstance(header, dict):
        raise ValueError("the header of a message is not a JSON object")
    return header, _receive_exactly(peer, body_bytes, deadline)


def _receive_exactly(peer: socket.socket, size_bytes: int, deadline: float | None) -> bytes:
    buffer = bytearray(size_bytes)
    view, filled = memoryview(buffer), 0
    while filled < size_bytes:
        _await(peer, deadline)
        received = peer.recv_into(view[filled:])
        if received == 0:
            raise EOFError("the peer closed the connection")
        filled += received
    return bytes(buffer)


def _await(peer: socket.socket, deadline: float | None) -> None:
    """Let the next call on `peer` wait no longer than until `deadline`."""
    if deadline is None:
        peer.settimeout(None)
        return
    left_seconds = deadline - time.monotonic()
    if left_seconds <= 0:
        raise TimeoutError("the deadline passed")
    peer.settimeout(left_seconds)
