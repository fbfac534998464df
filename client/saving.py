"""Large answers on their way into files: streamed, compared, and whole as soon as they have their name."""

import hashlib
import os
from pathlib import Path
from typing import Final

from client.errors import ClientError
from client.transport import Transport

_TRIES: Final = 3


def save(transport: Transport, address: str, target: Path, sha256: str | None = None) -> Path:
    """The file with what is at `address`, under another name until it is there as a whole; what stood there is gone.

    Raises `ClientError` when it cannot be had, or does not have this `sha256`, and OSError.
    """
    unfinished = target.with_name(f"{target.name}.part")
    try:
        for _ in range(_TRIES):
            found = transport.insist(lambda: _fetch(transport, address, unfinished))
            if sha256 is None or found == sha256:
                os.replace(unfinished, target)
                return target
    finally:
        unfinished.unlink(missing_ok=True)
    raise ClientError(f"{target.name} does not come as the server has it: its SHA-256 is another one")


def _fetch(transport: Transport, address: str, path: Path) -> str:
    """One try; the SHA-256 of what came."""
    digest = hashlib.sha256()
    with transport.download(address, accept="*/*") as answer, path.open("wb") as file:
        for piece in answer.iter_bytes():
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()
