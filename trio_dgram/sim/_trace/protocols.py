"""Well-known protocols by their first bytes.

Each function returns the name of a payload, or an empty text if it is something else; IndexError and struct.error mean
the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final

_COOKIE: Final = b"\x21\x12\xa4\x42"
_STUN_METHODS: Final = {
    1: "Binding",
    3: "Allocate",
    4: "Refresh",
    6: "Send",
    7: "Data",
    8: "CreatePermission",
    9: "ChannelBind",
}
_STUN_CLASSES: Final = ("request", "indication", "success", "error")

_COAP_TYPES: Final = ("CON", "NON", "ACK", "RST")
_COAP_METHODS: Final = {0: "empty", 1: "GET", 2: "POST", 3: "PUT", 4: "DELETE", 5: "FETCH", 6: "PATCH", 7: "iPATCH"}
_COAP_RESPONSES: Final = {2: 32, 4: 32, 5: 9}
"""The classes of responses, and how many codes each has at most."""
_URI_PATH: Final = 11
_LONGEST_TOKEN: Final = 8

_DTLS_CONTENTS: Final = {
    20: "ChangeCipherSpec",
    21: "Alert",
    22: "Handshake",
    23: "ApplicationData",
    25: "CID",
    26: "ACK",
}
_DTLS_VERSIONS: Final = (b"\xfe\xff", b"\xfe\xfd", b"\xfe\xfc")
_HANDSHAKE: Final = 22
_DTLS_MESSAGES: Final = {
    0: "HelloRequest",
    1: "ClientHello",
    2: "ServerHello",
    3: "HelloVerifyRequest",
    4: "NewSessionTicket",
    11: "Certificate",
    12: "ServerKeyExchange",
    13: "CertificateRequest",
    14: "ServerHelloDone",
    15: "CertificateVerify",
    16: "ClientKeyExchange",
    20: "Finished",
}

_QUIC_TYPES: Final = {
    1: ("Initial", "0-RTT", "Handshake", "Retry"),
    0x6B3343CF: ("Retry", "Initial", "0-RTT", "Handshake"),
}
"""The types of packets with a long header, by version."""
_LONG_HEADER: Final = 0x80
_FIXED_BIT: Final = 0x40


def _stun(payload: bytes) -> str:
    """Name a STUN message (RFC 8489, 5)."""
    kind, size = struct.unpack_from("!HH", payload)
    if kind >> 14 or payload[4:8] != _COOKIE or size % 4 or size != len(payload) - 20:
        return ""
    method = kind & 0xF | (kind & 0xE0) >> 1 | (kind & 0x3E00) >> 2
    which = _STUN_CLASSES[(kind >> 4 & 1) | (kind >> 7 & 2)]
    return f"STUN {_STUN_METHODS.get(method, f'method {method}')} {which}"


def _coap(payload: bytes) -> str:
    """Name a CoAP message (RFC 7252, 3)."""
    first, code, message = struct.unpack_from("!BBH", payload)
    token = first & 0xF
    if first >> 6 != 1 or token > _LONGEST_TOKEN or len(payload) < 4 + token:
        return ""
    kind, detail = code >> 5, code & 0x1F
    if kind == 0 and detail in _COAP_METHODS:
        name = _COAP_METHODS[detail]
    elif detail < _COAP_RESPONSES.get(kind, 0):
        name = f"{kind}.{detail:02}"
    else:
        return ""
    path = "".join(
        f"/{value.decode(errors='replace')}"
        for option, value in _coap_options(payload, 4 + token)
        if option == _URI_PATH
    )
    return " ".join(filter(None, ["CoAP", _COAP_TYPES[first >> 4 & 3], name, path, f"message {message}"]))


def _coap_options(payload: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    option = 0
    while place < len(payload) and payload[place] != 0xFF:
        nibbles = divmod(payload[place], 16)
        place += 1
        delta, place = _coap_extended(payload, nibbles[0], place)
        size, place = _coap_extended(payload, nibbles[1], place)
        option += delta
        if place + size > len(payload):
            raise IndexError(size)
        yield option, payload[place : place + size]
        place += size


def _coap_extended(payload: bytes, nibble: int, place: int) -> tuple[int, int]:
    if nibble == 15:
        raise IndexError(nibble)
    if nibble == 14:
        return struct.unpack_from("!H", payload, place)[0] + 269, place + 2
    if nibble == 13:
        return payload[place] + 13, place + 1
    return nibble, place


def _dtls(payload: bytes) -> str:
    """Name the records of a DTLS datagram (RFC 6347, 4.1)."""
    names = []
    place = 0
    while place < len(payload):
        content, version, epoch, size = struct.unpack_from("!B2sH6xH", payload, place)
        if content not in _DTLS_CONTENTS or version not in _DTLS_VERSIONS or place + 13 + size > len(payload):
            return ""
        # From epoch 1 on handshake messages are encrypted.
        is_plain = content == _HANDSHAKE and epoch == 0
        names.append(_DTLS_MESSAGES.get(payload[place + 13], "Handshake") if is_plain else _DTLS_CONTENTS[content])
        place += 13 + size
    return f"DTLS {', '.join(names)}" if names else ""


def _quic(payload: bytes) -> str:
    """Name the packets with a long header of a QUIC datagram (RFC 9000, 17.2; RFC 9369)."""
    names: list[str] = []
    place = 0
    while place < len(payload) and payload[place] & _LONG_HEADER:
        version = struct.unpack_from("!I", payload, place + 1)[0]
        if version == 0:
            return "QUIC Version Negotiation"
        if version not in _QUIC_TYPES or not payload[place] & _FIXED_BIT:
            return ""
        name = _QUIC_TYPES[version][payload[place] >> 4 & 3]
        names.append(name)
        if name == "Retry":
            break
        place = _quic_end(payload, place + 5, has_token=name == "Initial")
    if names and place < len(payload) and payload[place] & _FIXED_BIT and not payload[place] & _LONG_HEADER:
        names.append("1-RTT")
    return f"QUIC {', '.join(names)}" if names else ""


def quic_short(payload: bytes) -> str:
    """Name a QUIC packet with a short header, where the two peers speak QUIC (RFC 9000, 17.3)."""
    return "QUIC 1-RTT" if payload and payload[0] >> 6 == 1 else ""


def _quic_end(payload: bytes, place: int, *, has_token: bool) -> int:
    """Return where a packet ends whose connection IDs begin at ``place``."""
    for _ in range(2):
        place += 1 + payload[place]
    if has_token:
        token, place = _quic_integer(payload, place)
        place += token
    size, place = _quic_integer(payload, place)
    if place + size > len(payload):
        raise IndexError(size)
    return place + size


def _quic_integer(payload: bytes, place: int) -> tuple[int, int]:
    """Return a variable-length integer, and where it ends (RFC 9000, 16)."""
    size = 1 << (payload[place] >> 6)
    if place + size > len(payload):
        raise IndexError(size)
    return int.from_bytes(payload[place : place + size], "big") & (1 << (8 * size - 2)) - 1, place + size


def _dns(payload: bytes) -> str:
    """Name a DNS message, where dnspython is installed."""
    questions, *others = struct.unpack_from("!4x4H", payload)
    # Exclude most other payloads first: dnspython is slow, its import above all.
    if questions > 8 or sum(others) > 256 or questions + sum(others) == 0:
        return ""
    try:
        import dns.exception  # noqa: PLC0415 -- optional
        import dns.flags  # noqa: PLC0415
        import dns.message  # noqa: PLC0415
        import dns.rcode  # noqa: PLC0415
        import dns.rdatatype  # noqa: PLC0415
    except ImportError:
        return ""
    try:
        message = dns.message.from_wire(payload)
    except (dns.exception.DNSException, ValueError):
        return ""
    asked = ", ".join(f"{question.name} {dns.rdatatype.to_text(question.rdtype)}" for question in message.question)
    if not message.flags & dns.flags.QR:
        return f"DNS query {asked}"
    found = [f"{record}" for rrset in message.answer for record in rrset]
    return " ".join(filter(None, ["DNS response", asked, dns.rcode.to_text(message.rcode()), ", ".join(found)]))


PROTOCOLS: Final[tuple[Callable[[bytes], str], ...]] = (_stun, _dtls, _quic, _coap, _dns)
"""In the order of the attempts: the protocols that are hardest to mistake come first."""


def name_of(payload: bytes, protocols: tuple[Callable[[bytes], str], ...] = PROTOCOLS) -> str:
    """Return the name of the first protocol that a payload belongs to, an empty text if there is none."""
    for protocol in protocols:
        try:
            if name := protocol(payload):
                return name
        except (IndexError, struct.error):
            continue
    return ""
