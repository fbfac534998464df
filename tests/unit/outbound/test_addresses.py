"""Which addresses and ports are permitted, the embeddings of IPv4 in IPv6 above all."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.outbound.addresses import Policy, is_loopback, is_public

DENIED_IPV4 = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "168.63.129.16/32",
]
DENIED_IPV6 = [
    "::/96",
    "::1/128",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "fd00:ec2::254/128",
]
NETWORKS = [ip_network(text) for text in DENIED_IPV4 + DENIED_IPV6]
EVERYTHING = Policy(allow_http=True, allow_loopback=True, allow_private=True)

EMBEDDINGS: dict[str, Callable[[int], int]] = {
    "mapped": lambda ip: 0xFFFF << 32 | ip,
    "compatible": lambda ip: ip,
    "translated": lambda ip: 0xFFFF << 48 | ip,
    "nat64": lambda ip: 0x64FF9B << 96 | ip,
    "local nat64": lambda ip: 0x64FF9B0001 << 80 | (ip >> 16) << 64 | (ip & 0xFFFF) << 40,
    "6to4": lambda ip: 0x2002 << 112 | ip << 80,
    "teredo server": lambda ip: 0x20010000 << 96 | ip << 64,
    "teredo client": lambda ip: 0x20010000 << 96 | (ip ^ 0xFFFFFFFF),
}

denied_ipv4 = st.sampled_from([ip_network(text) for text in DENIED_IPV4]).flatmap(
    lambda network: st.integers(int(network[0]), int(network[-1]))
)


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_the_first_and_the_last_address_of_a_special_network_are_not_public(network: object) -> None:
    assert isinstance(network, type(NETWORKS[0]) | type(NETWORKS[-1]))
    assert not is_public(network[0])
    assert not is_public(network[-1])


@pytest.mark.parametrize(
    "text", ["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "172.32.0.0", "223.255.255.255", "2606:4700::1"]
)
def test_ordinary_addresses_and_the_neighbours_of_special_ones_are_public(text: str) -> None:
    assert is_public(ip_address(text))
    assert Policy().permits_address(ip_address(text))


@given(denied_ipv4, st.sampled_from(sorted(EMBEDDINGS)))
def test_an_address_that_is_denied_as_ipv4_is_denied_in_every_embedding(number: int, embedding: str) -> None:
    assert not is_public(IPv4Address(number))
    embedded = IPv6Address(EMBEDDINGS[embedding](number))
    assert not is_public(embedded)
    assert is_loopback(embedded) == (int(embedded) == 1)
    assert is_loopback(embedded) or not EVERYTHING.permits_address(embedded)


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(EMBEDDINGS)))
def test_even_public_ipv4_is_denied_when_it_is_embedded(number: int, embedding: str) -> None:
    assert not is_public(IPv6Address(EMBEDDINGS[embedding](number)))


@given(st.ip_addresses())
def test_what_the_default_policy_permits_is_global_by_pythons_table_too(ip: IPv4Address | IPv6Address) -> None:
    assert not Policy().permits_address(ip) or (ip.is_global and not ip.is_multicast)


@pytest.mark.parametrize("text", ["2606:4700::1%eth0", "::1%lo", "fe80::1%1"])
def test_addresses_with_a_scope_are_never_permitted(text: str) -> None:
    assert not EVERYTHING.permits_address(ip_address(text))


@pytest.mark.parametrize("text", ["169.254.169.254", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254", "fe80::1"])
def test_no_policy_permits_metadata_services_and_link_local_addresses(text: str) -> None:
    assert not EVERYTHING.permits_address(ip_address(text))


def test_each_permission_opens_its_own_addresses_only() -> None:
    loopback, private = ip_address("127.0.0.1"), ip_address("192.168.1.1")
    assert Policy(allow_loopback=True).permits_address(loopback)
    assert not Policy(allow_loopback=True).permits_address(private)
    assert Policy(allow_private=True).permits_address(private)
    assert not Policy(allow_private=True).permits_address(loopback)


@pytest.mark.parametrize("text", ["1.1.1.1", "127.0.0.2", "10.1.2.3", "2606:4700::1"])
def test_our_own_ranges_are_denied_whatever_else_is_permitted(text: str) -> None:
    policy = Policy(allow_loopback=True, allow_private=True, extra_denied=(ip_network(text),))
    assert not policy.permits_address(ip_address(text))


def test_ports_follow_the_flags() -> None:
    assert Policy().allowed_ports == {443, 8443}
    assert Policy(allow_http=True).allowed_ports == {80, 443, 8080, 8443}
    assert Policy(allow_loopback=True).permits_port(9000, on_loopback=True)
    assert not Policy(allow_loopback=True).permits_port(9000, on_loopback=False)
    assert not Policy().permits_port(9000, on_loopback=True)
    assert not Policy(allow_loopback=True).permits_port(0, on_loopback=True)
