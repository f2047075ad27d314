"""Hosts that are namespaces of the real kernel, in the place of simulated ones.

Rule 1: a socket of a program is the kernel's, made in the namespace of its host. Only what is between the hosts is
    simulated: the fabric forwards each packet that leaves a namespace, and drops, delays and duplicates it.
Rule 2: what would not be the same there, such as fragments of a datagram, makes the run one that was not tried.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Final, NoReturn, cast

import trio
import trio.testing

from ..._kernel.system_socket import SystemSocket
from ..._values.addresses import Address, unmapped
from .._kernel.machine import Machine, Wire
from .._values.encoding import encode
from .._values.records import Packet, Report
from .namespace import Namespace, NotTriedError
from .packets import FragmentError, Headers, parse_complaint, parse_packet

_LARGEST: Final = 65536
"""More bytes than any packet has."""
_LATENESS: Final = 1e-4
"""How late a timer appears to be at most, in seconds."""
_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)


class RealClock(trio.abc.Clock):
    """Real time, which stands still while a host is made, and while a timer is late.

    The faults of a tape have times since the network was opened, and on a busy machine timers are so late that those of
    several hosts would fire together.
    """

    def __init__(self) -> None:
        self._stopped_for = 0.0
        self._due = math.inf

    def start_clock(self) -> None:
        """Do nothing: the clock runs."""

    def current_time(self) -> float:
        """Return the time, in seconds."""
        now = monotonic() - self._stopped_for
        late = now - self._due - _LATENESS
        self._due = math.inf
        if late > 0:
            self._stopped_for += late
            now -= late
        return now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long to sleep until ``deadline``, in seconds."""
        sleep = deadline - self.current_time()
        self._due = deadline if sleep > 0 else math.inf
        return sleep

    @contextmanager
    def stopped(self) -> Generator[None]:
        """Stop the clock in the ``with`` block, which must not wait."""
        begin = monotonic()
        try:
            yield
        finally:
            self._stopped_for += monotonic() - begin


class NamespaceSocket(SystemSocket):
    """A socket in the namespace of a host."""

    __slots__ = ("host",)

    host: NamespaceMachine

    def renew(self) -> SystemSocket:
        """Exchange the kernel's socket, as :meth:`SystemSocket.renew` does."""
        with self.host.namespace.entered():
            return super().renew()

    def scratch(self) -> SystemSocket:
        """Return a new socket, as :meth:`SystemSocket.scratch` does."""
        with self.host.namespace.entered():
            return super().scratch()

    def to_trio(self, convert: Callable[[socket.socket], Any]) -> Any:
        """Return a socket of Trio's over the same one, which ``convert`` makes."""
        made = convert(self._sock)
        # This library asks for it.
        made.kernel_socket = lambda: self
        return made

    def is_local(self, host: str) -> bool:
        """Whether ``host`` is a numeric address of the host."""
        return self.host.owns(unmapped(host.partition("%")[0]))

    def close(self) -> None:
        """Close it, and end every wait for it; the host closes it when it stops."""
        if self.fileno() != -1:
            trio.lowlevel.notify_closing(self.fileno())
        self.host.open_sockets.pop(self, None)
        self._sock.close()


class NamespaceMachine(Machine):
    """A host that is a namespace.

    Args:
      underlay: all of them.
      wire: the network.
      name: the name of the host.
      addresses: its addresses.
      broadcasts: the broadcast addresses of its networks.
    """

    def __init__(
        self, underlay: Namespaces, wire: Wire, name: str, addresses: tuple[str, ...], broadcasts: frozenset[str]
    ) -> None:
        super().__init__(wire, name, addresses, broadcasts)
        self.namespace: Namespace = Namespace(addresses)
        self._underlay = underlay
        self._forwarding = trio.CancelScope()
        self._received: dict[tuple[Address, Address], Packet] = {}
        """The last packet by its source and destination, which an ICMP message may be about."""

    @property
    def open_sockets(self) -> dict[NamespaceSocket, None]:
        """Its sockets, which the base class closes when the host stops."""
        return cast("dict[NamespaceSocket, None]", self.endpoints)

    def create_socket(self, family: int) -> NamespaceSocket:
        """Create a socket on this host."""
        with self.namespace.entered():
            made = NamespaceSocket.create(family)
        made.host = self
        self.open_sockets[made] = None
        return made

    def sockets(self) -> str:
        """Return a list of its open sockets."""
        return "\n".join(f"{endpoint.getsockname()}" for endpoint in self.endpoints)

    def pause(self, *, paused: bool) -> None:
        """Do nothing on a host that is not paused: the kernel cannot pause one."""
        if paused:
            self._underlay.refuse("a host cannot be paused or frozen on the kernel")

    def check_clock(self) -> None:
        """Refuse a clock skew: the hosts have the clock of the kernel."""
        self._underlay.refuse("the hosts have one clock on the kernel")

    def receive(self, packet: Packet) -> None:
        """Write a packet from the network to the interface."""
        if not self.up:
            super().receive(packet)
            return
        self.wire.record(packet, "", self.name)
        self._received[packet.source, packet.destination] = packet
        # ENOBUFS and EAGAIN: the kernel drops what it has no space for, as it does with packets from a wire.
        with suppress(OSError):
            os.write(self.namespace.interface, encode(packet))

    async def forward(self) -> None:
        """Forward the packets that leave the interface, until that is closed."""
        with self._forwarding:
            while True:
                await trio.lowlevel.checkpoint_if_cancelled()
                await trio.lowlevel.wait_readable(self.namespace.interface)
                self.forward_queued()

    def forward_queued(self) -> None:
        """Forward the packets that have left the interface."""
        with suppress(BlockingIOError):
            while True:
                self._forward(os.read(self.namespace.interface, _LARGEST))

    def close(self) -> None:
        """Close its sockets, and the namespace."""
        self._forwarding.cancel()
        for endpoint in list(self.endpoints):
            endpoint.close()
        self.namespace.close()

    def _forward(self, data: bytes) -> None:
        try:
            headers = parse_packet(data)
        except FragmentError:
            self._underlay.refuse("a datagram was fragmented")
        packet = self._packet(headers)
        if packet is None or not self.up:
            return
        if self.kind_of(packet.destination.host) != "unicast":
            self._underlay.refuse("the run has multicast or broadcast datagrams")
        self.wire.transmit(self, packet)

    def _packet(self, headers: Headers) -> Packet | None:
        """Return what the network carries of a packet; None for what it does not, such as neighbour discovery."""
        report = None
        if not headers.is_datagram:
            complaint = parse_complaint(headers)
            ends = None if complaint is None else (complaint.about.source, complaint.about.destination)
            if complaint is None or ends not in self._received:
                return None
            about = self._received[ends]
            report = Report(complaint.type, complaint.code, complaint.mtu, about)
        return Packet(
            self.next_number(),
            headers.source,
            headers.destination,
            headers.data if report is None else b"",
            self.name,
            self.time(),
            headers.hop_limit,
            headers.traffic_class,
            dont_fragment=headers.dont_fragment,
            report=report,
        )


class Namespaces(trio.abc.Instrument):
    """The hosts of one run of a test, each a namespace.

    It is an instrument of the run, so that datagrams of several hosts are forwarded in the order in which they are
    sent: tasks that wait for the interfaces would wake in any order.

    Args:
      together_within: how far apart arrivals are due at most that count as those of one instant, in seconds.
    """

    def __init__(self, together_within: float = 0.0) -> None:
        self.together_within: Final = together_within
        self._refused = ""
        self.machines: Final[list[NamespaceMachine]] = []
        self.clock: Final = RealClock()
        """The clock that the test is run with in the place of a virtual one."""
        self._nursery: trio.Nursery | None = None

    def refuse(self, reason: str) -> NoReturn:
        """End a run that cannot be the same on the kernel.

        Raises:
          NotTriedError: always.
        """
        self._refused = self._refused or reason
        raise NotTriedError(reason)

    def check(self) -> None:
        """Check that the run counts; the test may have suppressed that it does not.

        Raises:
          NotTriedError: if it does not.
        """
        if self._refused:
            raise NotTriedError(self._refused)

    @contextmanager
    def opened(self, nursery: trio.Nursery) -> Generator[None]:
        """Forward packets by tasks of ``nursery`` in the ``with`` block.

        Raises:
          NotTriedError: if time is virtual.
        """
        if isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock):
            self.refuse("time is virtual by other means than the fixture autojump_clock")
        if self._nursery is not None:
            self.refuse("the test opens several networks")
        self._nursery = nursery
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)
            for machine in self.machines:
                machine.close()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 -- Trio's interface
        """Forward what the step has sent."""
        try:
            for machine in self.machines:
                machine.forward_queued()
        except NotTriedError:
            # Trio discards the exceptions of instruments.
            if self._nursery is not None:  # pragma: no branch -- hosts are made on open networks only
                self._nursery.start_soon(self._fail)

    async def _fail(self) -> None:
        self.check()

    def machine(
        self, wire: Wire, name: str, addresses: tuple[str, ...], broadcasts: frozenset[str]
    ) -> NamespaceMachine:
        """Return a new host."""
        try:
            with self.clock.stopped():
                made = NamespaceMachine(self, wire, name, addresses, broadcasts)
        except OSError as error:
            self.refuse(f"the host {name} has no namespace: {error}")
        self.machines.append(made)
        if self._nursery is not None:  # pragma: no branch -- hosts are made on open networks only
            self._nursery.start_soon(made.forward)
        return made

    def socket_factory(self, machine: Any) -> SocketFactory:
        """Return the socket factory of the run.

        Args:
          machine: returns the host of the current task.
        """
        return SocketFactory(self, machine)


class SocketFactory(trio.abc.SocketFactory):
    """Makes sockets in the namespace of the current task's host.

    Args:
      underlay: the namespaces.
      machine: returns the host of the current task.
    """

    def __init__(self, underlay: Namespaces, machine: Any) -> None:
        self._underlay = underlay
        self._machine = machine
        # Open networks replace the function of that name.
        self._to_trio: Any = trio.socket.from_stdlib_socket

    def socket(self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0) -> Any:
        """Make a datagram socket."""
        if family not in _INTERNET or type != socket.SOCK_DGRAM or proto:
            self._underlay.refuse("the program makes other sockets than of UDP")
        machine: NamespaceMachine = self._machine()
        return machine.create_socket(family).to_trio(self._to_trio)

    def replace(self, sock: Any) -> NoReturn:  # noqa: ARG002 -- the caller's interface
        """Refuse a socket that ``adopt_socket`` was given: it is not in a namespace of the run."""
        self._underlay.refuse("the program adopts a socket")
