"""Payloads in words: by the program's own functions, as text, as a well-known protocol, or in hexadecimal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from ..._values.addresses import Address
from .._values.records import Packet
from .protocols import name_of, quic_short

_HEX_BYTES: Final = 8
_CONTROLS: Final = frozenset("\r\n\t")


class Payloads:
    """Decodes payloads into text."""

    def __init__(self) -> None:
        self._functions: dict[int, Callable[[bytes], object]] = {}
        self._quic: set[frozenset[Address]] = set()
        """The pairs of addresses between which a QUIC connection was opened."""

    def decode(self, port: int, function: Callable[[bytes], object]) -> None:
        """Decode the payloads to and from a port with ``function``."""
        self._functions[port] = function

    def describe(self, packet: Packet) -> str:
        """Return the payload of a datagram in words, on one line; an empty text for an empty one."""
        payload = packet.payload
        if not payload:
            return ""
        function = self._functions.get(packet.destination.port) or self._functions.get(packet.source.port)
        if function is not None:
            try:
                return one_line(str(function(payload)))
            except Exception as error:  # noqa: BLE001 -- a broken payload must not hide the rest of the story
                return f"{_in_general(payload)} ({type(error).__name__} in {_name_of(function)})"
        return self._as_quic(packet) or _in_general(payload)

    def _as_quic(self, packet: Packet) -> str:
        ends = frozenset({packet.source, packet.destination})
        if ends in self._quic:
            # Only the flow identifies QUIC here: the short header is one byte and an ID without a length.
            return name_of(packet.payload, (quic_short,))
        return ""

    def learn(self, packet: Packet) -> None:
        """Remember the flows of QUIC, whose later packets have short headers only."""
        if packet.payload and packet.payload[0] >> 6 == 3 and name_of(packet.payload).startswith("QUIC"):
            self._quic.add(frozenset({packet.source, packet.destination}))


def one_line(text: str) -> str:
    """Return a text on one line, with unprintable characters escaped."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _in_general(payload: bytes) -> str:
    return _as_text(payload) or one_line(name_of(payload)) or _as_hex(payload)


def _as_text(payload: bytes) -> str:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return ""
    if not all(each.isprintable() or each in _CONTROLS for each in text):
        return ""
    if text.lstrip()[:1] in ("{", "["):
        try:
            return one_line(json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")))
        except ValueError:
            pass
    return f'"{one_line(text)}"'


def _as_hex(payload: bytes) -> str:
    return payload[:_HEX_BYTES].hex(" ") + (" ..." if len(payload) > _HEX_BYTES else "")


def _name_of(function: object) -> str:
    return getattr(function, "__name__", type(function).__name__)
