"""The decoders of ancillary data and of the error queue: pure functions that nothing can upset."""

from __future__ import annotations

import inspect
import ipaddress
import random
import socket
import struct
import subprocess
import sys
from typing import Any, Final

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trio_dgram
from trio_dgram import PacketInfo, lowlevel
from trio_dgram._codecs import ancillary as _ancillary
from trio_dgram._codecs import error_queue as _error_queue
from trio_dgram._values.datagrams import ReceivedPacketInfo
from trio_dgram.lowlevel import (
    ControlMessage,
    ErrorRecord,
    decode_error,
    decode_packet_info,
    encode_packet_info,
    segment_size,
)

ALIASES: Final = {"Ancillary", "ControlMessage"}
IPV4, IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
PACKET_INFO_4: Final = (IPV4, _ancillary.IP_PKTINFO)
PACKET_INFO_6: Final = (IPV6, _ancillary.IPV6_PKTINFO)


def test_the_public_names_are_documented() -> None:
    assert lowlevel.__all__ == sorted(lowlevel.__all__)
    for name in set(lowlevel.__all__) - ALIASES:
        public = getattr(lowlevel, name)
        assert inspect.getdoc(public)
    for name in ALIASES:
        assert hasattr(lowlevel, name)


def test_the_package_does_not_need_it() -> None:
    program = "import sys, trio_dgram; sys.exit('trio_dgram.lowlevel' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# There and back


def as_received(message: ControlMessage) -> ControlMessage:
    """Return the control message that the receiver of a datagram with ``message`` would get."""
    level, kind, data = message
    if (level, kind) == PACKET_INFO_4:
        # The header's destination is what the sender called the source.
        index, specific, _ = struct.unpack("=i4s4s", data)
        return level, kind, struct.pack("=i4s4s", index, specific, specific)
    if (level, kind) == (IPV4, _ancillary.IP_TOS):
        return level, kind, data[:1] if sys.byteorder == "little" else data[3:]
    return message


unicast_ipv4 = st.integers(1, 0xE0000000 - 1).map(ipaddress.IPv4Address)
unicast_ipv6 = st.integers(1 << 64, (0xFF << 120) - 1).map(ipaddress.IPv6Address)
PEERS: Final = {"IPv4": ("192.0.2.1", False), "IPv6": ("2001:db8::1", True), "mapped": ("::ffff:192.0.2.1", True)}


@pytest.mark.parametrize("peer", PEERS)
@given(data=st.data())
def test_encoded_packet_info_decodes_to_the_same(peer: str, data: st.DataObject) -> None:
    host, on_ipv6 = PEERS[peer]
    source = data.draw(st.none() | (unicast_ipv6 if peer == "IPv6" else unicast_ipv4))
    interface = data.draw(st.none() | st.integers(1, 2**31 - 1))
    ecn = data.draw(st.none() | st.integers(0, 3))
    dscp = data.draw(st.none() | st.integers(0, 63))
    hop_limit = data.draw(st.none() | st.integers(0, 255))
    byte = data.draw(st.integers(0, 255))
    info = PacketInfo(
        local_address=None if source is None else str(source),
        interface=interface,
        ecn=ecn,
        dscp=dscp,
        hop_limit=hop_limit,
    )
    messages = encode_packet_info(info, host, on_ipv6=on_ipv6, traffic_class=byte)
    decoded = decode_packet_info([as_received(message) for message in messages])
    assert (decoded.interface, decoded.hop_limit) == (interface, hop_limit)
    # What only one of the two chooses, the socket's own completes.
    chosen = ecn is not None or dscp is not None
    assert decoded.ecn == (ecn if ecn is not None else byte & 3 if chosen else None)
    assert decoded.dscp == (dscp if dscp is not None else byte >> 2 if chosen else None)
    if source is not None:
        expected = ipaddress.IPv6Address(f"::ffff:{source}") if peer == "mapped" else source
        assert decoded.local_address is not None
        assert ipaddress.ip_address(decoded.local_address) == expected
    assert not decoded.truncated


@pytest.mark.parametrize(
    ("source", "host", "on_ipv6"),
    [
        ("::1", "127.0.0.1", False),
        ("127.0.0.1", "::1", True),
        ("2001:db8::1", "::ffff:127.0.0.1", True),
        ("fe80::1%lo", "127.0.0.1", False),
    ],
)
def test_a_source_of_another_family_is_refused(source: str, host: str, on_ipv6: bool) -> None:
    with pytest.raises(ValueError, match=r"local_address must be an IPv[46] address to send to"):
        encode_packet_info(PacketInfo(local_address=source), host, on_ipv6=on_ipv6)


def test_a_mapped_source_is_an_ipv4_one() -> None:
    info = PacketInfo(local_address="::ffff:192.0.2.7")
    ((_, _, data),) = encode_packet_info(info, "192.0.2.1", on_ipv6=False)
    assert data == struct.pack("=i4s4x", 0, bytes([192, 0, 2, 7]))
    ((_, _, data),) = encode_packet_info(info, "::ffff:192.0.2.1", on_ipv6=True)
    assert data == struct.pack("=16si", ipaddress.ip_address("::ffff:192.0.2.7").packed, 0)


def test_fields_that_are_none_are_not_encoded() -> None:
    assert encode_packet_info(PacketInfo(timestamp_ns=1, truncated=True), "::1", on_ipv6=True) == []


# Decoding the kernel's messages


def packed(host: str) -> bytes:
    return ipaddress.ip_address(host).packed


@pytest.mark.parametrize(
    ("specific", "header", "unicast"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("192.0.2.7", "239.1.2.3", "192.0.2.7"),
        ("239.1.2.3", "239.1.2.3", None),
        ("0.0.0.0", "239.1.2.3", None),
        ("0.0.0.0", "192.0.2.7", "192.0.2.7"),
        ("192.0.2.7", "255.255.255.255", "192.0.2.7"),
    ],
)
def test_on_ipv4_an_answer_leaves_from_the_specific_address(specific: str, header: str, unicast: str | None) -> None:
    data = struct.pack("=i4s4s", 3, packed(specific), packed(header))
    info: Any = decode_packet_info([(*PACKET_INFO_4, data)], truncated=True)
    assert (info.local_address, info.unicast_address, info.interface) == (header, unicast, 3)
    assert info.truncated


@pytest.mark.parametrize(
    ("local", "unicast"),
    [
        ("2001:db8::7", "2001:db8::7"),
        ("fe80::7", "fe80::7"),
        ("ff02::1", None),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7"),
        ("::ffff:239.1.2.3", None),
    ],
)
def test_on_ipv6_an_answer_to_a_group_has_no_address_to_leave_from(local: str, unicast: str | None) -> None:
    info: Any = decode_packet_info([(*PACKET_INFO_6, struct.pack("=16si", packed(local), 0))])
    assert (info.local_address, info.unicast_address, info.interface) == (local, unicast, None)


def test_an_answer_to_an_ipv4_group_on_an_ipv6_socket_leaves_from_the_address_of_ip_pktinfo() -> None:
    mapped = (*PACKET_INFO_6, struct.pack("=16si", packed("::ffff:239.1.2.3"), 2))
    ipv4 = (*PACKET_INFO_4, struct.pack("=i4s4s", 2, packed("192.0.2.7"), packed("239.1.2.3")))
    for messages in ([mapped, ipv4], [ipv4, mapped]):
        info: Any = decode_packet_info(messages)
        assert info.local_address == "::ffff:239.1.2.3"
        assert info.unicast_address == "::ffff:192.0.2.7"


def test_the_last_of_repeated_messages_counts_and_invalid_ones_are_ignored() -> None:
    def number(kind: int, value: int) -> ControlMessage:
        return IPV6, kind, struct.pack("=i", value)

    info = decode_packet_info(
        [
            number(_ancillary.IPV6_HOPLIMIT, 1),
            number(_ancillary.IPV6_HOPLIMIT, 2),
            number(_ancillary.IPV6_HOPLIMIT, 256),
            number(_ancillary.IPV6_HOPLIMIT, -1),
            (IPV6, _ancillary.IPV6_HOPLIMIT, b"\3"),
            number(_ancillary.IPV6_TCLASS, 0xB8 | 1),
            (IPV4, _ancillary.IP_TOS, b"\xff\xff"),
            (socket.SOL_SOCKET, _ancillary.SO_TIMESTAMPNS, struct.pack("@ll", 2, 5)),
            (socket.SOL_SOCKET, _ancillary.SCM_CREDENTIALS, struct.pack("@iII", 1, 2, 3)),
            (9999, 9999, b"unknown"),
        ]
    )
    assert info == decode_packet_info([], truncated=False).__class__(
        hop_limit=2, dscp=46, ecn=1, timestamp_ns=2_000_000_005, credentials=trio_dgram.Credentials(1, 2, 3)
    )


def test_the_segment_size_is_that_of_the_first_such_message() -> None:
    known = (socket.IPPROTO_UDP, _ancillary.UDP_GRO)
    assert segment_size([]) == 0
    assert segment_size([(*known, b"\0\0"), (9, 9, b"1234"), (*known, struct.pack("=i", 1200))]) == 1200
    assert segment_size([(*known, struct.pack("=i", 7)), (*known, struct.pack("=i", 9))]) == 7
    assert segment_size([(*known, struct.pack("=i", -5))]) == 0


# The error queue

ICMP_ERROR_4: Final = (IPV4, _error_queue.IP_RECVERR)
ICMP_ERROR_6: Final = (IPV6, _error_queue.IPV6_RECVERR)


def error(origin: int, icmp_type: int, icmp_code: int, info: int = 0, offender: bytes = b"") -> ErrorRecord:
    data = struct.pack("=IBBBxII", 111, origin, icmp_type, icmp_code, info, 0) + offender
    record = decode_error([(*(ICMP_ERROR_6 if origin == 3 else ICMP_ERROR_4), data)])
    assert record is not None
    assert (record.errno, record.origin, record.icmp_type, record.icmp_code) == (111, origin, icmp_type, icmp_code)
    return record


WORDS: Final = {
    (2, 3, 0): "network unreachable",
    (2, 3, 1): "host unreachable",
    (2, 3, 2): "protocol unreachable",
    (2, 3, 3): "port unreachable",
    (2, 3, 4): "packet too big",
    (2, 3, 5): "source route failed",
    (2, 3, 6): "network unknown",
    (2, 3, 7): "host unknown",
    (2, 3, 8): "source host isolated",
    (2, 3, 9): "network prohibited",
    (2, 3, 10): "host prohibited",
    (2, 3, 11): "network unreachable for this type of service",
    (2, 3, 12): "host unreachable for this type of service",
    (2, 3, 13): "prohibited by a filter",
    (2, 3, 14): "host precedence violation",
    (2, 3, 15): "precedence cutoff",
    (2, 3, 16): "destination unreachable (type 3, code 16)",
    (2, 4, 0): "source quench",
    (2, 11, 0): "hop limit exceeded",
    (2, 11, 1): "fragment reassembly time exceeded",
    (2, 11, 2): "time exceeded (type 11, code 2)",
    (2, 12, 0): "bad header",
    (2, 12, 1): "required option missing",
    (2, 12, 2): "bad length",
    (2, 12, 9): "parameter problem (type 12, code 9)",
    (2, 42, 7): "ICMP (type 42, code 7)",
    (3, 1, 0): "no route to the destination",
    (3, 1, 1): "prohibited by a filter",
    (3, 1, 2): "beyond the scope of the source address",
    (3, 1, 3): "host unreachable",
    (3, 1, 4): "port unreachable",
    (3, 1, 5): "source address failed a policy",
    (3, 1, 6): "route rejected",
    (3, 1, 7): "destination unreachable (type 1, code 7)",
    (3, 2, 0): "packet too big",
    (3, 2, 1): "packet too big (type 2, code 1)",
    (3, 3, 0): "hop limit exceeded",
    (3, 3, 1): "fragment reassembly time exceeded",
    (3, 4, 0): "bad header",
    (3, 4, 1): "unknown next header",
    (3, 4, 2): "unknown option",
    (3, 200, 200): "ICMP (type 200, code 200)",
    (1, 0, 0): "refused by this machine",
    (4, 3, 3): "ICMP (type 3, code 3)",
}


@pytest.mark.parametrize(("what", "words"), WORDS.items())
def test_every_type_and_code_has_a_description(what: tuple[int, int, int], words: str) -> None:
    assert error(*what).reason == words


@pytest.mark.parametrize("origin", [2, 3])
def test_no_type_and_code_is_without_words(origin: int) -> None:
    for icmp_type in range(256):
        for icmp_code in range(256):
            assert error(origin, icmp_type, icmp_code).reason


IPV6_OFFENDER: Final = struct.pack("=HHI16s", socket.AF_INET6, 0, 0, packed("fe80::1"))


@pytest.mark.parametrize(
    ("sockaddr", "offender"),
    [
        (struct.pack("=HH4s8x", socket.AF_INET, 0, packed("192.0.2.1")), "192.0.2.1"),
        (struct.pack("=HH4s", socket.AF_INET, 0, packed("192.0.2.1")), "192.0.2.1"),
        (struct.pack("=HH3s", socket.AF_INET, 0, b"123"), None),
        (IPV6_OFFENDER + struct.pack("=I", 0), "fe80::1"),
        (IPV6_OFFENDER + struct.pack("=I", 4), "fe80::1%4"),
        (IPV6_OFFENDER, None),
        (struct.pack("=H14x", socket.AF_UNSPEC), None),
        (struct.pack("=H30x", 77), None),
        (b"", None),
        (b"\2", None),
    ],
)
def test_the_offender_is_reported_if_known(sockaddr: bytes, offender: str | None) -> None:
    assert error(2, 3, 3, offender=sockaddr).offender == offender


@pytest.mark.parametrize(
    ("what", "path_mtu"),
    [((2, 3, 4), 1400), ((3, 2, 0), 1400), ((1, 0, 0), 1400), ((2, 3, 3), None), ((3, 2, 1), None), ((2, 2, 0), None)],
)
def test_the_path_mtu_is_reported_if_there_is_one(what: tuple[int, int, int], path_mtu: int | None) -> None:
    assert error(*what, 1400).path_mtu == path_mtu
    assert error(*what, 0).path_mtu is None


def test_other_messages_are_ignored_and_the_first_record_counts() -> None:
    record = struct.pack("=IBBBxII", 111, 2, 3, 3, 0, 0)
    nothing = [(*ICMP_ERROR_4, record[:-1]), (IPV4, _error_queue.IPV6_RECVERR, record), (9, 9, record)]
    assert decode_error([]) is None
    assert decode_error(nothing) is None
    another = struct.pack("=IBBBxII", 113, 2, 3, 1, 0, 0)
    first = decode_error([*nothing, (*ICMP_ERROR_4, record), (*ICMP_ERROR_6, another)])
    assert first is not None
    assert first.errno == 111


# Random messages

ROUNDS: Final = 60_000
MOST: Final = 34
"""Messages in one round: a million in all."""
KNOWN: Final = [*_ancillary._DECODERS, *_error_queue._LEVELS, (socket.IPPROTO_UDP, _ancillary.UDP_GRO)]
OTHER_FIELDS: Final = {"truncated", "proxy_header"}
"""What control messages do not carry."""
INFO_FIELDS: Final = [field.name for field in attrs.fields(ReceivedPacketInfo) if field.name not in OTHER_FIELDS]
SIZES: Final = [1, 4, 12, 16, 20, 32, 44]


@pytest.mark.long
def test_a_million_random_control_messages_decode_to_values_in_range() -> None:
    chance = random.Random(0)
    noise = b"".join(
        chance.choice([b"\0", b"\2\0", b"\3", b"\4", b"\n\0", b"\xff", chance.randbytes(4)]) for _ in range(2**15)
    )
    inputs, found = 0, set[str]()
    for _ in range(ROUNDS):
        messages = []
        for _ in range(int(chance.random() * (MOST + 1))):
            draw = chance.random()
            known = draw < 0.9
            level, kind = chance.choice(KNOWN) if known else (chance.getrandbits(9), chance.getrandbits(9))
            size = chance.choice(SIZES) if known else int(chance.random() * 301)
            start = int(chance.random() * (len(noise) - 300))
            messages.append((level, kind, noise[start : start + size]))
        inputs += len(messages)
        found |= decoded_fields(messages)
    assert inputs >= 1_000_000
    assert found == {*INFO_FIELDS, "segment size", "record", "offender", "path_mtu"}


def decoded_fields(messages: list[ControlMessage]) -> set[str]:  # pragma: no cover -- long tests run it
    """Check that decoded values are in range, and return the names of the fields that have one."""
    size = segment_size(messages)
    assert 0 <= size < 2**31
    info: Any = decode_packet_info(messages)
    assert info.ecn is None or 0 <= info.ecn <= 3
    assert info.dscp is None or 0 <= info.dscp <= 63
    assert info.hop_limit is None or 0 <= info.hop_limit <= 255
    assert info.interface is None or info.interface >= 1
    for host in (info.local_address, info.unicast_address):
        assert host is None or socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    found = {slot for slot in INFO_FIELDS if getattr(info, slot) is not None}
    if size:
        found.add("segment size")
    record = decode_error(messages)
    if record is not None:
        assert record.reason
        assert record.path_mtu is None or record.path_mtu > 0
        assert record.offender is None or ":" in record.offender or "." in record.offender
        found |= {"record"} | {name for name in ("offender", "path_mtu") if getattr(record, name) is not None}
    return found
