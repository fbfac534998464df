"""Names to addresses, all of which must be permitted, in bounded time."""

import socket
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from ipaddress import ip_address
from typing import Final, Protocol

from common.outbound.addresses import IPAddress, Policy, is_loopback
from common.outbound.deadline import Deadline
from common.outbound.errors import FetchFailed, LookupsBusy, NameUnknown, UrlBlocked
from common.outbound.urls import Target

LOOKUP_SECONDS: Final = 5.0
_NO_SUCH_NAME: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class Resolver(Protocol):
    """Looks names up. Safe for use by many threads."""

    def addresses(self, host: str, *, limit_seconds: float) -> Sequence[IPAddress]:
        """Every address of a lower-case ASCII name, best first.

        Raises OSError when there is none, TimeoutError (which is one) when it takes longer than `limit_seconds`.
        """


class SystemResolver:
    """`getaddrinfo`, which knows no time limit and so runs in a thread of its own that is left behind when it is late.

    At most `max_lookups` are under way at once, those left behind included, and of the names under one parent (the
    last two labels) at most a quarter of them: one slow name server must not keep all others from being asked.
    """

    def __init__(self, *, max_lookups: int = 64) -> None:
        self._most = max_lookups
        self._most_of_parent = max(1, max_lookups // 4)
        self._changed = threading.Condition()
        self._under_way: Counter[str] = Counter()

    def addresses(self, host: str, *, limit_seconds: float) -> Sequence[IPAddress]:
        """See `Resolver`. Raises `LookupsBusy` when none could be begun in half of the time."""
        deadline = Deadline(limit_seconds)
        parent = _parent_of(host)
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_slot(parent), limit_seconds / 2):
                raise LookupsBusy
            self._under_way[parent] += 1
        answer: Future[list[IPAddress]] = Future()
        try:
            # A daemon: an executor's thread would hold up the end of the process.
            threading.Thread(target=self._look_up, args=(host, answer), name="name-lookup", daemon=True).start()
        except RuntimeError:  # no more threads
            self._release(parent)
            raise LookupsBusy from None
        return answer.result(timeout=deadline.seconds_left())

    def _has_slot(self, parent: str) -> bool:
        return self._under_way.total() < self._most and self._under_way[parent] < self._most_of_parent

    def _look_up(self, host: str, answer: "Future[list[IPAddress]]") -> None:
        try:
            found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
            answer.set_result(list(dict.fromkeys(ip_address(sockaddr[0]) for *_, sockaddr in found)))
        except (OSError, ValueError) as error:
            answer.set_exception(error if isinstance(error, OSError) else OSError(str(error)))
        finally:
            self._release(_parent_of(host))

    def _release(self, parent: str) -> None:
        with self._changed:
            self._under_way[parent] -= 1
            self._under_way += Counter()  # forgets those at zero
            self._changed.notify_all()


def _parent_of(host: str) -> str:
    return ".".join(host.rsplit(".", 2)[-2:])


def resolve_public(
    target: Target, policy: Policy, resolver: Resolver, *, limit_seconds: float = LOOKUP_SECONDS
) -> tuple[IPAddress, ...]:
    """The addresses of a target, best first, at least one, each of them permitted. Looks the name up once.

    Raises `UrlBlocked` when a single one is not permitted, `FetchFailed` when the name has none or takes too long: as
    `NameUnknown` when there is no such name, as `LookupsBusy` when nobody was asked.
    """
    if target.address is not None:
        found: Sequence[IPAddress] = [target.address]
    else:
        found = _look_up(target.host, resolver, limit_seconds)
    if not all(_permits(policy, ip, target.port) for ip in found):
        raise UrlBlocked(
            f"The host {target.host} has an address, or on it a port, that is not allowed; "
            f"{policy.allowed_addresses} are, and only if all addresses of the host are such."
        )
    return tuple(found)


def _look_up(host: str, resolver: Resolver, limit_seconds: float) -> Sequence[IPAddress]:
    try:
        found = resolver.addresses(host, limit_seconds=limit_seconds)
    except TimeoutError as error:
        raise FetchFailed(f"The name {host} could not be looked up in time.", retryable=True) from error
    except OSError as error:
        if isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME:
            raise NameUnknown(host) from error
        raise FetchFailed(f"The name {host} could not be looked up.", retryable=True) from error
    if not found:
        raise FetchFailed(f"The name {host} has no address.", retryable=True)
    return found


def _permits(policy: Policy, ip: IPAddress, port: int) -> bool:
    return policy.permits_address(ip) and policy.permits_port(port, on_loopback=is_loopback(ip))
