"""The loopback as an internet: one address to reach, one that must not be reached, and a picture."""

import sys
from ipaddress import ip_network

import pytest

from common.outbound.addresses import Policy
from tests.unit.outbound.hosts import answer, sends

PICTURE = sends(answer(body=b"picture", headers=[("Content-Type", "image/PNG; q=1")]))
HERE, TRAP = "127.0.0.1", "127.0.0.2"

second_loopback = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")


def policy(*ports: int, denied: str = "127.0.0.2") -> Policy:
    """The loopback stands in for the public internet, and one address of it for what must not be reached."""
    return Policy(
        allow_http=True,
        allow_loopback=True,
        extra_denied=(ip_network(denied), ip_network("::1")),
        http_ports=frozenset(ports),
    )
