"""The requests of ``ping``, and how their replies are recognised. No sockets."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from typing import Final

import attrs

_ANY: Final = 0
_A, _IN = b"\0\1", b"\0\1"
_HEADER: Final = 12
"""Of a DNS message, in bytes (RFC 1035, 4.1.1)."""
_RESPONSE: Final = 0x80


class Probe(ABC):
    """A kind of request."""

    @abstractmethod
    def request(self, sequence: int) -> bytes:
        """Return the payload of the request of this number, from 1."""

    @abstractmethod
    def match_untrusted(self, data: bytes, latest: int) -> int | None:
        """Return the number of the request that ``data`` answers.

        Args:
          data: what the network sent.
          latest: the number of the latest request.

        Returns:
          ``None`` if it is no reply; 0 if all requests are equal.
        """


@attrs.frozen
class EchoProbe(Probe):
    """Numbered requests with random bytes that an echo server returns unchanged."""

    token: bytes = attrs.field(factory=lambda: secrets.token_hex(8).encode())

    def request(self, sequence: int) -> bytes:
        """Return text, for servers that handle lines."""
        return b"trio-dgram ping %s %d\n" % (self.token, sequence)

    def match_untrusted(self, data: bytes, latest: int) -> int | None:
        """Match the exact bytes of one request."""
        number = data[len(self.request(0)) - 2 : -1]
        if not number.isdigit() or not 0 < int(number[:20]) <= latest:
            return None
        return int(number) if data == self.request(int(number)) else None


@attrs.frozen
class FixedProbe(Probe):
    """The same payload each time, which an echo server returns unchanged."""

    payload: bytes

    def request(self, sequence: int) -> bytes:  # noqa: ARG002 -- all are equal
        """Return the payload."""
        return self.payload

    def match_untrusted(self, data: bytes, latest: int) -> int | None:  # noqa: ARG002 -- all are equal
        """Match the exact bytes."""
        return _ANY if data == self.payload else None


@attrs.frozen
class DNSProbe(Probe):
    """Queries for the IPv4 address of a name (RFC 1035), with successive ids."""

    question: bytes
    first_id: int = attrs.field(factory=lambda: secrets.randbelow(1 << 16))

    @classmethod
    def create(cls, name: str) -> DNSProbe:
        """Return the probe for ``name``.

        Raises:
          ValueError: if it is no domain name.
        """
        try:
            labels = name.removesuffix(".").encode("idna").split(b".") if name != "." else []
        except UnicodeError:
            raise ValueError(f"must be a domain name, not {name!r}") from None
        encoded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
        if len(encoded) > 255 or not all(labels):
            raise ValueError(f"must be a domain name, not {name!r}")
        return cls(encoded + _A + _IN)

    def request(self, sequence: int) -> bytes:
        """Return a query that asks for recursion."""
        return self._id(sequence) + b"\1\0\0\1\0\0\0\0\0\0" + self.question

    def match_untrusted(self, data: bytes, latest: int) -> int | None:
        """Match the id and the question of a response, whatever its code; names are case-insensitive."""
        question = data[_HEADER : _HEADER + len(self.question)]
        if len(data) < _HEADER or not data[2] & _RESPONSE or question.lower() != self.question.lower():
            return None
        behind = (self.first_id + latest - int.from_bytes(data[:2], "big")) & 0xFFFF
        return latest - behind if behind < latest else None

    def _id(self, sequence: int) -> bytes:
        return ((self.first_id + sequence) & 0xFFFF).to_bytes(2, "big")
