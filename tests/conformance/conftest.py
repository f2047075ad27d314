"""What several of these tests begin with, and what all of them run on.

Every test of a socket runs twice: on the kernel, and on a custom socket factory that offers Trio's sockets alone.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from inspect import iscoroutinefunction

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import Address, DatagramNursery

from ..support.factories import run_on_awaited_sockets
from ..support.families import Family


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "kernel_transport(why): what is tested is nothing that a custom factory's sockets can do"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if iscoroutinefunction(metafunc.function):
        kernel_only = metafunc.definition.get_closest_marker("kernel_transport")
        metafunc.parametrize("transport", ["kernel"] if kernel_only else ["kernel", "factory"], indirect=True)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest) -> None:
    """What sockets run on."""
    if getattr(request, "param", "kernel") == "factory":
        # The first one counts, and one is there.
        request.node.add_marker(pytest.mark.trio(run=run_on_awaited_sockets), append=False)


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
