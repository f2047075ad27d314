"""A host of the simulated network, and the tasks that run on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import trio

from ..._kernel.interfaces import Interface
from .._kernel.machine import LOOPBACK_MTU, Machine
from .._values.places import INTERFACE_INDEX, INTERFACES, LOOPBACK_INDEX, is_ipv6
from .._values.records import INTERFACE_MTU

T = TypeVar("T")

current_host: Final[ContextVar[Host | None]] = ContextVar("trio_dgram.sim host", default=None)
"""The host that a task runs on; child tasks inherit it."""


class HostStoppedError(Exception):
    """The host that a call ran on was stopped by ``crash`` or ``kill``."""


class Host:
    """A host of the simulated network: addresses, sockets, and the tasks that run on it.

    Made by :meth:`Network.host`.
    """

    def __init__(self, machine: Machine, nursery: trio.Nursery) -> None:
        self._machine = machine
        self._nursery = nursery
        self._running: dict[trio.CancelScope, None] = {}

    @property
    def name(self) -> str:
        """Its name, which resolves to its addresses."""
        return self._machine.name

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its IPv4 and IPv6 addresses."""
        return self._machine.addresses

    @property
    def ipv4(self) -> str:
        """Its first IPv4 address."""
        return next(address for address in self.addresses if not is_ipv6(address))

    @property
    def ipv6(self) -> str:
        """Its first IPv6 address."""
        return next(address for address in self.addresses if is_ipv6(address))

    @property
    def is_up(self) -> bool:
        """Whether it is on the network: not since ``crash``."""
        return self._machine.up

    # Programs

    @contextmanager
    def entered(self) -> Generator[None]:
        """Be on this host in the ``with`` block: sockets that it makes are, and tasks that it starts."""
        token = current_host.set(self)
        try:
            yield
        finally:
            current_host.reset(token)

    def start_soon(self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> None:
        """Start a task, as a nursery does, whose sockets, and those of its children, are on this host.

        Args:
          async_fn: the async function that the task runs.
          args: its positional arguments.
          name: the name of the task in a task tree. Default: None, that of the function.

        It is cancelled when the network is closed. What it raises leaves :func:`open_network`.
        """
        with self.entered():
            self._nursery.start_soon(self._background, async_fn, args, name=name or async_fn)

    async def run(self, async_fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call ``async_fn(*args)`` on this host and return its result.

        Args:
          async_fn: an async function, such as a client.
          args: its positional arguments.

        Raises:
          HostStoppedError: if the host is stopped meanwhile.
        """
        with self.entered(), self._stoppable():
            return await async_fn(*args)
        raise HostStoppedError(f"the host {self.name} was stopped")

    async def _background(self, async_fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        with self._stoppable():
            await async_fn(*args)

    @contextmanager
    def _stoppable(self) -> Generator[trio.CancelScope]:
        scope = trio.CancelScope()
        self._running[scope] = None
        try:
            with scope:
                yield scope
        except Exception:
            # A program that is gone tells nobody what went wrong with its goodbyes.
            if not scope.cancel_called:
                raise
        finally:
            del self._running[scope]

    def interfaces(self) -> list[Interface]:
        """Return its network interfaces, as :func:`trio_dgram.interfaces` does for a program on it."""
        return [
            Interface(
                name=INTERFACES[LOOPBACK_INDEX],
                index=LOOPBACK_INDEX,
                addresses=("127.0.0.1", "::1"),
                up=True,
                multicast=False,
                loopback=True,
                mtu=LOOPBACK_MTU,
            ),
            Interface(
                name=INTERFACES[INTERFACE_INDEX],
                index=INTERFACE_INDEX,
                addresses=self.addresses,
                up=self._machine.up,
                multicast=True,
                loopback=False,
                mtu=INTERFACE_MTU,
            ),
        ]

    # Faults

    def crash(self) -> None:
        """Cut the power: nothing leaves it from now on, its tasks are cancelled, and whoever asks it hears nothing."""
        self._machine.up = False
        self._stop()

    def kill(self) -> None:
        """Kill what runs on it, as SIGKILL does: its sockets are closed, its tasks cancelled, and its ports answer with
        ICMP."""
        self._stop()

    def restart(self, async_fn: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Stop what still runs, switch the host on if it was off, and start a task on it.

        Args:
          async_fn: the async function that the task runs, such as a server.
          args: its positional arguments.
        """
        self._stop()
        self._machine.up = True
        self._machine.path_mtus.clear()
        self.start_soon(async_fn, *args)

    def pause(self) -> None:
        """Let every call of its sockets wait, as if its programs were stopped by SIGSTOP, until :meth:`resume`.

        What comes in is queued while there is room. Other calls, such as ``trio.sleep``, go on.
        """
        self._machine.pause(paused=True)

    def resume(self) -> None:
        """End :meth:`pause`."""
        self._machine.pause(paused=False)

    def _stop(self) -> None:
        # First, so that no goodbye escapes.
        for endpoint in list(self._machine.endpoints):
            endpoint.close()
        self.resume()
        for scope in list(self._running):
            scope.cancel()

    def sockets(self) -> str:
        """Return a table of its sockets, and of those closed last: local address, peer, how many datagrams are queued
        and how many were dropped for want of room."""
        return self._machine.sockets()

    def __repr__(self) -> str:
        return f"<trio_dgram.sim.Host {self.name}: {', '.join(self.addresses)}>"
