"""How the folder command ends early."""

from typing import Literal

from client.errors import ClientError


class FolderError(ClientError):
    """What stops the command, in a readable sentence; exit code 2 for what was asked wrongly."""

    def __init__(self, text: str, *, exit_code: Literal[1, 2] = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Stopped(ClientError):
    """Another thread, or the user, has stopped this run."""
