"""Which addresses and ports a URL given by a user may lead to. Decides only; standard library only.

The tables are our own, from the IANA special-purpose registries: those of CPython before 3.12.4 are wrong
(CVE-2024-4032), and none knows of clouds.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1"))
_PRIVATE: Final = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
# Where clouds answer their machines with credentials, as far as it is not link-local anyway. Never permitted.
_METADATA: Final = frozenset(map(ip_address, ("168.63.129.16", "fd00:ec2::254", "fd20:ce::254")))
# What is in use of IPv6. Outside lie ::/96, ::ffff:0:0/96, 64:ff9b::/96, 64:ff9b:1::/48, 100::/64, 5f00::/16,
# fc00::/7, fe80::/10, fec0::/10 and ff00::/8, and whatever may be given a meaning later.
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_DENIED: Final[tuple[IPNetwork, ...]] = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",  # "this network"
            "10.0.0.0/8",
            "100.64.0.0/10",  # carrier-grade NAT
            "127.0.0.0/8",
            "169.254.0.0/16",  # link-local, with the metadata services
            "172.16.0.0/12",
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
            "2001::/23",  # protocol assignments, with Teredo, which embeds IPv4 (2001::/32)
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which embeds IPv4
            "3fff::/20",  # documentation
        ),
    )
)


def is_public(ip: IPAddress) -> bool:
    """True when the address belongs to the public internet, whatever CPython's tables say.

    False for every IPv6 address that carries an IPv4 one in a registered way, and for all that have a scope id. The
    prefix of a NAT64 of one's own cannot be known here: put it into `Policy.extra_denied`.
    """
    if has_scope(ip) or ip in _METADATA or _is_within(ip, _DENIED):
        return False
    return (ip.version == 4 or ip in _GLOBAL_UNICAST) and ip.is_global and not ip.is_multicast


def is_loopback(ip: IPAddress) -> bool:
    """True within 127.0.0.0/8 and for ::1, not for IPv6 addresses that embed one of the former."""
    return not has_scope(ip) and _is_within(ip, _LOOPBACK)


def has_scope(ip: IPAddress) -> bool:
    """True for IPv6 addresses that name an interface, such as fe80::1%eth0."""
    return isinstance(ip, IPv6Address) and ip.scope_id is not None


@dataclass(frozen=True, slots=True)
class Policy:
    """What users' URLs may lead to: by default https on two ports of public addresses.

    `allow_http` adds http and `http_ports`; `allow_loopback` every port of this machine's loopback; `allow_private`
    the private networks (RFC 1918, fc00::/7). `extra_denied`, for the ranges of our own nodes and services, beats
    them all, and nothing permits link-local addresses, metadata services, or IPv6 that embeds IPv4.
    """

    allow_http: bool = False
    allow_loopback: bool = False
    allow_private: bool = False
    extra_denied: tuple[IPNetwork, ...] = ()
    ports: frozenset[int] = frozenset({443, 8443})
    http_ports: frozenset[int] = frozenset({80, 8080})

    def permits_address(self, ip: IPAddress) -> bool:
        """True when a connection to this address may be opened."""
        if has_scope(ip) or ip in _METADATA or _is_within(ip, self.extra_denied):
            return False
        if is_loopback(ip):
            return self.allow_loopback
        if _is_within(ip, _PRIVATE):
            return self.allow_private
        return is_public(ip)

    def permits_port(self, port: int, *, on_loopback: bool) -> bool:
        """True when this port may be connected to, on a loopback address or on another."""
        return port in self.allowed_ports or (on_loopback and self.allow_loopback and 0 < port < 65536)

    @property
    def allowed_ports(self) -> frozenset[int]:
        """The ports that are permitted on every permitted address."""
        return self.ports | self.http_ports if self.allow_http else self.ports

    @property
    def allowed_schemes(self) -> tuple[str, ...]:
        """The schemes that are permitted, the usual one first."""
        return ("https", "http") if self.allow_http else ("https",)

    @property
    def allowed_addresses(self) -> str:
        """The permitted addresses, in words."""
        kinds = ["public"]
        if self.allow_private:
            kinds.append("private")
        if self.allow_loopback:
            kinds.append("loopback")
        return f"{' and '.join(kinds)} addresses"


def _is_within(ip: IPAddress, networks: tuple[IPNetwork, ...]) -> bool:
    return any(ip in network for network in networks)
