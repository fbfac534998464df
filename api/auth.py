"""Who asks, and whether they may."""

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from api.dependencies import Services, ServicesDep
from common.db.tenants import OPERATOR, Caller, find_caller
from common.domain.errors import Denied
from common.settings import Settings

_MAX_KEY_LENGTH: Final = 256

_bearer = HTTPBearer(auto_error=False, description="A key of `darkroom keys create`.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def check_door(settings: Settings) -> None:
    """Raises ValueError when anybody on the network could use this API without a key."""
    if settings.auth == "none" and not settings.is_loopback:
        raise ValueError(
            f"refusing to listen on {settings.host} without authentication: make a key with `darkroom keys create`, "
            "then set DARKROOM_AUTH=keys (or listen on 127.0.0.1)"
        )


def requires(scope: str) -> Any:
    """A dependency that yields the `Caller`; refuses with 401 without a valid key and with 403 without the scope."""
    return Depends(_caller_with(scope))


def _caller_with(scope: str) -> Callable[..., Awaitable[Caller]]:
    async def find(request: Request, services: ServicesDep, credentials: Credentials) -> Caller:
        if services.settings.auth == "none":
            _refuse_strangers(request)
            return OPERATOR
        caller = await run_in_threadpool(_caller_of, services, credentials)
        if scope not in caller.scopes:
            raise Denied(f"the key lacks the scope {scope}", code="forbidden")
        return caller

    return find


def _caller_of(services: Services, credentials: HTTPAuthorizationCredentials | None) -> Caller:
    if credentials is None:
        raise Denied("send Authorization: Bearer <key>")
    key = credentials.credentials
    if not key.isascii() or not key.isprintable() or len(key) > _MAX_KEY_LENGTH:
        raise Denied("the key is not valid")
    with services.database.read() as connection:
        caller = find_caller(connection, key)
    if caller is None:
        raise Denied("the key is not valid")
    return caller


def _refuse_strangers(request: Request) -> None:
    """Without keys, the browser of this machine must not be the tool of some web page.

    A foreign `Origin` is another site's page; a foreign `Host` is another site's name that resolves to us.
    """
    origin = request.headers.get("origin")
    if not _is_local(f"//{request.headers.get('host', '')}") or (origin and not _is_local(origin)):
        raise Denied("without keys, only this machine may ask; use 127.0.0.1 or localhost", code="forbidden")


def _is_local(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


Reader = Annotated[Caller, requires("jobs:read")]
Writer = Annotated[Caller, requires("jobs:write")]
WebhookOwner = Annotated[Caller, requires("webhooks")]
