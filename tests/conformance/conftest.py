"""Fixtures of the conformance suite, and the transports that it runs on.

Every test of a socket runs on the kernel, on a custom socket factory that offers Trio's sockets alone, and on the
simulated network. With ``--refuse`` it runs on kernels that lack something instead.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from inspect import iscoroutinefunction
from typing import Any, Final

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import Address, DatagramNursery
from trio_dgram.sim import SimulatedSocket

from ..support.factories import run_on_awaited_sockets
from ..support.families import Family
from ..support.namespaces import Link, Machine, another_machine, network_namespace
from ..support.refusals import NAMES, refuse
from ..support.simulated import SimulatedLink, SimulatedMachine, run_simulated


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kernel_transport(why): a custom socket factory does not support what is tested")
    config.addinivalue_line("markers", "needs(capability): the test uses this field of trio_dgram.Capabilities")
    config.addinivalue_line("markers", "not_simulated(why): the simulated network does not support what is tested")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if iscoroutinefunction(metafunc.function):
        refused = metafunc.config.getoption("refuse")
        if refused:  # pragma: no cover -- long tests run it
            names = NAMES if "each" in refused else refused
            metafunc.parametrize("transport", names, ids="without {}".format, indirect=True)
            return
        kernel_only = metafunc.definition.get_closest_marker("kernel_transport")
        transports = ["kernel"] if kernel_only else ["kernel", "factory", "simulation"]
        if metafunc.definition.get_closest_marker("not_simulated") and not kernel_only:
            transports.remove("simulation")
        metafunc.parametrize("transport", transports, indirect=True)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The transport of the test's sockets."""
    name: str = getattr(request, "param", "kernel")
    if name in NAMES:  # pragma: no cover -- long tests run it
        refuse(monkeypatch, name)
        name = "kernel"
    for marker in request.node.iter_markers("needs"):
        if not getattr(trio_dgram.capabilities(), marker.args[0]):
            pytest.skip(f"kernel: it lacks {marker.args[0]}")  # pragma: no cover -- the session tests_portable runs it
    run = _RUNS.get(name)
    if run is not None:
        # pytest-trio uses the first marker, so insert this one before that of trio_mode.
        request.node.add_marker(pytest.mark.trio(run=run), append=False)
    return name


_RUNS: Final = {"factory": run_on_awaited_sockets, "simulation": run_simulated}


@pytest.fixture
def namespace(transport: str) -> Generator[int | None]:
    """A new network namespace that the test runs in; a simulated network needs none."""
    if transport == "simulation":
        yield None
        return
    with network_namespace() as inside:
        yield inside


@pytest.fixture
def machine(namespace: int | None) -> Generator[Machine | SimulatedMachine]:
    """Another machine, to be linked to the one of the test."""
    if namespace is None:
        yield SimulatedMachine()
        return
    with another_machine(namespace) as there:
        yield there


@pytest.fixture
def veth(machine: Machine | SimulatedMachine) -> Link | SimulatedLink:
    """The first link between the test's machine and the other."""
    return machine.link()


def plain_socket(family: socket.AddressFamily) -> Any:
    """Return a non-blocking socket of the transport without Trio: the standard library's, or a simulated one."""
    made: Any = trio.socket.socket(family, socket.SOCK_DGRAM)
    if isinstance(made, SimulatedSocket):
        return closing(made.kernel_socket())
    made.close()
    plain = socket.socket(family, socket.SOCK_DGRAM)
    plain.settimeout(0)
    return plain


@pytest.fixture
async def nursery() -> AsyncGenerator[DatagramNursery]:
    """A nursery that is cancelled when the test ends."""
    async with trio_dgram.open_nursery() as opened:
        yield opened
        opened.cancel_scope.cancel()


@attrs.define
class HeldLookup:
    """A lookup that returns the loopback address, or raises ``error``, once ``allowed`` is set."""

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
    """A lookup that the test holds until it sets ``allowed``."""
    return HeldLookup(udp.loopback)
