"""The parser of PROXY protocol headers: what it returns, and what it refuses."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_dgram import Address, ProxyHeader, ProxyHeaderError
from trio_dgram._codecs.proxy_header import crc32c, parse_untrusted

from .support.proxying import LOCAL, SERVICE, SERVICE6, SIGNATURE, STREAM, tlv, v1, v2

CLIENT: Final = ("192.0.2.7", 40000)
CLIENT6: Final = ("2001:db8::7", 40000)
UNREACHABLE: Final = ["224.0.0.1", "239.255.255.255", "255.255.255.255", "ff02::1", "::ffff:224.0.0.1"]
"""Hosts that cannot be a source."""


def is_possible(host: str) -> bool:
    """Whether a client may have this address."""
    address = ipaddress.ip_address(host)
    return not address.is_multicast and host != "255.255.255.255" and getattr(address, "ipv4_mapped", None) is None


ports = st.integers(0, 65535)
ipv4 = st.tuples(st.ip_addresses(v=4).map(str).filter(is_possible), ports)
ipv6 = st.tuples(st.ip_addresses(v=6).map(str).filter(is_possible), ports)
pairs = st.one_of(st.tuples(ipv4, ipv4), st.tuples(ipv6, ipv6))
tlv_lists = st.lists(st.tuples(st.integers(5, 255), st.binary(max_size=40)), max_size=10)
headers = st.one_of(st.builds(lambda pair, tlvs: v2(*pair, tlvs=tlvs), pairs, tlv_lists), pairs.map(lambda p: v1(*p)))


def spelled(address: tuple[str, int]) -> Address:
    """Return an address as the system spells it."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    return Address(socket.inet_ntop(family, socket.inet_pton(family, address[0])), address[1])


def refused(data: bytes, reason: str) -> None:
    with pytest.raises(ProxyHeaderError, match=reason) as caught:
        parse_untrusted(data)
    assert caught.value.errno == errno.EBADMSG


@given(pairs, tlv_lists, st.binary())
def test_a_header_of_version_2_is_read_as_it_was_written(
    pair: tuple[tuple[str, int], tuple[str, int]], tlvs: list[tuple[int, bytes]], payload: bytes
) -> None:
    source, destination = pair
    header, offset = parse_untrusted(v2(source, destination, tlvs=tlvs) + payload)
    assert header == ProxyHeader(
        command="proxy", source=spelled(source), destination=spelled(destination), tlvs=tuple(tlvs)
    )
    assert (v2(source, destination, tlvs=tlvs) + payload)[offset:] == payload


@given(pairs, st.sampled_from(["TCP", "UDP"]), st.binary())
def test_a_header_of_version_1_is_read_as_it_was_written(
    pair: tuple[tuple[str, int], tuple[str, int]], protocol: str, payload: bytes
) -> None:
    source, destination = pair
    line = v1(source, destination, protocol)
    header, offset = parse_untrusted(line + payload)
    assert header == ProxyHeader(command="proxy", source=spelled(source), destination=spelled(destination))
    assert offset == len(line)


def refused_or_within(data: bytes) -> bool:
    try:
        _, offset = parse_untrusted(data, stream_ok=True)
    except ProxyHeaderError:
        return True
    return 0 < offset <= len(data)


@given(st.binary() | st.binary().map(SIGNATURE.__add__) | st.binary().map(b"PROXY ".__add__))
def test_arbitrary_bytes_raise_no_other_error(data: bytes) -> None:
    assert refused_or_within(data)


@given(headers, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=3), st.binary())
def test_a_changed_header_is_refused_or_stays_within_the_datagram(
    header: bytes, changes: list[tuple[int, int]], payload: bytes
) -> None:
    changed = bytearray(header + payload)
    for position, value in changes:
        changed[position % len(changed)] = value
    assert refused_or_within(bytes(changed))


@given(headers, st.data())
def test_a_header_that_is_cut_off_is_refused(header: bytes, data: st.DataObject) -> None:
    with pytest.raises(ProxyHeaderError):
        parse_untrusted(header[: data.draw(st.integers(0, len(header) - 1))])


@given(pairs, tlv_lists, st.integers(0, 10), st.integers(0, 31))
@example((CLIENT, SERVICE), [], 0, 0)
def test_a_header_with_a_checksum_is_accepted_only_if_that_is_right(
    pair: tuple[tuple[str, int], tuple[str, int]], tlvs: list[tuple[int, bytes]], place: int, bit: int
) -> None:
    zeros = v2(*pair, tlvs=[*tlvs[:place], (3, bytes(4)), *tlvs[place:]])
    checksum = crc32c(zeros)
    right = [*tlvs[:place], (3, checksum.to_bytes(4, "big")), *tlvs[place:]]
    assert parse_untrusted(v2(*pair, tlvs=right))[0].tlvs == tuple(right)
    wrong = (3, (checksum ^ 1 << bit).to_bytes(4, "big"))
    refused(v2(*pair, tlvs=[*tlvs[:place], wrong, *tlvs[place:]]), "CRC32C .* is wrong")


def test_the_checksum_is_that_of_rfc_9260() -> None:
    assert crc32c(b"123456789") == 0xE3069283


# The text of the specification (HAProxy, doc/proxy-protocol.txt)


def test_the_example_of_the_specification_is_read() -> None:
    request = b"GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n"
    header, offset = parse_untrusted(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n" + request)
    assert (header.source, header.destination) == (("192.168.0.1", 56324), ("192.168.0.11", 443))
    assert offset == 47


LONGEST: Final = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"


@pytest.mark.parametrize(
    "line",
    ["PROXY UNKNOWN", f"PROXY UNKNOWN {LONGEST} {LONGEST} 65535 65535", "PROXY UNKNOWN \0\xff anything"],
    ids=["short", "longest", "anything"],
)
def test_a_line_with_unknown_may_contain_anything(line: str) -> None:
    data = f"{line}\r\n".encode("latin-1")
    assert parse_untrusted(data + b"payload") == (
        ProxyHeader(command="local", source=None, destination=None),
        len(data),
    )


def test_the_longest_lines_of_the_specification_are_within_the_limit() -> None:
    longest = f"PROXY UNKNOWN {LONGEST} {LONGEST} 65535 65535"
    assert len(longest) + 2 == 107
    refused(f"{longest} \r\n".encode(), "does not end within 107 bytes")
    refused(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "cannot be a source")
    refused(f"PROXY TCP6 {LONGEST} {LONGEST} 65535 65535\r\n".encode(), "cannot be a source")


# As the programs of the distribution write them


def test_the_header_of_dnsdist_is_read() -> None:
    data = bytes.fromhex("0d0a0d0a000d0a515549540a2112000c7f0000017f0000019c4014b5") + b"query"
    header, offset = parse_untrusted(data)
    assert (header.source, header.destination) == (("127.0.0.1", 40000), ("127.0.0.1", 5301))
    assert data[offset:] == b"query"


def test_the_header_of_a_health_check_has_no_addresses() -> None:
    assert parse_untrusted(LOCAL + b"query") == (ProxyHeader(command="local", source=None, destination=None), 16)


def test_the_line_of_nginx_names_tcp_and_is_read() -> None:
    header, _ = parse_untrusted(b"PROXY TCP4 127.0.0.1 127.0.0.1 39514 15301\r\n")
    assert (header.source, header.destination) == (("127.0.0.1", 39514), ("127.0.0.1", 15301))


# Version 2


def with_fixed(version_and_command: int, kind: int, block: bytes) -> bytes:
    return SIGNATURE + bytes([version_and_command, kind]) + len(block).to_bytes(2, "big") + block


BLOCK: Final = v2(CLIENT)[16:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not begin"),
        (b"payload", "does not begin"),
        (SIGNATURE[:11], "does not begin"),
        (SIGNATURE + b"\x21\x12\x00", "ends after 15 bytes"),
        (with_fixed(0x11, 0x12, BLOCK), "version and command 0x11"),
        (with_fixed(0x22, 0x12, BLOCK), "version and command 0x22"),
        (with_fixed(0x21, 0x12, BLOCK)[:-1], "28 bytes long, the datagram 27"),
        (with_fixed(0x21, 0x12, BLOCK[:-1]), "too short for its addresses"),
        (with_fixed(0x21, 0x22, BLOCK), "too short for its addresses"),
        (with_fixed(0x21, 0x00, b""), "no address family"),
        (with_fixed(0x21, 0x11, BLOCK), "set proxy_stream_ok=True"),
        (with_fixed(0x21, 0x31, bytes(216)), "0x31"),
        (with_fixed(0x21, 0x32, bytes(216)), "0x32"),
        (with_fixed(0x21, 0x10, BLOCK), "0x10"),
        (with_fixed(0x21, 0x12, BLOCK + b"\x05"), "a TLV .* exceeds it"),
        (with_fixed(0x21, 0x12, BLOCK + b"\x05\x00\x01"), "a TLV .* exceeds it"),
        # The value would end in the payload.
        (with_fixed(0x21, 0x12, BLOCK + b"\x05\x00\x02x") + b"payload", "a TLV .* exceeds it"),
        (with_fixed(0x21, 0x12, BLOCK + tlv(3, b"\0\0\0")), "CRC32C .* is wrong"),
        (with_fixed(0x21, 0x12, BLOCK + tlv(5, b"") * 65), "more than 64 TLVs"),
        *[(v2((host, 1)), "cannot be a source") for host in UNREACHABLE],
    ],
)
def test_a_malformed_header_of_version_2_is_refused(data: bytes, reason: str) -> None:
    refused(data, reason)


def test_sixty_four_tlvs_are_accepted() -> None:
    assert len(parse_untrusted(with_fixed(0x21, 0x12, BLOCK + tlv(5, b"") * 64))[0].tlvs) == 64


def test_padding_is_not_returned() -> None:
    assert parse_untrusted(v2(CLIENT, tlvs=[(4, bytes(9)), (224, b"x"), (4, b"")]))[0].tlvs == ((224, b"x"),)


@pytest.mark.parametrize("client", [CLIENT, CLIENT6])
def test_the_transport_stream_is_accepted_on_request(client: tuple[str, int]) -> None:
    data = v2(client, transport=STREAM)
    header, offset = parse_untrusted(data, stream_ok=True)
    assert (header.source, offset) == (client, len(data))


@pytest.mark.parametrize(
    "block", [b"", b"\xff" * 7, BLOCK[:-1], BLOCK + b"\x05\x00\x09"], ids=["empty", "any", "short", "overrun"]
)
@pytest.mark.parametrize("kind", [0x00, 0x22, 0x31])
def test_the_block_of_a_local_command_is_discarded(kind: int, block: bytes) -> None:
    data = with_fixed(0x20, kind, block)
    assert parse_untrusted(data + b"x") == (ProxyHeader(command="local", source=None, destination=None), len(data))


def test_the_addresses_of_a_local_command_are_shown() -> None:
    header, _ = parse_untrusted(v2(CLIENT6, command=0))
    assert header == ProxyHeader(command="local", source=Address(*CLIENT6), destination=Address(*SERVICE6))


def test_mapped_addresses_are_returned_as_ipv4() -> None:
    header, _ = parse_untrusted(v2(("::ffff:192.0.2.7", 1), ("::ffff:192.0.2.53", 2)))
    assert (header.source, header.destination) == (("192.0.2.7", 1), ("192.0.2.53", 2))
    header, _ = parse_untrusted(v1(("::ffff:192.0.2.7", 1), ("::1", 2)))
    assert (header.source, header.destination) == (("192.0.2.7", 1), ("::1", 2))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "ff::1", "ffa:1::", "223.255.255.255", "240.0.0.1"])
def test_other_unusual_sources_are_left_to_the_socket(host: str) -> None:
    for data in (v1((host, 0)), v2((host, 0))):
        header, _ = parse_untrusted(data)
        assert header.source == (host, 0)


def test_a_second_header_is_payload() -> None:
    data = v2(CLIENT) + v2(CLIENT6)
    assert data[parse_untrusted(data)[1] :] == v2(CLIENT6)


# Version 1


@pytest.mark.parametrize(
    "line",
    [
        "PROXY ",
        "PROXY TCP4",
        "PROXY TCP5 192.0.2.7 192.0.2.53 1 2",
        "PROXY SCTP4 192.0.2.7 192.0.2.53 1 2",
        "PROXY tcp4 192.0.2.7 192.0.2.53 1 2",
        "PROXY  TCP4 192.0.2.7 192.0.2.53 1 2",
        "PROXY TCP4 192.0.2.7  192.0.2.53 1 2",
        "PROXY TCP4 192.0.2.7 192.0.2.53 1 2 ",
        "PROXY TCP4 192.0.2.7 192.0.2.53 1",
        "PROXY TCP4 192.0.2.7 192.0.2.53 01 2",
        "PROXY TCP4 192.0.2.7 192.0.2.53 +1 2",
        "PROXY TCP4 192.0.2.7 192.0.2.53 1 65536",
        "PROXY TCP4 192.0.2.7 192.0.2.53 1 100000",
        "PROXY TCP4 192.0.2.07 192.0.2.53 1 2",
        "PROXY TCP4 192.0.2 192.0.2.53 1 2",
        "PROXY TCP4 2001:db8::7 2001:db8::53 1 2",
        "PROXY TCP6 192.0.2.7 192.0.2.53 1 2",
        "PROXY TCP6 fe80::1%eth0 fe80::2 1 2",
        "PROXY TCP6 2001:db8::7 2001:db8:::53 1 2",
        "PROXY UNKNOWNX",
        "PROXY TCP4 192.0.2.7 192.0.2.53 1 2\n",
        "PROXY TCP4 239.0.0.1 192.0.2.53 1 2",
        "PROXY TCP6 ff02::1 2001:db8::53 1 2",
    ],
)
def test_a_malformed_line_is_refused(line: str) -> None:
    refused(f"{line}\r\n".encode(), "PROXY protocol")


def test_a_line_without_its_end_is_refused() -> None:
    refused(b"PROXY TCP4 192.0.2.7 192.0.2.53 1 2\n", "does not end")
    refused(b"PROXY UNKNOWN" + bytes(100) + b"\r\n", "does not end")


@pytest.mark.parametrize(("data", "version"), [(v1(CLIENT), 1), (v2(CLIENT), 2)])
def test_a_version_that_is_not_accepted_is_refused(data: bytes, version: int) -> None:
    assert parse_untrusted(data, versions=frozenset({version}))
    with pytest.raises(ProxyHeaderError, match=re.escape(f"has version {version}, which proxy_versions lacks")):
        parse_untrusted(data, versions=frozenset({3 - version}))
