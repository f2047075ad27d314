"""The simulated network: its hosts, the paths between them, and faults over time."""

from __future__ import annotations

import errno
import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from itertools import count
from typing import Final

import trio

from ..._kernel.interfaces import Interface, listing
from ..._socket.budget import current_budget
from ..._socket.buggify import drawing
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
from .faults import Faults
from .host import Host, current_process
from .invariants import Invariants
from .kernel_socket import KernelSocket
from .names import Answer, LookupFailure, Resolver, canonical_name
from .nat_handle import NatHandle
from .nemesis import KINDS, SEPARATORS, Nemesis, Settings, can_be_named
from .pump import EPOCH, TIMER_SLACK, Pump
from .topology import AnyHost
from .trio_socket import SocketFactory

TRACE_LIMIT: Final = 100_000
"""The default number of records that a trace keeps."""
HERE: Final = "here"
"""The name of the host of tasks that were not started on another host."""


class Network(Faults):
    """A simulated network, as :func:`open_network` opens it."""

    def __init__(
        self,
        nursery: trio.Nursery,
        fabric: Fabric,
        resolver: Resolver,
        report: FailureReport,
        invariants: Invariants,
    ) -> None:
        super().__init__(nursery, fabric, resolver, report, invariants)
        self._nemesis: Nemesis | None = None
        self._numbers_of_faults: Counter[str] = Counter()

    def nemesis(
        self,
        *,
        crash: float = 0.0,
        restart: float | None = None,
        partition: float = 0.0,
        hold: float = 0.0,
        pause: float = 0.0,
        freeze: float = 0.0,
        clock: float = 0.0,
        path: float = 0.0,
        hosts: Iterable[AnyHost] | None = None,
        duration: float | None = None,
        calm: float = 5.0,
        minority: bool = False,
    ) -> None:
        """Inject faults at random times, from now on: many at once, and many right after a datagram of a new size or a
        note of the program. A tape has each fault, and :meth:`eventually` is judged in the calm after them.

        Args:
          crash: the rate of crashes (:meth:`Host.crash`): the expected number per virtual second over all ``hosts``,
            as for every kind. A host crashes only if all that runs on it was started by ``start`` and ``start_soon``.
          restart: the mean time until a host that has crashed is rebooted (:meth:`Host.reboot`), in seconds; ``None``
            for never.
          partition: the rate of partitions (:meth:`partition`) of the hosts into two sides.
          hold: the rate of paths between two hosts that are held (:meth:`hold`).
          pause: the rate of hosts whose sockets are paused (:meth:`Host.pause`).
          freeze: the rate of frozen hosts (:meth:`Host.freeze`).
          clock: the rate of wrong clocks (:meth:`Host.clock_skew`), by up to a minute.
          path: the rate of paths that get a loss or an additional delay.
          hosts: the hosts that faults concern; ``None`` for all, also later ones.
          duration: when the faults end, in seconds from now; ``None`` for the end of the scenario, which ends them also
            before that time.
          calm: the time without faults after them, in seconds: everything is healed, and hosts that have crashed are
            rebooted unless ``restart`` is ``None``. The network stays open until it is over.
          minority: whether faults spare a majority of the hosts, which stay up and connected.

        Raises:
          TypeError, ValueError: if an argument is invalid.
          RuntimeError: if an earlier nemesis has not ended.
        """
        given = (crash, partition, hold, pause, freeze, clock, path)
        rates = {kind: check_number(kind, rate, 0) for kind, rate in zip(KINDS, given, strict=True)}
        if not any(rates.values()):
            raise ValueError(f"one of {', '.join(KINDS)} must have a rate of more than 0")
        if restart is not None:
            check_number("restart", restart, 0)
        if duration is not None:
            check_number("duration", duration, 0)
        check_number("calm", calm, 0)
        check_bool("minority", minority)
        settings = Settings(rates, restart, self._hosts_of_nemesis(hosts), duration, calm, minority)
        if self._nemesis is not None and not self._nemesis.is_over:
            raise RuntimeError("a nemesis is active: the next one can begin when its duration is over")
        self._defer_eventually()
        self._nemesis = Nemesis(self, self._fabric, settings, self._numbers_of_faults, self._judge_eventually)
        self._nemesis.begin()

    def _hosts_of_nemesis(self, hosts: Iterable[AnyHost] | None) -> tuple[Host, ...] | None:
        if hosts is None:
            return None
        if isinstance(hosts, (str, Host)) or not isinstance(hosts, Iterable):
            raise TypeError(f"hosts must be a list of hosts or their names, not {describe_value(hosts)}")
        chosen = tuple(dict.fromkeys(map(self._named, hosts)))
        if not chosen:
            raise ValueError("hosts must be one host at least")
        for host in chosen:
            if not can_be_named(host):
                raise ValueError(f"hosts must have names without {SEPARATORS}, not {host.name!r}")
        return chosen

    def _make_buggify(self) -> Callable[[str, float], bool]:
        """Return the function that draws for :func:`trio_dgram.buggify`."""
        draw = self._fabric.choices.stream("buggify").random

        def place_of(site: str) -> str:
            process = current_process.get()
            return f"buggify {site}" if process is None else f"{process.host.name}: buggify {site}"

        choose = self._fabric.choices.among(place_of, lambda _site, probability: int(draw() < probability))
        return lambda site, probability: bool(choose(site, probability))

    async def _settle(self) -> None:
        """End the nemesis, and wait until its calm is over."""
        if self._nemesis is not None:
            self._nemesis.end()
            await trio.sleep(max(0.0, self._nemesis.calm_until - self.time))

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
    underlay = test_run.underlay
    make_machine = Machine if underlay is None else underlay.machine
    fabric = Fabric(choices, pump.now, EPOCH, trace, pump.sooner, make_machine)
    fabric.together_within = 0.0 if underlay is None else underlay.together_within
    report, invariants = FailureReport(choices.seed, trace, fabric.netstat, pump.now), Invariants()
    with invariants.raising(), report.attaching(), _closing_mirrors(fabric):
        async with trio.open_nursery() as nursery:
            network = Network(nursery, fabric, resolver, report, invariants)
            make_factory = SocketFactory if underlay is None else underlay.socket_factory
            factory = make_factory(lambda: _machine_of_task(network, fabric))
            on_underlay = nullcontext() if underlay is None else underlay.opened(nursery)
            with on_underlay, test_run.collecting(report), _installed(network, factory, resolver):
                nursery.start_soon(pump.run, fabric)
                if choices.tape_ends_at < math.inf:
                    fabric.schedule(choices.tape_ends_at, choices.end_tape)
                try:
                    with report.attaching():
                        yield network
                        await network._settle()  # noqa: SLF001 -- of this module
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
    drawing_before = drawing.get()
    drawing.set(network._make_buggify())  # noqa: SLF001 -- of this module
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
            drawing.set(drawing_before)
            budget.seconds = seconds
            trio.socket.set_custom_hostname_resolver(resolver_before)
            trio.socket.set_custom_socket_factory(factory_before)
    if overtaken:
        raise RuntimeError(
            "a network must be closed before those opened before it: open the second one inside the block of the first"
        )
