"""What several of these tests begin with."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import Address, DatagramNursery

from ..support.families import Family


@pytest.fixture
async def nursery() -> AsyncGenerator[DatagramNursery]:
    """A nursery whose sockets and tasks end with the test."""
    async with trio_dgram.open_nursery() as opened:
        yield opened
        opened.cancel_scope.cancel()


@attrs.define
class HeldLookup:
    """A lookup that says loopback, or raises ``error``, once it is allowed to answer."""

    host: str
    error: Exception | None = None
    asked: trio.Event = attrs.field(factory=trio.Event)
    allowed: trio.Event = attrs.field(factory=trio.Event)

    async def __call__(self, _host: str, port: int, _family: socket.AddressFamily) -> Address:
        self.asked.set()
        await self.allowed.wait()
        if self.error is not None:
            raise self.error
        return Address(self.host, port)


@pytest.fixture
def lookup(udp: Family) -> HeldLookup:
    """A lookup that answers when the test allows it to."""
    return HeldLookup(udp.loopback)
