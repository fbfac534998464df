"""Kombu's filesystem transport, mended in two places: a message appears whole, and one that cannot be read is skipped.

As it comes, a consumer may take a file between its creation and its first byte, and dies of the empty message.
"""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):
    """Writes under a name that no consumer looks for, then renames."""

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:  # type: ignore[override]
        folder = Path(self.data_folder_out)
        name = f"{uuid4()}.{queue}.msg"
        part = folder / f"{name}.part"
        part.write_text(dumps(message))
        os.replace(part, folder / name)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        while True:
            try:
                return super()._get(queue)  # type: ignore[no-untyped-call]
            except ValueError:  # not JSON: it has been taken away, so the next look finds the next one
                continue


class Transport(filesystem.Transport):
    """`filesystem://` with that channel."""

    Channel = Channel


def mend_filesystem_transport() -> None:
    """Let `filesystem://` mean this module's transport in this process."""
    TRANSPORT_ALIASES["filesystem"] = f"{__name__}:Transport"
