"""The nursery of sockets: where they live, what keeps it open, and how both end.

Rule 1: no socket outlives the block that it was created in.
Rule 2: the body and all child tasks end first, then the sockets, so that a cancelled task can still send.
Rule 3: background tasks neither keep a block open nor add to the exceptions that leave it.
Rule 4: entering and leaving defer KeyboardInterrupt, which would otherwise leave a Trio nursery open.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from itertools import islice
from threading import get_ident
from types import TracebackType
from typing import Any, Final, NoReturn, Self, Unpack, cast

import trio

from ._codecs.families import AnyAddress, SocketType, check_type
from ._kernel.system_socket import SharedSocket
from ._socket.config import SocketConfig, SocketOptions, check_adoptable, check_options
from ._socket.datagram_socket import DatagramSocket
from ._socket.event_loop import require_trio
from ._socket.interrupts import defer_interrupts
from ._values.addresses import UnixPath
from ._values.construction import NoPublicConstructor, create

_NAMED_SOCKETS: Final = 3
"""How many sockets the name of the keep-alive task shows: naming thousands would cost more than keeping them."""


@defer_interrupts
class _SocketScope:
    """The sockets of one block and their background tasks."""

    def __init__(self) -> None:
        require_trio()
        self._sockets: dict[DatagramSocket, None] = {}
        self._ended = False
        self._thread = get_ident()
        self._background_manager = trio.open_nursery()
        self._background: trio.Nursery
        self.keep_alive: _KeepAlive | None = None

    async def __aenter__(self) -> Self:
        self._background = await self._background_manager.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._ended = True
        for each in list(self._sockets):
            # A descriptor that something else has closed must not keep the others from closing.
            with suppress(OSError):
                each.close()
        if self._background.cancel_scope.cancel_called:  # pragma: no cover -- a background task failed
            # It has cancelled the body, so Trio has to see the exception of the body.
            return await self._background_manager.__aexit__(exc_type, exc, traceback)
        # Without the exception of the body, which this nursery would wrap in a group.
        await self._background_manager.__aexit__(None, None, None)
        return None

    def create_socket(self, type_: str, options: SocketOptions) -> DatagramSocket:
        return self._add(check_options(type_, options))

    def adopt_socket(self, sock_or_fd: object, options: SocketOptions) -> DatagramSocket:
        config = check_adoptable(sock_or_fd, options)
        try:
            adopted = self._add(config)
        except BaseException:
            # It stays the caller's.
            cast("SharedSocket", config.adopted).detach()
            raise
        if isinstance(sock_or_fd, socket.socket):
            sock_or_fd.detach()
        return adopted

    def _add(self, config: SocketConfig) -> DatagramSocket:
        if get_ident() != self._thread:
            raise RuntimeError(
                "create_socket and adopt_socket must run in the thread of the nursery's Trio run: "
                "use trio.from_thread.run_sync"
            )
        if self._ended:
            raise RuntimeError("this nursery has ended: no socket can be created in it any more")
        made = create(DatagramSocket, config, self)
        self._sockets[made] = None
        return made

    def start_background(self, async_fn: Callable[..., Awaitable[object]], /, *args: Any) -> None:
        self._background.start_soon(async_fn, *args)

    def state_changed(self, socket: DatagramSocket, /) -> None:
        if socket.closed:
            self._sockets.pop(socket, None)
        if self.keep_alive is not None:
            self.keep_alive.update(socket)


@defer_interrupts
class _KeepAlive:
    """Keeps a nursery open while a socket in it is bound and counts: by one task, named after the sockets."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        # Linked, so that the first ones are found at once also after many before them were removed.
        self._sockets: OrderedDict[DatagramSocket, None] = OrderedDict()
        self._released: trio.Event | None = None
        self._task: trio.lowlevel.Task | None = None

    def update(self, socket: DatagramSocket) -> None:
        """Keep the nursery open for ``socket``, or no longer, depending on its state."""
        if socket._keeps_nursery_open:  # noqa: SLF001 -- for the nursery alone
            self._sockets[socket] = None
        else:
            self._sockets.pop(socket, None)
        if not self._sockets:
            if self._released is not None:
                self._released.set()
                self._released = self._task = None
        elif self._released is None:
            self._released = trio.Event()
            try:
                self._nursery.start_soon(self._keep, self._released, name=self._name())
            except RuntimeError:
                # All tasks have ended, and the scope is about to close this socket.
                self._sockets.clear()
                self._released = None
        elif self._task is not None:
            self._task.name = self._name()

    async def _keep(self, released: trio.Event) -> None:
        if released is self._released:
            self._task = trio.lowlevel.current_task()
            self._task.name = self._name()
        await released.wait()

    def _name(self) -> str:
        named = ", ".join(map(repr, islice(self._sockets, _NAMED_SOCKETS)))
        more = len(self._sockets) - _NAMED_SOCKETS
        return f"keeping nursery open: {named}" + (f" and {more} more" if more > 0 else "")


@defer_interrupts
class DatagramNursery(metaclass=NoPublicConstructor):
    """A Trio nursery that also owns datagram sockets; :func:`open_nursery` opens one."""

    _created_by = "open_nursery()"

    def __init__(self, scope: _SocketScope, trio_nursery: trio.Nursery) -> None:
        self._scope = scope
        self._trio_nursery = trio_nursery

    @property
    def trio_nursery(self) -> trio.Nursery:
        """The Trio nursery that runs the tasks."""
        return self._trio_nursery

    def create_socket(self, type: SocketType, **options: Unpack[SocketOptions]) -> DatagramSocket:
        """Create a socket that lives in this nursery. It has its descriptor at once, so every option works before
        ``bind``.

        A bound socket keeps the nursery open until it is closed, unless its ``unref`` was called.

        Args:
          type: ``"udp4"``, ``"udp6"`` or ``"unix"``.
          options: as documented in :class:`SocketOptions`.

        Raises:
          TypeError, ValueError: if the type or an option is wrong; no descriptor was created.
          RuntimeError: if the nursery has ended.
          OSError: the kernel's error, such as EMFILE, or for an option; a created descriptor was closed. ENOTSUP for an
            option that the system lacks.
        """
        return self._scope.create_socket(type, options)

    def adopt_socket(self, sock_or_fd: socket.socket | int, **options: Unpack[SocketOptions]) -> DatagramSocket:
        """Make an existing socket one of this nursery, as it is: it may be bound and connected.

        From now on the nursery owns it and closes it; a ``socket.socket`` is detached. Other processes may share it, so
        nothing is enabled that would affect them, neither O_NONBLOCK nor receive offload. Options that are named are
        set, for all processes that share it.

        Args:
          sock_or_fd: a UDP or AF_UNIX datagram socket, or its descriptor.
          options: as documented in :class:`SocketOptions`, without ``ipv6_only``.

        Raises:
          TypeError, ValueError: if it is not such a socket, or an option is wrong.
          RuntimeError: if the nursery has ended.
          OSError: EBADF if it is not open, ENOTSOCK if it is not a socket; the kernel's error for an option.

        After an error it still belongs to the caller and is open. POSIX only.
        """
        return self._scope.adopt_socket(sock_or_fd, options)

    def start_soon(self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> None:
        """Start a child task, as ``trio.Nursery.start_soon`` does.

        Args:
          async_fn: the async function that the task runs.
          args: its positional arguments.
          name: the name of the task in a task tree. Default: that of the function.

        Raises:
          RuntimeError: if the nursery has ended.
        """
        self.trio_nursery.start_soon(async_fn, *args, name=name)

    async def start(self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> Any:
        """Start a child task and wait until it reports that it has started, as ``trio.Nursery.start`` does.

        Args:
          async_fn: an async function that takes ``task_status``.
          args: its positional arguments.
          name: the name of the task in a task tree. Default: that of the function.

        Returns:
          The value that the task passed to ``task_status.started``.

        Raises:
          RuntimeError: if the nursery has ended, or the task ends before it has started.

        An exception that the task raises before it has started is raised. A checkpoint; a cancelled call cancels the
        task if it has not started.
        """
        return await self.trio_nursery.start(async_fn, *args, name=name)

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """The cancel scope of the body and all child tasks; the sockets are closed after those have ended."""
        return self.trio_nursery.cancel_scope

    @property
    def child_tasks(self) -> frozenset[trio.lowlevel.Task]:
        """The child tasks, among them the one that keeps the nursery open for bound sockets."""
        return self.trio_nursery.child_tasks

    @property
    def parent_task(self) -> trio.lowlevel.Task:
        """The task that opened the nursery."""
        return self.trio_nursery.parent_task

    def __repr__(self) -> str:
        return f"<trio_dgram.DatagramNursery of {self.trio_nursery!r}>"


class _AsyncOnly:
    """A block for ``async with``; ``with`` raises an error that says so."""

    _function: str

    def __enter__(self) -> NoReturn:
        raise RuntimeError(f"use 'async with {self._function}(...)', not 'with {self._function}(...)'")

    def __exit__(self, *_: object) -> NoReturn:
        raise AssertionError


@defer_interrupts
class _NurseryManager(_AsyncOnly, AbstractAsyncContextManager[DatagramNursery, bool | None]):
    """The block of :func:`open_nursery`."""

    _function = "open_nursery"

    def __init__(self) -> None:
        self._scope = _SocketScope()
        self._tasks = trio.open_nursery()

    async def __aenter__(self) -> DatagramNursery:
        await self._scope.__aenter__()
        trio_nursery = await self._tasks.__aenter__()
        self._scope.keep_alive = _KeepAlive(trio_nursery)
        return create(DatagramNursery, self._scope, trio_nursery)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        # What two nested blocks do, of which the tasks' is the inner one.
        try:
            swallowed = await self._tasks.__aexit__(exc_type, exc, traceback)
        except BaseException as error:
            await self._scope.__aexit__(type(error), error, error.__traceback__)
            raise
        await self._scope.__aexit__(None, None, None)
        return swallowed


@defer_interrupts
class _SocketManager(_AsyncOnly, AbstractAsyncContextManager[DatagramSocket, bool | None]):
    """The block of :func:`open_socket`."""

    _function = "open_socket"

    def __init__(
        self, type_: SocketType, options: SocketOptions, local: tuple[Any, str | None] | None, peer: AnyAddress | None
    ) -> None:
        self._scope = _SocketScope()
        self._type = type_
        self._options = options
        self._local = local
        self._peer = peer

    async def __aenter__(self) -> DatagramSocket:
        await self._scope.__aenter__()
        try:
            opened = self._scope.create_socket(self._type, self._options)
            await trio.lowlevel.checkpoint()
            if self._local is not None:
                await opened.bind(*self._local)
            if self._peer is not None:
                await opened.connect(self._peer)
        except BaseException as error:
            await self._scope.__aexit__(type(error), error, error.__traceback__)
            raise
        return opened

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._scope.__aexit__(exc_type, exc, traceback)


def open_nursery() -> AbstractAsyncContextManager[DatagramNursery, bool | None]:
    """Open a nursery that owns datagram sockets as well as tasks::

        async with trio_dgram.open_nursery() as nursery:
            server = nursery.create_socket("udp4").unref()
            await server.bind(0, "127.0.0.1")
            client = nursery.create_socket("udp4").unref()
            await client.send("Some bytes", server.address)
            print(await server.receive())

    It ends when its body, its child tasks and its bound sockets have ended: first the body and the tasks, then the
    sockets. A socket that is unbound or unref'd is not waited for.

    Raises:
      RuntimeError: outside a Trio run.

    Errors leave the block as they leave ``trio.open_nursery``. Leaving it is a checkpoint. Cancellation ends the tasks;
    then the sockets are closed.
    """
    return _NurseryManager()


def open_socket(
    type: SocketType,
    *,
    port: int | None = None,
    host: str | None = None,
    path: UnixPath | None = None,
    connect: AnyAddress | None = None,
    **options: Unpack[SocketOptions],
) -> AbstractAsyncContextManager[DatagramSocket, bool | None]:
    """Open one socket that is closed when the block ends::

        async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as server:
            await server.send("Some bytes", server.address)
            async for datagram in server:
                print(datagram)
                break

    Args:
      type: ``"udp4"``, ``"udp6"`` or ``"unix"``.
      port: the port to bind to, as in :meth:`DatagramSocket.bind`. Without ``port`` and ``host`` it is not bound yet.
        Default: None.
      host: the local address to bind to, likewise. Default: None.
      path: the path to bind a ``"unix"`` socket to. Default: None.
      connect: the ``(host, port)``, or path, to connect to. Default: None, not connected.
      options: as documented in :class:`SocketOptions`.

    Raises:
      TypeError, ValueError: if an argument is wrong; no descriptor was created.
      RuntimeError: outside a Trio run.
      socket.gaierror: if a name does not resolve.
      OSError: the kernel's error for an option, or of binding or connecting, such as EADDRINUSE.

    Entering is a checkpoint, and so is leaving. The exception of the body leaves as the same object.
    """
    family = check_type(type)
    check_options(type, options)
    local: tuple[Any, str | None] | None = None
    if path is not None:
        if family.is_internet or port is not None:
            raise ValueError("path is for unix sockets, port and host are for udp4 and udp6 sockets")
        local = (path, host)
    elif port is not None or host is not None:
        local = (port or 0, host)
    if local is not None:
        family.check_local(*local)
    if connect is not None:
        family.check_address("connect", connect)
    return _SocketManager(type, options, local, connect)
