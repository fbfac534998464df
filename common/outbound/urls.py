"""URLs given by users, as text: taken apart once and spelled anew, so that no two parsers can disagree."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

import idna

from common.outbound.addresses import IPAddress, Policy, is_loopback
from common.outbound.errors import UrlBlocked

MAX_URL_CHARACTERS: Final = 2048
MAX_HOST_CHARACTERS: Final = 253
MAX_PORT: Final = 65_535

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(:(?P<port>[0-9]*))?")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_KEPT_IN_PATHS: Final = "/:@!$&'()*+,;=~%?"


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that passed as text, in one spelling.

    `host` is a lower-case ASCII name, or an IP address without brackets, which is then `address` too. `path` starts
    with a slash, is percent-encoded and includes the query; there is no fragment.
    """

    scheme: str
    host: str
    port: int
    path: str
    address: IPAddress | None = None

    @property
    def authority(self) -> str:
        """Host and port as the `Host` header has them."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL in its one spelling."""
        return f"{self.scheme}://{self.authority}{self.path}"


def check_url(url: str, policy: Policy) -> Target:
    """Take a URL apart and refuse what `policy` does not permit. Looks no names up.

    Host names are converted to ASCII (UTS 46), IP addresses are judged. Raises `UrlBlocked` for everything that is
    wrong with the URL, with what is allowed in its detail.
    """
    parts = _split(url)
    if parts.scheme not in policy.allowed_schemes:
        raise UrlBlocked(f"The URL has the scheme {parts.scheme!r}; allowed is {' or '.join(policy.allowed_schemes)}.")
    if "@" in parts.netloc:
        raise UrlBlocked("The URL has a user name or password; a URL without them is allowed.")
    authority = _AUTHORITY.fullmatch(parts.netloc)
    if authority is None:
        raise UrlBlocked("The URL's host and port cannot be read; a host name, optionally with :port, is allowed.")
    host, address = _host(authority["host"])
    _check_host(host, address, policy)
    port = _port(authority["port"] or str(_DEFAULT_PORTS[parts.scheme]), policy)
    if not policy.permits_port(port, on_loopback=_is_local(host, address)):
        raise UrlBlocked(f"The URL has the port {port}; allowed is {_words(policy.allowed_ports)}.")
    return Target(parts.scheme, host, port, _path(parts), address)


def host_of(url: str) -> str:
    """The host that calls to this URL are counted under, spelled as `Target.host` is; "" when it has none to call.

    Whether the URL is permitted is not asked.
    """
    try:
        authority = _AUTHORITY.fullmatch(_split(url).netloc.rpartition("@")[2])
        return "" if authority is None else _host(authority["host"])[0]
    except UrlBlocked:
        return ""


def _split(url: str) -> SplitResult:
    if len(url) > MAX_URL_CHARACTERS:
        raise UrlBlocked(f"The URL has {len(url)} characters; at most {MAX_URL_CHARACTERS} are allowed.")
    if _CONTROL.search(url) or url != url.strip():
        raise UrlBlocked("The URL has control characters or spaces around it; a plain URL is allowed.")
    try:
        url.encode()
        return urlsplit(url)
    except ValueError as error:
        raise UrlBlocked("The URL cannot be read; one such as https://example.com/picture.png is allowed.") from error


def _host(text: str) -> tuple[str, IPAddress | None]:
    """The host in its one spelling, and as an address when it is one."""
    if text.startswith("["):
        address = _ipv6(text[1:-1])
        return str(address), address
    if len(text) > MAX_HOST_CHARACTERS:
        raise UrlBlocked(f"The URL's host has {len(text)} characters; at most {MAX_HOST_CHARACTERS} are allowed.")
    name = _ascii(text).lower().removesuffix(".")
    labels = name.split(".")
    # Resolvers read 127.1, 0x7f000001, 017700000001 and 2130706433 as 127.0.0.1: what ends in a number is no name.
    if _NUMBER.fullmatch(labels[-1]):
        return name, _ipv4(name)
    if len(name) > MAX_HOST_CHARACTERS or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlBlocked("The URL's host is no valid name; one such as example.com is allowed.")
    return name, None


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    try:
        return idna.encode(text, uts46=True).decode()
    except idna.IDNAError as error:
        raise UrlBlocked("The URL's host is no valid international name; one such as bücher.de is allowed.") from error


def _ipv4(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError as error:
        raise UrlBlocked(
            "The URL's host is an unusual spelling of an IPv4 address; four decimal numbers are allowed."
        ) from error


def _ipv6(text: str) -> IPv6Address:
    try:
        address = IPv6Address(text)
    except ValueError as error:
        raise UrlBlocked("The URL's host is no IPv6 address; a host name is allowed.") from error
    if address.scope_id is not None:
        raise UrlBlocked("The URL's host is an IPv6 address with a zone; one without is allowed.")
    return address


def _check_host(host: str, address: IPAddress | None, policy: Policy) -> None:
    if address is not None:
        is_permitted = policy.permits_address(address)
    else:  # a name without a dot is one of our own network's
        is_permitted = "." in host or policy.allow_private or (policy.allow_loopback and _is_local(host, None))
    if not is_permitted:
        raise UrlBlocked(f"The URL's host is not allowed; names and {policy.allowed_addresses} are.")


def _port(digits: str, policy: Policy) -> int:
    port = int(digits)
    if not 1 <= port <= MAX_PORT:
        what = f"The URL has the port {digits[:20]}, which is no port number from 1 to {MAX_PORT}"
        raise UrlBlocked(f"{what}; allowed is {_words(policy.allowed_ports)}.")
    return port


def _is_local(host: str, address: IPAddress | None) -> bool:
    """True when the host is this machine's loopback by its spelling (RFC 6761); its addresses are judged later."""
    if address is not None:
        return is_loopback(address)
    return host == "localhost" or host.endswith(".localhost")


def _path(parts: SplitResult) -> str:
    path = parts.path if parts.path.startswith("/") else f"/{parts.path}"
    return quote(f"{path}?{parts.query}" if parts.query else path, safe=_KEPT_IN_PATHS)


def _words(ports: frozenset[int]) -> str:
    return " or ".join(str(port) for port in sorted(ports))
