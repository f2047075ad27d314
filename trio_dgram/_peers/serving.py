"""Serving peers, and being one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import NoReturn, Unpack

import trio

from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts, interruptibly_awaited
from .channel import DatagramChannel
from .connecting import connect_first
from .limits import UNLIMITED, ListenerOptions
from .listener import DatagramListener, make_socket, open_listeners
from .table import PeerTable

_log = logging.getLogger("trio_dgram")


@trio.lowlevel.enable_ki_protection
async def serve(
    handler: Callable[[DatagramChannel], Awaitable[object]],
    port: int,
    *,
    host: str | None = None,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[list[DatagramListener]] = trio.TASK_STATUS_IGNORED,
    **options: Unpack[ListenerOptions],
) -> NoReturn:
    """Call ``handler`` with a channel for each peer, for ever, as ``trio.serve_tcp`` does for TCP::

        async def handler(peer: trio.abc.Channel[bytes]) -> None:
            async for data in peer:
                await peer.send(data.upper())

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio_dgram.serve, handler, 0)
            async with trio_dgram.open_connection("localhost", listeners[0].address.port) as peer:
                await peer.send(b"hello")
                print(await peer.receive())
            nursery.cancel_scope.cancel()

    Args:
      handler: an async function that takes a channel; the channel is closed when it returns.
      port: the UDP port; 0 for one of the kernel's choice.
      host: as in :func:`open_listeners`.
      handler_nursery: where the handlers run, instead of in a nursery of its own.
      task_status: ``nursery.start`` returns the listeners.
      options: as in :func:`open_listeners`.

    A handler's ``Exception`` is logged, with the peer, and ends that channel alone.

    Raises as :func:`open_listeners` does.
    """
    listeners = await open_listeners(port, host=host, **options)
    await trio.serve_listeners(
        partial(_handle, handler), listeners, handler_nursery=handler_nursery, task_status=task_status
    )


@trio.lowlevel.enable_ki_protection
async def _handle(handler: Callable[[DatagramChannel], Awaitable[object]], channel: DatagramChannel) -> None:
    try:
        await interruptibly_awaited(handler, channel)
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is logged
        if isinstance(error, trio.BrokenResourceError) and channel.ended:
            # It had something to say to a peer that has made room, as those with forged addresses do by the thousand.
            return
        _log.exception("the handler of %s failed", channel.address)


@defer_interrupts
class _ConnectionManager(AbstractAsyncContextManager[DatagramChannel, None]):
    """The block of :func:`open_connection`."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._channel: DatagramChannel

    async def __aenter__(self) -> DatagramChannel:
        sock = await connect_first(self._host, self._port, _connect)
        table = PeerTable[DatagramChannel](sock, UNLIMITED, DatagramChannel)
        self._channel = channel = DatagramChannel(table, sock.remote_address, trio.current_time())
        table.add(channel)
        table.accepting = False
        return channel

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()


def open_connection(host: str, port: int) -> AbstractAsyncContextManager[DatagramChannel, None]:
    """Open a channel to a peer that is closed when the block ends.

    Args:
      host: its name or address. The first reachable address of a name is used; UDP cannot detect whether anyone listens
        there.
      port: its UDP port.

    Raises:
      TypeError, ValueError: if an argument is wrong.
      socket.gaierror: if the name does not resolve.
      OSError: the kernel's error for the first address, such as ENETUNREACH, if none is reachable.

    ``receive`` of the channel raises the ICMP error of an earlier datagram, such as ECONNREFUSED, once; receiving may
    continue.
    """
    return _ConnectionManager(host, port)


@trio.lowlevel.enable_ki_protection
async def _connect(type_: str, address: str, port: int) -> DatagramSocket:
    sock = make_socket(type_)
    try:
        await sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return sock
