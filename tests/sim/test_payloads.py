"""Decoded payloads."""

from __future__ import annotations

import struct
import sys
from typing import Any

import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_dgram.sim._trace.payloads import Payloads
from trio_dgram.sim._trace.protocols import PROTOCOLS, name_of

from ..support.records import make_record

COOKIE = b"\x21\x12\xa4\x42"
QUERY = dns.message.make_query("example.org", "A", id=1)
ANSWER = dns.message.from_text("id 1\nflags QR\n;QUESTION\nexample.org. IN A\n;ANSWER\nexample.org. 60 IN A 192.0.2.1")


def described(payload: bytes) -> str:
    return Payloads().describe(make_record(1, payload).packet)


def dtls_record(content: int, body: bytes, epoch: int = 0, version: bytes = b"\xfe\xfd") -> bytes:
    return struct.pack("!B2sH6sH", content, version, epoch, bytes(6), len(body)) + body


def quic_packet(kind: int, version: int = 1, body: bytes = b"\0" * 20) -> bytes:
    token = b"\x02ab" if (kind, version) in ((0, 1), (1, 0x6B3343CF)) else b""
    header = bytes([0xC0 | kind << 4]) + version.to_bytes(4, "big") + b"\x04abcd\x00"
    return header + token + (0x4000 | len(body)).to_bytes(2, "big") + body


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", ""),
        (b"hello", '"hello"'),
        ("grüß dich".encode(), '"grüß dich"'),
        (b"two\r\nlines\t", r'"two\r\nlines\t"'),
        (b'{"term": 3,\n "vote": ["n1"]}', '{"term":3,"vote":["n1"]}'),
        (b"[1, 2]", "[1,2]"),
        (b"{not json", '"{not json"'),
        (b"\x00\x01", "00 01"),
        (b"\xff" * 9, "ff ff ff ff ff ff ff ff ..."),
        (b"\x1b[31m", "1b 5b 33 31 6d"),
        pytest.param(struct.pack("!HH4s12s", 0x0001, 0, COOKIE, bytes(12)), "STUN Binding request", id="STUN request"),
        pytest.param(struct.pack("!HH4s12s", 0x0101, 0, COOKIE, bytes(12)), "STUN Binding success", id="STUN success"),
        pytest.param(struct.pack("!HH4s12s", 0x0113, 0, COOKIE, bytes(12)), "STUN Allocate error", id="STUN error"),
        pytest.param(
            struct.pack("!HH4s12s", 0x0FFF & ~0x110, 0, COOKIE, bytes(12)), "STUN method 1023 request", id="STUN method"
        ),
        pytest.param(b"\x41\x01\x12\x34\x99\xb4temp\x03out", "CoAP CON GET /temp/out message 4660", id="CoAP GET"),
        pytest.param(b"\x60\x45\x00\x01\xc0\xff22", "CoAP ACK 2.05 message 1", id="CoAP 2.05"),
        pytest.param(b"\x70\x00\x00\x01", "CoAP RST empty message 1", id="CoAP RST"),
        pytest.param(b"\x50\x01\x00\x01\xd1\x02x", "CoAP NON GET message 1", id="CoAP, an option above 12"),
        pytest.param(b"\x50\x01\x00\x01\xe1\x00\x02x", "CoAP NON GET message 1", id="CoAP, an option above 268"),
        pytest.param(dtls_record(22, b"\x01" + bytes(30)), "DTLS ClientHello", id="DTLS"),
        pytest.param(
            dtls_record(22, b"\x10") + dtls_record(20, b"\x01") + dtls_record(22, b"\x77", 1),
            "DTLS ClientKeyExchange, ChangeCipherSpec, Handshake",
            id="DTLS flight",
        ),
        pytest.param(quic_packet(0), "QUIC Initial", id="QUIC"),
        pytest.param(quic_packet(0) + quic_packet(2) + b"\x40a", "QUIC Initial, Handshake, 1-RTT", id="QUIC coalesced"),
        pytest.param(quic_packet(1, 0x6B3343CF), "QUIC Initial", id="QUIC version 2"),
        pytest.param(quic_packet(3), "QUIC Retry", id="QUIC Retry"),
        pytest.param(b"\xc0\0\0\0\0" + bytes(9), "QUIC Version Negotiation", id="QUIC negotiation"),
        pytest.param(QUERY.to_wire(), "DNS query example.org. A", id="DNS query"),
        pytest.param(ANSWER.to_wire(), "DNS response example.org. A NOERROR 192.0.2.1", id="DNS response"),
    ],
)
def test_a_payload_is_text_or_a_known_protocol_or_bytes(payload: bytes, words: str) -> None:
    assert described(payload) == words


@pytest.mark.parametrize(
    "payload",
    [
        struct.pack("!HH4s12s", 0x0001, 4, COOKIE, bytes(12)),
        b"\x49\x01\x00\x01\x00",
        b"\x40\x09\x00\x01\x00",
        b"\x40\x01\x00\x01\xf1",
        b"\x40\x01\x00\x01\x05ab",
        dtls_record(22, b"\x01", version=b"\x03\x03"),
        dtls_record(99, b"\x01"),
        dtls_record(22, b"\x01")[:-1],
        quic_packet(0, 0x1234),
        b"\x80\0\0\0\x01" + bytes(30),
        quic_packet(2)[:9],
        quic_packet(2)[:12],
        quic_packet(0)[:16],
        bytes(12),
        b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x07example",
        b"\0\x01\x01\0\xff\xff\0\0\0\0\0\0",
        b"\xff",
    ],
)
def test_an_almost_valid_message_is_no_protocol(payload: bytes) -> None:
    assert name_of(payload) == ""


@given(st.binary(max_size=80))
def test_any_payload_is_described_on_one_line(payload: bytes) -> None:
    assert described(payload).isprintable()
    for protocol in PROTOCOLS:
        name_of(payload, (protocol,))


def test_dns_needs_dnspython(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.message", None)
    assert described(QUERY.to_wire()) == "00 01 01 00 00 01 00 00 ..."


def test_packets_with_a_short_header_are_known_by_their_flow() -> None:
    payloads = Payloads()
    initial, short = make_record(1, quic_packet(0)).packet, make_record(2, b"\x41\xff\x00").packet
    assert payloads.describe(short) == "41 ff 00"
    payloads.learn(short)
    payloads.learn(make_record(3, b"\xc0\xff\x00").packet)
    payloads.learn(initial)
    assert payloads.describe(short) == "QUIC 1-RTT"
    assert payloads.describe(make_record(4, quic_packet(2)).packet) == "QUIC Handshake"
    other = short.destination._replace(port=9)
    assert payloads.describe(make_record(5, b"\x41\xff\x00", destination=other).packet) == "41 ff 00"


class Decoder:
    def __call__(self, payload: bytes) -> object:
        return payload[0]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda payload: f"VOTE {payload.decode()}\n", r"VOTE hello\n"),
        (Decoder(), "104"),
        (len, "5"),
    ],
)
def test_a_program_decodes_its_own_payloads(function: Any, words: str) -> None:
    payloads = Payloads()
    payloads.decode(5005, function)
    assert payloads.describe(make_record(1, b"hello").packet) == words
    assert payloads.describe(make_record(1, b"hello", ends=("server", "client")).packet) == words
    assert payloads.describe(make_record(1, b"").packet) == ""


def test_a_function_that_fails_hides_nothing() -> None:
    payloads = Payloads()

    def parse(payload: bytes) -> str:
        raise ValueError(payload)

    payloads.decode(5005, parse)
    assert payloads.describe(make_record(1, b"hello").packet) == '"hello" (ValueError in parse)'
