"""The supervisor as programs see it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

import trio

from .._kernel.capabilities import capabilities
from .._kernel.passed_sockets import registry
from .._services.sockets import bind_socket
from .._socket.interrupts import defer_interrupts
from .._values.addresses import Address
from .._values.construction import NoPublicConstructor, create
from .notifications import private_path
from .settings import Backoff, Settings, Steer, check_settings
from .sockets import open_groups
from .supervision import Supervision
from .values import Worker, WorkerEvent

_DEFAULT_RESTART = Backoff()


@defer_interrupts
class Supervisor(metaclass=NoPublicConstructor):
    """Running workers, as :func:`supervise` reports them to ``nursery.start``."""

    _created_by = "supervise()"

    def __init__(self, supervision: Supervision) -> None:
        self._supervision = supervision

    @property
    def addresses(self) -> list[Address]:
        """The addresses that the workers' sockets are bound to."""
        return [group.address for group in self._supervision.groups]

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The workers as they are at this moment, by index."""
        return self._supervision.workers

    def events(self) -> trio.abc.ReceiveChannel[WorkerEvent]:
        """Return a channel of what happens to the workers from now on; it ends when the last one has ended.

        At most 1024 events are queued; further ones are dropped, with a warning in the log.
        """
        return self._supervision.subscribe()

    async def reload(self) -> bool:
        """Replace one worker after the other: end it as ``stop`` does, start another, wait until that is ready.

        What arrives meanwhile is queued in the sockets of the worker.

        Returns:
          Whether all workers were replaced. False if one does not become ready, which leaves those after it as they
          are, if another ``reload`` is in progress, or if the workers are being stopped.

        A cancellation point if there is something to wait for. A cancelled call replaces no further worker.
        """
        return await self._supervision.reload()

    def stop(self) -> None:
        """End the workers by SIGTERM, and by SIGKILL after ``drain_timeout`` or at a second call; ``supervise`` returns
        then."""
        self._supervision.stop()

    def __repr__(self) -> str:
        ready = sum(worker.state == "ready" for worker in self.workers)
        return f"<trio_dgram.workers.Supervisor, {ready} of {len(self.workers)} workers ready>"


@trio.lowlevel.enable_ki_protection
async def supervise(
    command: Sequence[str],
    *,
    listen: Sequence[str],
    processes: int | None = None,
    name: str = "udp",
    receive_buffer_size: int | None = None,
    steer: Steer = "hash",
    ready: str = "bound",
    gro: bool = True,
    restart: Backoff = _DEFAULT_RESTART,
    start_timeout: float = 30,
    drain_timeout: float = 30,
    task_status: trio.TaskStatus[Supervisor] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a program in several processes, each with sockets of its own for the same addresses, until it is cancelled.

    Each process gets its sockets by the protocol of sd_listen_fds(3), where ``bind`` and :func:`trio_dgram.serve` find
    them. The kernel distributes clients among the sockets (SO_REUSEPORT). A process that ends is started again; what
    arrives meanwhile is queued in its sockets.

    Args:
      command: the program and its arguments.
      listen: the addresses, as ``host:port`` or ``[host]:port``; port 0 for one of the kernel's choice. An IPv6 socket
        receives from IPv4 unless an IPv4 address with its port is listed too. Where systemd passed sockets to this
        process, those are used instead.
      processes: the number of processes, 1 to 1024. Default: the number of CPUs that this process may use.
      name: the name of the sockets (LISTEN_FDNAMES), 1 to 255 ASCII characters without a colon. Default: ``"udp"``.
      receive_buffer_size: as the option of a socket, in bytes. A smaller size that the system grants is logged.
        Default: the system's.
      steer: how the kernel selects the process: ``"hash"`` by the addresses; ``"quic"`` by the first byte of a QUIC
        connection id; ``(offset, mask)`` by a byte of the payload. A byte that is no index selects by the addresses.
        Default: ``"hash"``.
      ready: when a process counts as ready: ``"bound"``: when it has bound every socket; ``"start"``: when it has run
        for a second, for programs that do not use this library. Default: ``"bound"``.
      gro: whether the sockets receive coalesced datagrams (UDP_GRO); False for programs that cannot split them.
        Default: True.
      restart: the pauses before a process is started again. Default: ``Backoff(0.1, factor=2, maximum=30,
        healthy_after=10)``.
      start_timeout: after which time a process that is not ready is killed, in seconds. Default: 30.
      drain_timeout: after which time a process that is to end is killed, in seconds. Default: 30.
      task_status: ``nursery.start`` returns the :class:`Supervisor` once all processes are ready.

    Raises:
      TypeError, ValueError: if an argument is wrong.
      FileNotFoundError: if there is no such program.
      socket.gaierror: if a name does not resolve.
      OSError: the kernel's error, such as EADDRINUSE. No process was started after any of these.
      WorkersFailedError: if the first five processes end within a second each.

    The processes are killed when this process ends, whatever ends it. They are children of the thread that runs Trio,
    which must therefore not end before it. A cancelled call ends the processes, as :meth:`Supervisor.stop` does, before
    it returns. Linux only.
    """
    settings = check_settings(
        command,
        listen,
        {
            "processes": processes,
            "name": name,
            "receive_buffer_size": receive_buffer_size,
            "steer": steer,
            "ready": ready,
            "gro": gro,
            "restart": restart,
            "start_timeout": start_timeout,
            "drain_timeout": drain_timeout,
        },
    )
    await run_supervisor(settings, task_status=task_status)


@trio.lowlevel.enable_ki_protection
async def run_supervisor(
    settings: Settings,
    *,
    created: Callable[[Supervisor], object] = bool,
    task_status: trio.TaskStatus[Supervisor] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Do as :func:`supervise` does; call ``created`` with the supervisor before the first worker is started."""
    passed = registry.untaken() if registry.present else []
    if not settings.listen and not passed:
        raise ValueError("listen must name at least one address")
    if not capabilities().packet_info or not hasattr(os, "pidfd_open"):
        raise OSError(errno.ENOTSUP, "this system cannot supervise worker processes: pidfd_open or SCM_CREDENTIALS")
    await trio.lowlevel.checkpoint()
    groups = await open_groups(settings, passed)
    try:
        with private_path() as path:
            notifications = await bind_socket("unix", (path,), {"packet_info": True})
            try:
                async with trio.open_nursery() as nursery:
                    supervision = Supervision(settings, groups, path, nursery)
                    supervisor = create(Supervisor, supervision)
                    created(supervisor)
                    nursery.start_soon(supervision.listen, notifications)
                    nursery.start_soon(_report_start, supervision, supervisor, task_status)
                    try:
                        await supervision.run()
                    finally:
                        nursery.cancel_scope.cancel()
            finally:
                notifications.close()
    finally:
        for group in groups:
            group.close()
        for each in passed:
            each.taken = False
    if supervision.failure is not None:
        raise supervision.failure


@trio.lowlevel.enable_ki_protection
async def _report_start(
    supervision: Supervision, supervisor: Supervisor, task_status: trio.TaskStatus[Supervisor]
) -> None:
    await supervision.all_ready.wait()
    task_status.started(supervisor)
