"""What an outbound request can end with, other than an answer.

OutboundError
├── UrlBlocked      the URL leads where we do not go; the same URL is refused again
└── FetchFailed     nobody there, too slow, bad TLS, not HTTP; `retryable` tells whether to try again
    ├── FileTooLong the file has more bytes than were asked for
    ├── NameUnknown the name service says that there is no such name
    └── LookupsBusy we look up too many names at once: our own shortage, nothing was asked of the host
"""

from typing import ClassVar


class OutboundError(Exception):
    """Base of what this package raises. `code` is stable, `detail` a sentence that the user may see.

    A detail never names the addresses that a host has: that would map our network for whoever asks.
    """

    code: ClassVar[str]
    retryable = False

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class UrlBlocked(OutboundError):
    """The URL, or one that it redirects to, is not allowed; `detail` says what is."""

    code = "url_blocked"


class FetchFailed(OutboundError):
    """The URL is allowed, but the exchange did not succeed."""

    code = "input_fetch_failed"

    def __init__(self, detail: str, *, retryable: bool) -> None:
        super().__init__(detail)
        self.retryable = retryable


class FileTooLong(FetchFailed):
    """The file is longer than `max_bytes`, or says so."""

    def __init__(self, max_bytes: int) -> None:
        detail = f"The file has more than {max_bytes} bytes; at most {max_bytes} are allowed."
        super().__init__(detail, retryable=False)


class NameUnknown(FetchFailed):
    """There is no such name, says the name service; it may be made later."""

    def __init__(self, host: str) -> None:
        super().__init__(f"The name {host} could not be looked up: there is no such name.", retryable=True)


class LookupsBusy(FetchFailed):
    """No lookup could be begun. Says nothing of the host: not an attempt that should be counted."""

    def __init__(self) -> None:
        super().__init__("Too many names are being looked up just now.", retryable=True)
