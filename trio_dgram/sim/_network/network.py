"""The simulated network: its hosts, the paths between them, and faults over time."""

from __future__ import annotations

import errno
import math
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from itertools import count
from typing import Final, Literal, TypeAlias

import trio

from ..._kernel.interfaces import Interface, listing
from ..._socket.budget import current_budget
from ..._values.arguments import check_bool, check_choice, check_integer, check_number, describe_value
from ..._values.test_runs import current_test_run
from .._kernel.endpoint import Endpoint
from .._kernel.machine import Machine
from .._path.fabric import Fabric
from .._path.nat import Behaviour, Nat
from .._trace.report import FailureReport
from .._trace.trace import Trace
from .._values.choices import Choices, new_choices
from .._values.random import Seed, check_seed
from .adoption import adopting
from .host import Host, current_process
from .invariants import Invariants
from .kernel_socket import KernelSocket
from .names import Answer, LookupFailure, Resolver, canonical_name
from .nat_handle import NatHandle
from .pump import EPOCH, TIMER_SLACK, Pump
from .topology import AnyHost, Topology
from .trio_socket import SocketFactory

TRACE_LIMIT: Final = 100_000
"""The default number of records that a trace keeps."""
HERE: Final = "here"
"""The name of the host of tasks that were not started on another host."""

Direction: TypeAlias = Literal["both", "there", "back"]


class Network(Topology):
    """A simulated network, as :func:`open_network` opens it."""

    # Faults

    @contextmanager
    def partition(
        self,
        a: Iterable[AnyHost],
        b: Iterable[AnyHost],
        *,
        direction: Direction = "both",
        drop_in_flight: bool = False,
    ) -> Generator[None]:
        """Drop every datagram between the hosts ``a`` and the hosts ``b`` while the ``with`` block runs.

        Args:
          a: hosts on one side.
          b: hosts on the other.
          direction: ``"both"``, or only from ``a`` to ``b``, ``"there"``, or only ``"back"``.
          drop_in_flight: whether to drop datagrams that are in flight when the block begins; by default they arrive.
        """
        check_choice("direction", direction, ("both", "there", "back"))
        check_bool("drop_in_flight", drop_in_flight)
        a, b = tuple(a), tuple(b)
        pairs = [(one, other) for one in a for other in b]
        cut = [self.pipe(one, other) for one, other in pairs] if direction != "back" else []
        cut += [self.pipe(other, one) for one, other in pairs] if direction != "there" else []
        sides = f"{_format_hosts(a)} {_ARROWS[direction]} {_format_hosts(b)}"
        for pipe in cut:
            pipe.cut()
        if drop_in_flight:
            self._fabric.drop_in_flight(cut)
        self._fabric.note("", f"partition: {sides}", "fault")
        try:
            yield
        finally:
            for pipe in cut:
                pipe.mend()
            self._fabric.note("", f"the partition ends: {sides}", "fault")

    def hold(self, a: AnyHost, b: AnyHost) -> None:
        """Hold every datagram that enters the path from ``a`` to ``b``, until :meth:`release` was called as often."""
        pipe = self.pipe(a, b)
        pipe.hold()
        self._fabric.note("", f"hold {pipe.name}", "fault")

    def release(self, a: AnyHost, b: AnyHost) -> None:
        """End one :meth:`hold` from ``a`` to ``b``. The end of the last one releases all held datagrams, in order.

        Args:
          a: the host that sends, or its name.
          b: the host that receives, or its name.

        Raises:
          RuntimeError: if there is none.
        """
        self._fabric.note("", f"release {self.pipe(a, b).name}", "fault")
        self._fabric.release(self._named(a).name, self._named(b).name)

    def swizzle_clog(self, hosts: Iterable[AnyHost], *, seconds: float) -> None:
        """Hold the datagrams to and from each of ``hosts``, one host after another, and release them in another order.

        Args:
          hosts: the hosts or their names.
          seconds: the total duration; each hold begins and ends at a random time.
        """
        if check_number("seconds", seconds, 0) == 0:
            raise ValueError("seconds must be more than 0")
        names = [self._named(host).name for host in hosts]
        choices = self._fabric.choices
        draw = choices.stream("swizzle", *names, self.time).random
        begin = self.time
        for name in names:
            clogged = begin + choices.at(f"swizzle {name}: hold", draw, neutral=0.0)() * seconds / 2
            release = choices.at(f"swizzle {name}: release", lambda: 1 + draw(), neutral=0.0)()
            if not release:
                continue
            unclogged = begin + release * seconds / 2
            for other in self._hosts:
                if other != name:
                    self._clog(name, other, clogged, unclogged)
                    self._clog(other, name, clogged, unclogged)

    def _clog(self, sender: str, receiver: str, begin: float, end: float) -> None:
        self.at(begin, self.hold, sender, receiver)
        self.at(end, self.release, sender, receiver)

    def nat(
        self,
        inside: Iterable[AnyHost],
        *,
        mapping: Behaviour = "endpoint",
        filtering: Behaviour | None = None,
        timeout: float = 120.0,
        hairpin: bool = True,
        name: str | None = None,
    ) -> NatHandle:
        """Put hosts behind a NAT: others see its address instead of their IPv4 addresses (RFC 4787).

        Args:
          inside: the hosts behind it. IPv6, and packets among them, are not translated. Their multicast and broadcast
            packets do not leave.
          mapping: ``"endpoint"`` if a socket has the same outside port for all destinations; ``"address"`` or
            ``"address-port"`` if it has another one for each.
          filtering: which sources may send in, by the same values; None for that of ``mapping``.
          timeout: the lifetime of a mapping without outgoing datagrams, in seconds.
          hairpin: whether the hosts inside reach each other by their outside addresses.
          name: its name in the trace; None for ``"NAT 1"`` and so on.

        Paths stay between hosts: the NAT is at the end of each path, and one hop. Its address is derived from its name.

        Raises:
          TypeError, ValueError: if an argument is invalid, a host is behind a NAT already, or the name is in use.
        """
        if isinstance(inside, (str, Host)) or not isinstance(inside, Iterable):
            raise TypeError(f"inside must be a list of hosts or their names, not {describe_value(inside)}")
        names = [self._named(host).name for host in inside]
        words = ("endpoint", "address", "address-port")
        check_choice("mapping", mapping, words)
        if filtering is not None:
            check_choice("filtering", filtering, words)
        check_number("timeout", timeout, 0)
        check_bool("hairpin", hairpin)
        if not names:
            raise ValueError("inside must be one host at least")
        for host in names:
            if host in self._fabric.nats:
                raise ValueError(f"inside must be hosts that are behind no NAT yet, and {host!r} is")
        chosen = self._name_of_nat(name)
        draw = self._fabric.choices.stream(chosen, "NAT ports").getrandbits
        made = Nat(
            chosen,
            self._fabric.free_address(chosen),
            mapping=mapping,
            filtering=filtering or mapping,
            timeout=timeout,
            hairpin=hairpin,
            choose_port=self._fabric.choices.at(f"{chosen}: port", lambda: draw(32), neutral=0),
        )
        self._fabric.add_nat(made, names)
        return NatHandle(made, self._fabric)

    def _name_of_nat(self, name: str | None) -> str:
        taken = {*self._hosts, *self._fabric.nat_names}
        if name is None:
            return next(free for number in count(1) if (free := f"NAT {number}") not in taken)
        if not isinstance(name, str) or not name:
            raise ValueError(f"name must be the name of a NAT, not {describe_value(name)}")
        if name in taken:
            raise ValueError(f"name must be free: {name!r} is another NAT's or a host's")
        return name

    def look_up(self, name: str, *, error: LookupFailure | None = None, delay: float = 0.0) -> None:
        """Configure the lookup of a name from now on.

        Args:
          name: the name.
          error: ``"not found"`` (NXDOMAIN) or ``"try again"``, raised as ``socket.gaierror``; ``None`` for its
            addresses.
          delay: the duration of a lookup, in seconds.
        """
        if error is not None:
            check_choice("error", error, ("not found", "try again"))
        check_number("delay", delay, 0)
        self._resolver.answers[canonical_name(name)] = Answer(error, delay)

    # The view of the programs

    @property
    def current_host(self) -> Host:
        """The host of the current task: ``"here"`` unless the task was started on another host."""
        process = current_process.get()
        host = None if process is None else process.host
        return host if host is not None and self._hosts.get(host.name) is host else self.host(HERE)

    def interfaces(self) -> list[Interface]:
        """Return the network interfaces of the host of the current task."""
        return self.current_host.interfaces()

    def open_sockets(self) -> list[Endpoint]:
        """Return every open socket, host by host."""
        return [endpoint for machine in self._fabric.machines.values() for endpoint in machine.endpoints]

    def netstat(self) -> str:
        """Return every host's table of sockets."""
        return self._fabric.netstat()

    def __repr__(self) -> str:
        return f"<trio_dgram.sim.Network, seed {self.seed!r}, {len(self._hosts)} hosts, {self.trace.total} datagrams>"


_ARROWS: Final = {"both": "|", "there": "-/->", "back": "<-/-"}


def _format_hosts(hosts: Iterable[AnyHost]) -> str:
    return ", ".join(host if isinstance(host, str) else host.name for host in hosts)


_open: Final[trio.lowlevel.RunVar[tuple[Network, ...]]] = trio.lowlevel.RunVar("trio_dgram.sim networks", ())


def current_networks() -> tuple[Network, ...]:
    """Return the networks that are open in this Trio run, the innermost last."""
    return _open.get()


def open_network(
    *,
    seed: Seed | None = None,
    payload: bool = False,
    trace_limit: int | None = TRACE_LIMIT,
    timer_slack: float = TIMER_SLACK,
) -> AbstractAsyncContextManager[Network]:
    """Run the ``async with`` block on a simulated network.

    Every datagram socket that any library makes in this Trio run meanwhile is simulated, on the host of the current
    task. Real sockets and names are restored when the block ends, also by an exception.

    Args:
      seed: the seed of all randomness; ``None`` for that of the test under pytest, and for 0 elsewhere.
      payload: whether ``digest`` includes the payloads.
      trace_limit: the most records that the trace keeps; ``None`` for all.
      timer_slack: how late a sleeping task wakes in virtual time, in seconds. Deliveries are exact.

    Exceptions of the block propagate unchanged, those of tasks on hosts in an exception group; a note contains the
    seed, the digest, and the end of the story.
    """
    chosen = check_seed("seed", current_test_run().seed if seed is None else seed)
    return open_network_with(new_choices(chosen), payload=payload, trace_limit=trace_limit, timer_slack=timer_slack)


@asynccontextmanager
async def open_network_with(
    choices: Choices, *, payload: bool, trace_limit: int | None, timer_slack: float
) -> AsyncGenerator[Network]:
    """Open a network as :func:`open_network` does, with the choices of a run."""
    test_run = current_test_run()
    check_bool("payload", payload)
    if trace_limit is not None:
        check_integer("trace_limit", trace_limit, 0, 2**62)
    check_number("timer_slack", timer_slack, 0)
    failure: Exception | None = None
    pump, resolver = Pump(timer_slack), Resolver()
    trace = Trace(trace_limit, payload=payload, opened_at=EPOCH)
    fabric = Fabric(choices, pump.now, EPOCH, trace, pump.sooner)
    report, invariants = FailureReport(choices.seed, trace, fabric.netstat), Invariants()
    with invariants.raising(), report.attaching(), _closing_mirrors(fabric):
        async with trio.open_nursery() as nursery:
            network = Network(nursery, fabric, resolver, report, invariants)
            factory = SocketFactory(lambda: _machine_of_task(network, fabric))
            with test_run.collecting(report), _installed(network, factory, resolver):
                nursery.start_soon(pump.run, fabric)
                try:
                    with report.attaching():
                        yield network
                        invariants.expire_all()
                except Exception as error:  # noqa: BLE001 -- it is raised below, when nothing wraps it
                    failure = error
                # Frozen tasks cannot notice their cancellation, so resume them first.
                for host in network.hosts:
                    host.resume()
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


def _machine_of_task(network: Network, fabric: Fabric) -> Machine:
    """Return the machine for a socket of the current task; ENETDOWN if its process has ended."""
    process, host = current_process.get(), network.current_host
    if process is not None and not process.alive and host is process.host:
        raise OSError(errno.ENETDOWN, f"the program on {host.name} was stopped by kill, crash or restart")
    return fabric.machines[host.name]


@contextmanager
def _closing_mirrors(fabric: Fabric) -> Generator[None]:
    """Close the real descriptors of the sockets that the ``with`` block leaves open."""
    try:
        yield
    finally:
        for machine in fabric.machines.values():
            for endpoint in machine.endpoints:
                if isinstance(endpoint, KernelSocket):  # pragma: no branch -- a program's socket is one
                    endpoint.close_mirrors()


@contextmanager
def _installed(network: Network, factory: SocketFactory, resolver: Resolver) -> Generator[None]:
    """Install the network's sockets, names and interfaces in this Trio run."""
    factory_before = trio.socket.set_custom_socket_factory(factory)
    resolver_before = trio.socket.set_custom_hostname_resolver(resolver)
    budget = current_budget()
    seconds, budget.seconds = budget.seconds, math.inf
    # ContextVar tokens do not work here: a fixture may end in another context than it began in.
    interfaces_before, networks_before = listing.get(), _open.get()
    listing.set(network.interfaces)
    _open.set((*networks_before, network))
    try:
        with adopting():
            yield
    finally:
        overtaken = network in _open.get() and _open.get()[-1] is not network
        if network in _open.get():
            # A network that was opened later and is still open must not restore the values that it found here.
            _open.set(networks_before)
            listing.set(interfaces_before)
            budget.seconds = seconds
            trio.socket.set_custom_hostname_resolver(resolver_before)
            trio.socket.set_custom_socket_factory(factory_before)
    if overtaken:
        raise RuntimeError(
            "a network must be closed before those opened before it: open the second one inside the block of the first"
        )
