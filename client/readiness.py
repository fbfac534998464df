"""Whether a server can develop anything yet."""

from client.errors import ClientError
from client.sdk import Darkroom

_ANSWER_SECONDS = 2


def count_ready_workers(url: str) -> int | None:
    """How many workers are ready behind this server; None while the server itself is not."""
    with Darkroom(url, timeout=_ANSWER_SECONDS, retry_seconds=0) as server:
        try:
            return int(server.ready().get("workers_ready", 0))
        except ClientError:
            return None
