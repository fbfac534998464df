"""Whether a server on this machine can develop anything yet."""

import httpx

_ANSWER_SECONDS = 2


def count_ready_workers(url: str) -> int | None:
    """How many workers are ready behind this server; None while the server itself is not."""
    try:
        answer = httpx.get(f"{url}/readyz", timeout=_ANSWER_SECONDS, trust_env=False)
        return int(answer.json().get("workers_ready", 0)) if answer.is_success else None
    except (httpx.TransportError, ValueError):
        return None
