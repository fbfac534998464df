"""What the SDK raises.

ClientError
├── DarkroomAPIError    the server answered that it will not or cannot
├── ConnectionFailed    no answer at all, also after trying again
├── WaitTimeout         the job is still on its way when the patience of `wait` ends (also a TimeoutError)
└── WebhookVerificationError    a delivery that is not to be trusted
"""

from collections.abc import Mapping, Sequence
from typing import Any


class ClientError(Exception):
    """Base of everything that the SDK raises; its text is one readable sentence."""


class DarkroomAPIError(ClientError):
    """The server's answer, an RFC 9457 problem. `code` is stable; `errors` names each wrong field.

    `retry_after_seconds` is how long the server asks to wait before trying again, None when it says nothing.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        request_id: str | None = None,
        retryable: bool = False,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(f"{detail} ({code})")
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.request_id = request_id
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds

    def describe(self) -> str:
        """The sentence and, a line each, the wrong fields; none says the same once more."""
        wrong = [one for one in self.errors if one.get("detail") != self.detail]
        return str(self) + "".join(f"\n  {one.get('pointer')}: {one.get('detail')}" for one in wrong)


class ConnectionFailed(ClientError):
    """The server cannot be reached, or went away in the middle of an answer."""


class WaitTimeout(ClientError, TimeoutError):
    """The job is not finished yet. It goes on; `wait` again or cancel it."""


class WebhookVerificationError(ClientError):
    """A delivery that is not from who holds the secret, was altered, or is too old: do not act on it."""
