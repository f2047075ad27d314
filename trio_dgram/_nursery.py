"""The nursery of sockets: where they live, what keeps it open, and how both end.

Rule 1: no socket outlives the block that it was made in.
Rule 2: the body and all child tasks end first, then the sockets, so that the last words of a cancelled task
still get out.
Rule 3: what reads in the background neither keeps a block open nor adds anything to the exceptions that leave it.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self, Unpack

import trio

from ._codecs.families import AnyAddress, check_type
from ._socket.config import Creation, SocketOptions, adopting, check_creation
from ._socket.datagram_socket import DatagramSocket
from ._values.addresses import UnixPath

_NAMED_SOCKETS: Final = 3
"""How many sockets the keeper's task name shows; naming thousands would cost more than keeping them."""


class _Home:
    """The sockets of one block and the tasks that read for them in the background."""

    def __init__(self) -> None:
        self._sockets: dict[DatagramSocket, None] = {}
        self._ended = False
        self._background_manager = trio.open_nursery()
        self._background: trio.Nursery
        self.keeper: _Keeper | None = None

    async def __aenter__(self) -> Self:
        self._background = await self._background_manager.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._ended = True
        for each in list(self._sockets):
            each.close()
        if self._background.cancel_scope.cancel_called:  # pragma: no cover -- a reader was interrupted by Ctrl-C
            # The body was cancelled for it, so Trio has to see what the body raised.
            return await self._background_manager.__aexit__(exc_type, exc, traceback)
        # Without the body's exception, which would be wrapped in a group of this nursery's.
        await self._background_manager.__aexit__(None, None, None)
        return None

    def create_socket(self, type_: str, options: SocketOptions) -> DatagramSocket:
        return self._home(check_creation(type_, options))

    def adopt_socket(self, sock_or_fd: object, options: SocketOptions) -> DatagramSocket:
        with adopting(sock_or_fd, options) as creation:
            return self._home(creation)

    def _home(self, creation: Creation) -> DatagramSocket:
        if self._ended:
            raise RuntimeError("this nursery has ended: no socket can be created in it any more")
        made = DatagramSocket(creation, self)
        self._sockets[made] = None
        return made

    def start_background(self, async_fn: Callable[..., Awaitable[object]], /, *args: Any) -> None:
        self._background.start_soon(async_fn, *args)

    def state_changed(self, socket: DatagramSocket, /) -> None:
        if socket.closed:
            self._sockets.pop(socket, None)
        if self.keeper is not None:
            self.keeper.consider(socket)


class _Keeper:
    """What keeps a nursery open while a socket in it is bound and counts: one task, named after the sockets."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        # Ordered by links, so that the first ones are found at once also when many before them have gone.
        self._sockets: OrderedDict[DatagramSocket, None] = OrderedDict()
        self._released: trio.Event | None = None
        self._task: trio.lowlevel.Task | None = None

    def consider(self, socket: DatagramSocket) -> None:
        """Keep the nursery open for ``socket``, or no longer, as it wants now."""
        if socket.keeps_nursery_open:
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
                # All tasks have ended, and the nursery is about to close this socket.
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


class DatagramNursery:
    """A Trio nursery that also owns datagram sockets, as :func:`open_nursery` makes it."""

    def __init__(self, home: _Home, trio_nursery: trio.Nursery) -> None:
        self._home = home
        self.trio_nursery = trio_nursery
        """The Trio nursery whose tasks these are."""

    def create_socket(self, type: str, **options: Unpack[SocketOptions]) -> DatagramSocket:
        # createSocket names it
        """Create a socket that lives in this nursery. Its descriptor is there at once, so every option works
        before ``bind``.

        A bound socket keeps the nursery open until it is closed, unless its ``unref`` was called.

        Args:
          type: ``"udp4"``, ``"udp6"`` or ``"unix"``.
          options: as :class:`SocketOptions` lists them.

        Raises:
          TypeError, ValueError: if the type or an option is wrong; no descriptor was made then.
          RuntimeError: if the nursery has ended.
          OSError: what the kernel says against an option; nothing is left of the socket.
        """
        return self._home.create_socket(type, options)

    def adopt_socket(self, sock_or_fd: socket.socket | int, **options: Unpack[SocketOptions]) -> DatagramSocket:
        """Make a socket of this nursery's out of one that exists, as it is: perhaps bound, perhaps connected.

        It is the nursery's from now on, and closed with it; a ``socket.socket`` is detached. Other processes may
        share what it is in the kernel, so nothing is done to it that would show there: neither O_NONBLOCK nor
        receive offload is switched on. Options that are named are set, for all who share it.

        Args:
          sock_or_fd: a UDP or AF_UNIX datagram socket, or the number of its descriptor.
          options: as :class:`SocketOptions` lists them, without ``ipv6_only``.

        Raises:
          TypeError, ValueError: if it is no such socket, or an option is wrong.
          RuntimeError: if the nursery has ended.
          OSError: EBADF if it is not open, ENOTSOCK if it is no socket; what the kernel says against an option.

        After an error it is still the caller's, and open. POSIX only.
        """
        return self._home.adopt_socket(sock_or_fd, options)

    def start_soon(self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> None:
        """Start a child task, as ``trio.Nursery.start_soon`` does."""
        self.trio_nursery.start_soon(async_fn, *args, name=name)

    async def start(self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> Any:
        """Start a child task and wait until it has reported to be ready, as ``trio.Nursery.start`` does."""
        return await self.trio_nursery.start(async_fn, *args, name=name)

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """The scope that cancels the body and all child tasks; the sockets are closed after them."""
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


@asynccontextmanager
async def open_nursery() -> AsyncGenerator[DatagramNursery]:
    """Open a nursery that owns datagram sockets besides tasks::

        async with trio_dgram.open_nursery() as nursery:
            server = nursery.create_socket("udp4").unref()
            await server.bind(0, "127.0.0.1")
            client = nursery.create_socket("udp4").unref()
            await client.send("Some bytes", server.address)
            print(await server.receive())

    It ends when its body, its child tasks and its bound sockets have: first the body and the tasks, then the
    sockets. A socket that was unref'd, or was never bound, is not waited for. Errors leave as they leave
    ``trio.open_nursery``.

    The end of the block is a checkpoint, as of every nursery. Cancellation ends the tasks, and then the sockets
    are closed.
    """
    async with _Home() as home, trio.open_nursery() as trio_nursery:
        home.keeper = _Keeper(trio_nursery)
        yield DatagramNursery(home, trio_nursery)


@asynccontextmanager
async def open_socket(
    type: str,
    *,
    port: int | None = None,
    host: str | None = None,
    path: UnixPath | None = None,
    connect: AnyAddress | None = None,
    **options: Unpack[SocketOptions],
) -> AsyncGenerator[DatagramSocket]:
    """Open one socket, to be closed when the block ends::

        async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as server:
            await server.send("Some bytes", server.address)
            async for datagram in server:
                print(datagram)
                break

    Args:
      type: ``"udp4"``, ``"udp6"`` or ``"unix"``.
      port: where to bind it, as in :meth:`DatagramSocket.bind`; not bound yet if neither this nor ``host`` is given.
      host: likewise.
      path: where to bind a ``"unix"`` socket.
      connect: the ``(host, port)``, or path, to connect it to.
      options: as :class:`SocketOptions` lists them.

    Raises:
      TypeError, ValueError: if an argument is wrong; no descriptor was made then.
      OSError: what the kernel says against an option, binding or connecting.

    Entering is a checkpoint, and so is leaving. The body's exception leaves as the same object.
    """
    family = check_type(type)
    if path is not None:
        if family.is_internet or port is not None:
            raise ValueError("path is for unix sockets, port and host are for udp4 and udp6 sockets")
        family.check_local(path, host)
    elif port is not None or host is not None:
        family.check_local(port or 0, host)
    if connect is not None:
        family.check_address("connect", connect)
    async with _Home() as home:
        opened = home.create_socket(type, options)
        await trio.lowlevel.checkpoint()
        if path is not None:
            await opened.bind(path)
        elif port is not None or host is not None:
            await opened.bind(port or 0, host)
        if connect is not None:
            await opened.connect(connect)
        yield opened
