"""Where users' URLs may lead depends on who can reach us."""

from ipaddress import ip_address
from typing import Any

import pytest

from common.outbound.policy import outbound_policy
from common.settings import Settings

LOOPBACK, PRIVATE, PUBLIC, METADATA = map(ip_address, ("127.0.0.1", "10.0.0.1", "93.184.215.14", "169.254.169.254"))


def permitted(**settings: Any) -> set[str]:
    policy = outbound_policy(Settings(_env_file=None, **settings))
    names = {"loopback": LOOPBACK, "private": PRIVATE, "public": PUBLIC, "metadata": METADATA}
    return {name for name, ip in names.items() if policy.permits_address(ip)} | set(policy.allowed_schemes)


def test_the_embedded_stack_may_fetch_from_this_machine_but_from_no_private_network() -> None:
    assert permitted() == {"loopback", "public", "https", "http"}


@pytest.mark.parametrize(
    "settings",
    [
        {"database_url": "postgresql://db/darkroom"},
        {"host": "0.0.0.0", "auth": "keys"},
        {"auth": "keys"},
    ],
)
def test_a_service_for_others_fetches_from_public_addresses_over_https_only(settings: dict[str, Any]) -> None:
    assert permitted(**settings) == {"public", "https"}


def test_private_addresses_need_a_word_and_metadata_services_get_none() -> None:
    allowed = permitted(database_url="postgresql://db/darkroom", allow_private_urls=True)
    assert allowed == {"loopback", "private", "public", "https", "http"}
