"""Corking: one datagram that several calls send (udp(7), UDP_CORK and MSG_MORE)."""

from __future__ import annotations

import errno

from ..._values.addresses import Address
from .._values.places import refusal
from .control import Instructions


class Cork:
    """The payload gathered for one datagram. The first call sets its destination and options."""

    __slots__ = ("destination", "instructions", "payload")

    def __init__(self, destination: Address, instructions: Instructions) -> None:
        self.destination: Address = destination
        self.instructions: Instructions = instructions
        self.payload: bytearray = bytearray()

    def add(self, payload: bytes, most: int) -> None:
        """Append to the payload; raise EMSGSIZE if it would exceed ``most`` bytes."""
        if len(self.payload) + len(payload) > most:
            raise refusal(errno.EMSGSIZE)
        self.payload += payload
