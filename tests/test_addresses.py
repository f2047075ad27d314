"""Addresses as text: ``str`` and ``Address.parse`` are inverse, and parsing refuses every other text."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_dgram import Address, UnixAddress

PORTS: Final = st.integers(0, 65535)
IPV4: Final = st.ip_addresses(v=4).map(str)
IPV6: Final = st.ip_addresses(v=6).map(str)
ZONES: Final = st.from_regex(r"[A-Za-z0-9_.-]{1,15}", fullmatch=True)
SCOPED: Final = st.builds("{}%{}".format, IPV6, ZONES)
NAMES: Final = st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,3}", fullmatch=True)


@given(st.builds(Address, st.one_of(IPV4, IPV6, SCOPED, NAMES), PORTS))
@example(Address("", 0))
@example(Address("::ffff:127.0.0.1", 53))
@example(Address("fe80::1%eth0", 5353))
@example(Address("münchen.example", 9))
def test_parsing_inverts_str(address: Address) -> None:
    parsed = Address.parse(str(address))
    assert parsed == address
    assert type(parsed) is Address
    assert str(parsed) == str(address)


@given(st.one_of(IPV4, IPV6), PORTS)
def test_only_an_ipv6_address_has_brackets(host: str, port: int) -> None:
    text = str(Address(host, port))
    assert text == (f"[{host}]:{port}" if ipaddress.ip_address(host).version == 6 else f"{host}:{port}")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:53", ("127.0.0.1", 53)),
        ("[::1]:53", ("::1", 53)),
        ("[fe80::1%eth0]:5353", ("fe80::1%eth0", 5353)),
        ("[127.0.0.1]:53", ("127.0.0.1", 53)),
        ("localhost:41234", ("localhost", 41234)),
        (":53", ("", 53)),
        ("localhost:00053", ("localhost", 53)),
    ],
)
def test_parsing_accepts(text: str, address: tuple[str, int]) -> None:
    assert Address.parse(text) == address


BAD_TEXTS: Final = {
    "": "must be 'host:port' or '\\[host\\]:port', not ''",
    "localhost": "not 'localhost'",
    "localhost:": "not 'localhost:'",
    "localhost:http": "not 'localhost:http'",
    "localhost:-1": "not 'localhost:-1'",
    "localhost:+1": "not",
    "localhost: 1": "not",
    "localhost:1 ": "not",
    "localhost:1_0": "not",
    "localhost:²": "not",
    "localhost:٣": "not",
    "localhost:65536": "the port of text must be from 0 to 65535, not 65536",
    "localhost:" + "9" * 5000: "the port of text must be from 0 to 65535, not 999999",
    "::1": "an IPv6 address in brackets, '\\[:\\]:1', not '::1'",
    "fe80::1:53": "must have an IPv6 address in brackets, '\\[fe80::1\\]:53', not 'fe80::1:53'",
    "[::1]": "not '\\[::1\\]'",
    "[::1:53": "not",
    "::1]:53": "not",
    "[[::1]]:53": "not",
    "[::1]53": "not",
    "local\0host:53": "must not contain a null character",
}


@pytest.mark.parametrize(("text", "message"), BAD_TEXTS.items(), ids=[text[:20] for text in BAD_TEXTS])
def test_parsing_refuses(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Address.parse(text)


@pytest.mark.parametrize("value", [None, 53, b"127.0.0.1:53", ("127.0.0.1", 53)], ids=repr)
def test_parse_accepts_only_strings(value: Any) -> None:
    with pytest.raises(TypeError, match="text must be a string, not"):
        Address.parse(value)


@given(st.text())
def test_parsing_any_text_returns_an_address_or_raises_value_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert Address.parse(str(address)) == address  # pragma: no cover -- few random texts are addresses


def test_the_text_of_an_abstract_unix_address_is_printable() -> None:
    assert [str(UnixAddress(path)) for path in ("/run/log", "\0log", b"/run/log")] == ["/run/log", "@log", "/run/log"]
