"""Every spelling of an address that must not be reached, and the one spelling of those that may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.outbound.addresses import Policy
from common.outbound.errors import UrlBlocked
from common.outbound.urls import check_url, host_of

STACK = Policy(allow_http=True, allow_loopback=True)

BLOCKED_HOSTS = {
    "private": ["10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "[fd12::1]"],
    "loopback": ["127.0.0.1", "127.255.255.254", "[::1]", "localhost", "LOCALHOST.", "0.0.0.0", "[::]"],
    "link-local": ["169.254.1.1", "[fe80::1]", "[fec0::1]"],
    "metadata": ["169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "[fd00:ec2::254]"],
    "nat64": ["[64:ff9b::7f00:1]", "[64:ff9b::169.254.169.254]", "[64:ff9b:1::a00:1]"],
    "6to4 and teredo": ["[2002:7f00:1::]", "[2002:a9fe:a9fe::1]", "[2001:0:7f00:1::1]"],
    "mapped": ["[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[0:0:0:0:0:ffff:a9fe:a9fe]"],
    "decimal": ["2130706433", "2852039166", "127.1", "127.0.1", "10.1", "0", "1.1.1.1.1", "999.1.1.1"],
    "octal": ["0177.0.0.1", "017700000001", "0251.0376.0251.0376", "127.0.0.01", "08.8.8.8"],
    "hexadecimal": ["0x7f.1", "0x7f000001", "0X7F.0.0.1", "0x7f.0x0.0x0.0x1", "example.0x", "8.8.8.0x8"],
    "unicode": ["１２７.０.０.１", "127。0。0。1", "①②⑦.⓪.⓪.①", "loc\u00adalhost", "ⓛocalhost", "０x7f.1"],
    "zone": ["[fe80::1%25eth0]", "[fe80::1%eth0]", "[2606:4700::1%25lo]"],
    "not a name": [
        "",
        ".",
        "a..b",
        "-a.com",
        "a b.com",
        "a%2eb.com",
        "a_.\u200b",
        "[v1.x]",
        "[]",
        "[1.1.1.1]",
        "x[::1]",
    ],
    "too long": ["a" * 64 + ".com", ".".join(["a" * 60] * 5), "ü" * 300 + ".com"],
    "no dot": ["intranet", "redis", "metadata"],
}


@pytest.mark.parametrize("host", [host for hosts in BLOCKED_HOSTS.values() for host in hosts])
def test_a_host_that_is_not_a_public_address_or_a_name_is_refused_in_every_spelling(host: str) -> None:
    with pytest.raises(UrlBlocked, match="allowed"):
        check_url(f"https://{host}/picture.png", Policy())


@pytest.mark.parametrize(
    "url",
    [
        "https://user@example.com/",
        "https://user:word@example.com/",
        "https://@example.com/",
        "https://example.com@127.0.0.1/",
        "https://127.0.0.1\\@example.com/",
        "https://example.com:22/",
        "https://example.com:80/",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:4４3/",
        "https://example.com:-443/",
        "https://example.com:443:443/",
        "https://[2606:4700::1]x:443/",
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "data:image/png;base64,AAAA",
        "//example.com/",
        "example.com/picture.png",
        "https:example.com",
        "",
        " https://example.com/",
        "https://example.com/\n",
        "https://exa\tmple.com/",
        "https://example.com/\r\nHost: other",
        "https://example.com/\x00",
        "https://example.com/\ud800",
        "https://[::1/",
        "https://exa⁄mple.com／@x/",
        "https://example.com/" + "a" * 2048,
    ],
)
def test_an_odd_url_is_refused_with_what_is_allowed(url: str) -> None:
    with pytest.raises(UrlBlocked, match="allowed") as caught:
        check_url(url, Policy())
    assert (caught.value.code, caught.value.retryable) == ("url_blocked", False)


@pytest.mark.parametrize(
    ("url", "spelling"),
    [
        ("HTTPS://Example.COM.:443", "https://example.com/"),
        ("https://example.com:8443/a b?c=d e#f", "https://example.com:8443/a%20b?c=d%20e"),
        ("https://bücher.de/ä.png?ö=%20%zz", "https://xn--bcher-kva.de/%C3%A4.png?%C3%B6=%20%zz"),
        ("https://example.com?x=1", "https://example.com/?x=1"),
        ("https://example.com/a\\b", "https://example.com/a%5Cb"),
        ("https://1.1.1.1:00443/", "https://1.1.1.1/"),
        ("https://[2606:4700:0:0::1111]/", "https://[2606:4700::1111]/"),
        ("https://my_bucket.s3.example.com/x", "https://my_bucket.s3.example.com/x"),
    ],
)
def test_an_ordinary_url_has_one_spelling(url: str, spelling: str) -> None:
    target = check_url(url, Policy())
    assert target.url == spelling
    assert check_url(spelling, Policy()) == target


@pytest.mark.parametrize("port", ["0", "65536", "99999", "100000", "9" * 40])
def test_what_is_no_port_number_is_called_that(port: str) -> None:
    with pytest.raises(UrlBlocked, match=r"port [0-9]{1,20}, which is no port number from 1 to 65535; allowed is "):
        check_url(f"https://example.com:{port}/x", STACK)


def test_a_refusal_names_the_ports_and_schemes_that_are_allowed() -> None:
    with pytest.raises(UrlBlocked, match=r"port 22; allowed is 443 or 8443\.$"):
        check_url("https://example.com:22/", Policy())
    with pytest.raises(UrlBlocked, match=r"'ftp'; allowed is https or http\.$"):
        check_url("ftp://example.com/", Policy(allow_http=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "[::1]", "localhost", "hook.localhost"])
def test_the_embedded_stack_reaches_every_port_of_the_loopback(host: str) -> None:
    assert check_url(f"http://{host}:54321/hook", STACK).port == 54321


@pytest.mark.parametrize("host", ["10.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254", "[::]", "redis"])
def test_the_embedded_stack_reaches_nothing_else_that_is_private(host: str) -> None:
    with pytest.raises(UrlBlocked):
        check_url(f"http://{host}/", STACK)


def test_the_embedded_stack_keeps_to_the_usual_ports_elsewhere() -> None:
    with pytest.raises(UrlBlocked, match="port 54321"):
        check_url("http://example.com:54321/", STACK)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Hooks.Example.COM:8443/a?b", "hooks.example.com"),
        ("https://hooks.example.com./", "hooks.example.com"),
        ("http://[::1]:9/", "::1"),
        ("https://[2606:4700:0:0::0:1111]/", "2606:4700::1111"),
        ("https://10.0.0.1/", "10.0.0.1"),
        ("https://me:secret@hooks.example/", "hooks.example"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("https://XN--BCHER-KVA.example/", "xn--bcher-kva.example"),
        ("https://ｈooks。example/", "hooks.example"),
        ("http://[", ""),
        ("https://0x7f.1/", ""),
        ("nothing", ""),
    ],
)
def test_calls_are_counted_by_host_however_it_is_spelled(url: str, host: str) -> None:
    assert host_of(url) == host


@given(st.text(), st.text().map("https://example.com".__add__))
def test_calls_are_counted_under_the_host_that_is_connected_to(rest: str, url: str) -> None:
    for one in (url, f"https://{rest}"):
        try:
            target = check_url(one, Policy())
        except UrlBlocked:
            host_of(one)
        else:
            assert host_of(one) == target.host


@given(st.one_of(st.text(), st.text().map("https://".__add__), st.text().map("https://example.com".__add__)))
def test_any_text_is_refused_or_becomes_a_url_that_reads_the_same_again(text: str) -> None:
    try:
        target = check_url(text, Policy())
    except UrlBlocked:
        return
    assert target.url.isascii()
    assert target.path.isprintable()
    assert " " not in target.url
    assert check_url(target.url, Policy()) == target
