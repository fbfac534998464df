"""HEAD, answered as GET without the body (RFC 9110, section 9.3.2)."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MARK: Final = "darkroom.head"


class HeadAsGet:
    """Lets every GET route answer HEAD with the same status and headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        scope["method"] = "GET"
        scope[_MARK] = True
        await self._app(scope, receive, send_without_body)


def is_head(scope: Scope) -> bool:
    """Whether this GET was a HEAD: a body without end must not be made for it."""
    return _MARK in scope
