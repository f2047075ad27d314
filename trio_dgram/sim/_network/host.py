"""A host of the simulated network, and the tasks that run on it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import attrs
import trio

from ..._kernel.interfaces import Interface
from ..._values.arguments import check_number, describe_value
from .._kernel.machine import LOOPBACK_MTU, Machine
from .._trace.report import FailureReport
from .._values.places import INTERFACE_INDEX, INTERFACES, LOOPBACK_INDEX, is_ipv6
from .._values.records import INTERFACE_MTU, NoteKind
from .trio_internals import Freezer

T = TypeVar("T")

current_process: Final[ContextVar[Process | None]] = ContextVar("trio_dgram.sim process", default=None)
"""The process that a task belongs to; child tasks inherit it."""


def host_of(task: trio.lowlevel.Task) -> Host | None:
    """Return the host that a task runs on."""
    process = task.context.get(current_process)
    return None if process is None else process.host


_freezer: Final = Freezer(host_of)


class HostStoppedError(Exception):
    """The host that a call ran on was stopped by ``crash``, ``kill`` or ``restart``."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the host {name} was stopped")


@attrs.frozen(eq=False)
class Program:
    """An async function that was started on a host."""

    async_fn: Callable[..., Awaitable[object]]
    args: tuple[Any, ...]
    name: object
    reports_start: bool = False
    """Whether it gets ``task_status``."""

    async def run(self) -> None:
        """Call it."""
        options = {"task_status": trio.TASK_STATUS_IGNORED} if self.reports_start else {}
        await self.async_fn(*self.args, **options)


class Process:
    """What runs on a host from one start until ``kill``, ``crash`` or ``restart``: tasks, and the sockets they make.

    Rule 1: a task belongs to the process that was current when it was started, regardless of later events.
    Rule 2: a process that has ended makes no sockets, and those that it had are closed: nothing that its tasks still
        do, in a ``finally`` or behind a shield, reaches the network.
    """

    def __init__(self, host: Host, report: FailureReport) -> None:
        self.host: Host = host
        self.report: FailureReport = report
        self.alive: bool = True
        self.programs: dict[Program, None] = {}
        """The programs that run, in the order of their start."""
        self.calls: int = 0
        """How many calls of :meth:`Host.run` wait for it."""
        self._running: dict[trio.CancelScope, None] = {}

    @contextmanager
    def current(self) -> Generator[None]:
        """Make this the current process in the ``with`` block."""
        token = current_process.set(self)
        try:
            yield
        finally:
            current_process.reset(token)

    @contextmanager
    def stoppable(self) -> Generator[None]:
        """Cancel the ``with`` block when the process ends."""
        scope = trio.CancelScope()
        if not self.alive:
            # The process ended before the first step of the task.
            scope.cancel()
        self._running[scope] = None
        try:
            with scope:
                yield
        except Exception:
            # Exceptions of a killed program are discarded.
            if not scope.cancel_called:
                raise
        finally:
            del self._running[scope]

    @contextmanager
    def running(self, program: Program) -> Generator[None]:
        """Remove a program from those that run when the ``with`` block has ended by itself."""
        try:
            yield
        finally:
            if self.alive:
                self.programs.pop(program, None)

    def end(self) -> None:
        """End the process: its tasks are cancelled, and they cannot make sockets any more."""
        self.alive = False
        for scope in list(self._running):
            scope.cancel()


class Host:
    """A host of the simulated network: addresses, sockets, and the tasks that run on it.

    Made by :meth:`Network.host`.
    """

    def __init__(self, machine: Machine, nursery: trio.Nursery, report: FailureReport) -> None:
        self._machine = machine
        self._nursery = nursery
        self._report = report
        self._process = Process(self, report)
        self._stopped: list[Program] = []
        """The programs that were running when the host was stopped."""
        self._skew = _Skew()

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
        """Whether it is on the network: False from ``crash`` until ``restart``."""
        return self._machine.up

    # Programs

    @contextmanager
    def active(self) -> Generator[None]:
        """Run the ``with`` block on this host: sockets made and tasks started in it belong to the host.

        After ``kill``, ``crash`` or ``restart`` the block, and tasks that were started in it, can make no sockets.
        """
        with self._process.current():
            yield

    def start_soon(self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> None:
        """Start a task, as a nursery does, whose sockets, and those of its children, are on this host.

        Args:
          async_fn: the async function that the task runs.
          args: its positional arguments.
          name: the name of the task in a task tree. Default: None, that of the function.

        The task is cancelled when the network is closed. Its exceptions propagate from :func:`open_network`.
        """
        _check_async_fn(async_fn)
        self._start_soon(Program(async_fn, args, name or async_fn))

    def _start_soon(self, program: Program) -> None:
        process = self._process
        process.programs[program] = None
        with process.current():
            self._nursery.start_soon(_run_in, process, program, name=program.name)

    async def start(self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> Any:
        """Start a task as :meth:`start_soon` does, and wait until it calls ``task_status.started``, as
        :meth:`trio.Nursery.start` does.

        Args:
          async_fn: the async function, which gets ``task_status``.
          args: its other arguments.
          name: the name of the task. Default: the function's.

        Returns:
          The value passed to ``task_status.started``.

        Raises:
          HostStoppedError: if the host is stopped before.
        """
        _check_async_fn(async_fn)
        process = self._process
        program = Program(async_fn, args, name or async_fn, reports_start=True)
        with process.current():
            try:
                return await self._nursery.start(_start_in, process, program, name=program.name)
            except RuntimeError:
                # Trio's: the task has ended without calling started.
                if process.alive:
                    raise
                raise HostStoppedError(self.name) from None

    async def run(self, async_fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call ``async_fn(*args)`` on this host and return its result.

        Args:
          async_fn: an async function, such as a client.
          args: its positional arguments.

        Raises:
          HostStoppedError: if the host is stopped meanwhile.
        """
        _check_async_fn(async_fn)
        process = self._process
        process.calls += 1
        try:
            with process.current(), process.stoppable():
                return await async_fn(*args)
        finally:
            process.calls -= 1
        raise HostStoppedError(self.name)

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
        """Cut the power: the host sends nothing any more, answers nothing, and its tasks are cancelled."""
        self._note("crashes: its power is cut", "crash")
        self._machine.up = False
        self._stop()

    def kill(self) -> None:
        """Kill its programs, as SIGKILL does: their sockets are closed, their tasks cancelled, and their ports answer
        with ICMP."""
        self._note("its programs are killed")
        self._stop()

    def restart(self, async_fn: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Stop the programs that still run, switch the host on if it is off, and start a task on it.

        Args:
          async_fn: the async function that the task runs, such as a server.
          args: its positional arguments.
        """
        _check_async_fn(async_fn)
        self._restart([Program(async_fn, args, async_fn)])

    def reboot(self) -> None:
        """Switch the host on, and start the programs again that were running when ``crash`` or ``kill`` stopped it: the
        async functions passed to ``start`` and ``start_soon``, with their arguments. Programs that run are stopped."""
        self._restart([*self._stopped, *self._process.programs])

    @property
    def is_rebootable(self) -> bool:
        """Whether it is up, and all that runs on it would be started again by :meth:`reboot`: programs, but no call of
        :meth:`run`."""
        return self.is_up and bool(self._process.programs) and not self._process.calls

    def _restart(self, programs: list[Program]) -> None:
        names = ", ".join(str(getattr(program.async_fn, "__name__", program.async_fn)) for program in programs)
        self._note(f"restarts with {names or 'no program'}", "restart")
        self._stop()
        self._stopped = []
        self._machine.up = True
        self._machine.path_mtus.clear()
        for program in programs:
            self._start_soon(program)

    def pause(self) -> None:
        """Block every call of its sockets until :meth:`resume`. Other calls, such as ``trio.sleep``, continue.

        Incoming datagrams are queued until the receive buffer is full.
        """
        self._note("its programs are paused")
        self._machine.pause(paused=True)

    def freeze(self) -> None:
        """Stop its tasks until :meth:`resume`, as SIGSTOP or a long garbage collection does: its sockets, as with
        :meth:`pause`, and its timers. A deadline that passes meanwhile expires on resume.

        Raises:
          RuntimeError: if this release of Trio lacks the internals that this needs.
        """
        _freezer.freeze(self)
        self._note("its programs and their timers are frozen")
        self._machine.pause(paused=True)

    def resume(self) -> None:
        """End :meth:`pause` and :meth:`freeze`."""
        if self._machine.paused:
            self._note("its programs are resumed")
        self._machine.pause(paused=False)
        _freezer.thaw(self)

    def clock_skew(self, offset: float = 0.0, rate: float = 1.0) -> None:
        """Skew its time of day: ``time.time`` and ``datetime.now``, as its tasks see them.

        This needs a virtual time of day, as ``sim.run`` and the fixtures provide. Timers and ``time.monotonic`` are
        unaffected.

        Args:
          offset: seconds that it is ahead of the network's time of day from now on.
          rate: its seconds per second of the network, from now on.
        """
        check_number("offset", offset, -math.inf)
        check_number("rate", rate, 0)
        self._machine.check_clock()
        self._skew = _Skew(offset, rate, trio.current_time())
        self._note(f"its clock is {offset:g} s ahead, at {rate:g} s per second")

    def skew_at(self, now: float) -> float:
        """Return how many seconds its time of day is ahead at ``now``, by Trio's clock."""
        skew = self._skew
        return skew.offset + (now - skew.since) * (skew.rate - 1)

    def _stop(self) -> None:
        # End the process and close its sockets first, so that cancelled tasks cannot reach the network.
        process, self._process = self._process, Process(self, self._report)
        self._stopped += process.programs
        for endpoint in list(self._machine.endpoints):
            endpoint.close()
        process.end()
        self.resume()

    def _note(self, text: str, kind: NoteKind = "fault") -> None:
        self._machine.wire.note(self.name, text, kind)

    def sockets(self) -> str:
        """Return a table of its open sockets and of the last closed ones: local address, peer, queued datagrams, and
        datagrams dropped because the receive buffer was full."""
        return self._machine.sockets()

    def __repr__(self) -> str:
        return f"<trio_dgram.sim.Host {self.name}: {', '.join(self.addresses)}>"


@attrs.frozen
class _Skew:
    offset: float = 0.0
    rate: float = 1.0
    since: float = 0.0


def _check_async_fn(async_fn: object) -> None:
    if inspect.iscoroutine(async_fn):
        async_fn.close()
        raise TypeError(
            f"async_fn must be an async function, not a coroutine: pass {async_fn.__name__} and its arguments apart, "
            f"without calling it"
        )
    if not callable(async_fn):
        raise TypeError(f"async_fn must be an async function, not {describe_value(async_fn)}")


async def _run_in(process: Process, program: Program) -> None:
    with process.report.attaching(), process.stoppable(), process.running(program):
        await program.run()


async def _start_in(process: Process, program: Program, *, task_status: trio.TaskStatus[Any]) -> None:
    process.programs[program] = None
    with process.stoppable(), process.running(program):
        await program.async_fn(*program.args, task_status=task_status)
