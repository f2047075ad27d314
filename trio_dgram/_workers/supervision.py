"""The supervision of the workers: one process runs in each slot, until all are stopped.

A slot has the sockets of one index. Its state, as ``Supervisor.workers`` shows it:

    starting -> ready -> draining -> stopped    the worker is up; the supervisor ends it
    starting, ready -> waiting -> starting      it crashed, or ended by itself

Rule 1: a slot keeps its sockets open between two workers, so what arrives meanwhile is queued for the next one.
Rule 2: a process is always waited for, also when everything is cancelled.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
from collections.abc import Sequence
from typing import Final, Literal

import trio

from .._services.worker_process import NOTIFY_VARIABLE, SECRET_SIZE, UNTAKEN, notify
from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts
from .._values.addresses import format_address
from .notifications import receive_notifications
from .process import Process, first_of
from .settings import Settings, next_pause
from .sockets import Group, memory_of
from .spawning import open_secret, shim, spawn, worker_environment
from .values import State, Worker, WorkerEvent, WorkersFailedError

_log = logging.getLogger("trio_dgram")

_EARLY: Final = 1.0
"""A worker that ends within this time after its start, in seconds, is taken to fail always."""
_MOST_EARLY: Final = 5
_ALIVE: Final = 1.0
"""After which time a worker that does not report is ready, with ``ready="start"``, in seconds."""
_MOST_EVENTS: Final = 1024


@defer_interrupts
class Slot:
    """The place of one worker: its sockets, and the process that has them."""

    def __init__(self, index: int, groups: Sequence[Group], supervision: Supervision) -> None:
        self.index: int = index
        self.sockets: list[socket.socket] = [group.sockets[index] for group in groups]
        self.state: State = "starting"
        self.process: Process | None = None
        self.restarts: int = 0
        self.up: trio.Event = trio.Event()
        """Set when the process that runs, or is to be started next, is ready or has failed."""
        self._supervision = supervision
        self._wake = trio.Event()
        self._pause: float | None = None

    @property
    def pid(self) -> int | None:
        """The pid of its process, None without one."""
        return None if self.process is None or self.process.exited.is_set() else self.process.pid

    async def run(self) -> None:
        """Keep a process running until this is cancelled."""
        supervision = self._supervision
        while True:
            # replace() waits for another one if it is called from here on.
            up = self.up
            process = self._start()
            if process is None:
                self.state = "waiting"
                up.set()
                await self._wait_to_restart("cannot be started")
                continue
            if await self._becomes_ready(process):
                self.state = "ready"
                supervision.worker_ready(self, process)
            else:
                self.state = "waiting"
                process.signal(signal.SIGKILL)
            up.set()
            await process.exited.wait()
            supervision.worker_exited(self, process)
            self.restarts += 1
            if process.expected:
                self.state = "starting"
            else:
                await self._wait_to_restart(process.describe_end())

    async def replace(self, drain_timeout: float) -> bool:
        """End the process and start another; return whether that is ready."""
        former, self.up = self.process, trio.Event()
        self._wake.set()
        if former is not None and not former.exited.is_set():
            self.state = "draining"
            await former.terminate(drain_timeout)
        await self.up.wait()
        return self.state == "ready"

    async def stop(self, drain_timeout: float) -> None:
        """End the process, for good."""
        self._wake.set()
        process = self.process
        if process is not None and not process.exited.is_set():
            self.state = "draining"
            await process.terminate(drain_timeout)
            self._supervision.worker_exited(self, process)
        self.state = "stopped"

    def _start(self) -> Process | None:
        self.state = "starting"
        self._wake = trio.Event()
        try:
            self.process = self._supervision.spawn(self)
        except OSError as error:
            _log.error("worker %d: %s", self.index, error)
            self.process = None
        return self.process

    async def _becomes_ready(self, process: Process) -> bool:
        settings = self._supervision.settings
        if settings.ready == "start":
            with trio.move_on_after(_ALIVE):
                await process.exited.wait()
            return not process.exited.is_set()
        with trio.move_on_after(settings.start_timeout):
            await first_of(process.ready, process.exited)
        if not process.ready.is_set() and not process.exited.is_set():
            _log.error(
                "worker %d (pid %d) is not ready after %g s and is killed: it has not bound %s",
                self.index,
                process.pid,
                settings.start_timeout,
                process.untaken,
            )
        return process.ready.is_set()

    async def _wait_to_restart(self, reason: str) -> None:
        restart = self._supervision.settings.restart
        process = self.process
        if process is not None and trio.current_time() - process.started >= restart.healthy_after:
            self._pause = None
        self._pause = next_pause(restart, self._pause)
        self.state = "waiting"
        dropped, _ = memory_of(self.sockets)
        _log.error(
            "worker %d %s: it is started again in %g s; the kernel has dropped %d datagrams of its sockets",
            self.index,
            reason,
            self._pause,
            dropped,
        )
        with trio.move_on_after(self._pause):
            await self._wake.wait()


@defer_interrupts
class Supervision:
    """All slots, and what concerns them together.

    Args:
      settings: the arguments of ``supervise``.
      groups: the sockets.
      notify_path: the NOTIFY_SOCKET of the workers.
      nursery: runs what watches the processes; it must not end before them.
    """

    def __init__(self, settings: Settings, groups: Sequence[Group], notify_path: str, nursery: trio.Nursery) -> None:
        self.settings: Settings = settings
        self.groups: Sequence[Group] = groups
        self.slots: list[Slot] = [Slot(index, groups, self) for index in range(settings.processes)]
        self.stopping: bool = False
        self.all_ready: trio.Event = trio.Event()
        """Set once every worker is, or was, ready."""
        self.failure: WorkersFailedError | None = None
        self._notify_path = notify_path
        self._secret = secrets.token_bytes(SECRET_SIZE)
        self._nursery = nursery
        self._arguments = shim(settings.program, settings.command)
        self._scope = trio.CancelScope()
        self._reloading = False
        self._ready_once: set[int] = set()
        self._early = 0
        self._channels: list[trio.MemorySendChannel[WorkerEvent]] = []

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The workers as they are now."""
        return tuple(
            Worker(slot.index, slot.pid, slot.state, slot.restarts, *memory_of(slot.sockets)) for slot in self.slots
        )

    # What the slots call

    def spawn(self, slot: Slot) -> Process:
        """Start the process of a slot."""
        environment = worker_environment(slot.index, [group.name for group in self.groups], self._notify_path)
        descriptors = [sock.fileno() for sock in slot.sockets]
        reading, writing = os.pipe()
        secret = open_secret(self._secret, min(descriptors))
        try:
            pid = spawn(self._arguments, environment, [*descriptors, secret], writing)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
            os.close(secret)
        try:
            process = Process(pid, reading, ", ".join(format_address(group.address) for group in self.groups))
        except BaseException:
            # Nothing watches it.
            os.close(reading)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._nursery.start_soon(process.watch)
        self._announce("started", slot, process)
        return process

    def worker_ready(self, slot: Slot, process: Process) -> None:
        """Note that the process of a slot is ready."""
        self._ready_once.add(slot.index)
        self._announce("ready", slot, process)
        if len(self._ready_once) == len(self.slots):
            self.all_ready.set()
            self._report("READY=1")

    def worker_exited(self, slot: Slot, process: Process) -> None:
        """Note that the process of a slot has ended; give up if none was ever ready and none will be."""
        self._announce("exited", slot, process)
        early = trio.current_time() - process.started < _EARLY
        self._early = self._early + 1 if early and not process.expected and not self._ready_once else 0
        if self._early >= _MOST_EARLY and not self.stopping:
            tail = "".join(f"\n  {line}" for line in process.tail)
            self.failure = WorkersFailedError(
                f"{_MOST_EARLY} workers ended within a second and none was ready: the last one "
                f"{process.describe_end()}{tail}"
            )
            self._scope.cancel()

    # Their lifetime

    async def run(self) -> None:
        """Run the workers until they are stopped; end all of them when this is cancelled."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for slot in self.slots:
                        nursery.start_soon(slot.run)
        finally:
            self.stopping = True
            self._report("STOPPING=1")
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for slot in self.slots:
                        nursery.start_soon(slot.stop, self.settings.drain_timeout)
            for channel in self._channels:
                channel.close()

    async def listen(self, sock: DatagramSocket) -> None:
        """Handle what the workers report."""
        await receive_notifications(sock, self._notified)

    def stop(self) -> None:
        """End all workers: the first call drains them, the second kills them."""
        if self.stopping:
            for process in filter(None, [slot.process for slot in self.slots]):
                process.signal(signal.SIGKILL)
        else:
            self.stopping = True
            self._scope.cancel()

    async def reload(self) -> bool:
        """Replace one worker after the other; return whether all of them are ready."""
        if self._reloading or self.stopping:
            return False
        self._reloading = True
        try:
            for slot in self.slots:
                if not await slot.replace(self.settings.drain_timeout):
                    _log.error("worker %d does not become ready: the workers after it stay as they are", slot.index)
                    return False
        finally:
            self._reloading = False
        return True

    # Reports

    def subscribe(self) -> trio.MemoryReceiveChannel[WorkerEvent]:
        """Return a channel of what happens from now on."""
        sending, receiving = trio.open_memory_channel[WorkerEvent](_MOST_EVENTS)
        if self.stopping:
            sending.close()
        else:
            self._channels.append(sending)
        return receiving

    def _announce(self, event: Literal["started", "ready", "exited"], slot: Slot, process: Process) -> None:
        for channel in list(self._channels):
            try:
                channel.send_nowait(WorkerEvent(event, slot.index, process.pid, process.exit_code))
            except trio.BrokenResourceError:
                self._channels.remove(channel)
            except trio.WouldBlock:
                # As on a socket's channel, the newest events are dropped.
                _log.warning("an event of worker %d is dropped: its channel is full", slot.index)
        self._report()

    def _report(self, state: str | None = None) -> None:
        """Report to the service manager that has started this process, if one has."""
        path = os.environ.get(NOTIFY_VARIABLE)
        if path:
            ready = sum(slot.state == "ready" for slot in self.slots)
            status = f"STATUS={ready} of {len(self.slots)} workers"
            notify(path, status if state is None else f"{state}\n{status}")

    def _notified(self, pid: int, line: str) -> None:
        process = next((slot.process for slot in self.slots if slot.process and slot.process.pid == pid), None)
        if process is None or process.exited.is_set():
            return
        if line == "READY=1":
            process.ready.set()
        elif line.startswith(UNTAKEN):
            process.untaken = line.removeprefix(UNTAKEN)
