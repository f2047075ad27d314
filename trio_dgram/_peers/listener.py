"""Listening for peers, each of which gets a channel of its own."""

from __future__ import annotations

from typing import Unpack

import trio

from .._services.binding import bind_sockets
from .._services.sockets import answer_from_asked_address, listenable_address
from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts
from .._values.addresses import Address, UnixPath, format_address
from .._values.statistics import ListenerStatistics, SocketStatistics
from .channel import DatagramChannel
from .limits import ListenerOptions, PeerOptions, check_limits, split_options
from .table import PeerTable


@defer_interrupts
class DatagramListener(trio.abc.Listener[DatagramChannel]):
    """Accepts a channel for each peer that sends to a socket.

    :func:`open_listeners` and :func:`serve` create it, or the program does for a socket that exists::

        async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as socket:
            async with trio_dgram.DatagramListener(socket, max_peers=100) as listener:
                print(listener.address)

    ``trio.serve_listeners`` takes it. There is no background task: the task that waits in ``accept``, or in the
    ``receive`` of a channel, reads for all peers. The socket is closed when the listener and all of its channels are.

    Args:
      socket: a bound socket of any type, also an adopted one. Nothing else may receive from it.
      limits: as documented in :class:`PeerOptions`.

    Raises:
      TypeError, ValueError: if an argument is wrong.
      NotBoundError: if the socket is not bound.
      AlreadyConnectedError: if it is connected.
      trio.ClosedResourceError: if the socket is closed.
    """

    def __init__(self, socket: DatagramSocket, **limits: Unpack[PeerOptions]) -> None:
        self._address = listenable_address(socket)
        checked = check_limits(limits, unix=socket.type == "unix")
        answer_from_asked_address(socket)
        self._table = PeerTable[DatagramChannel](socket, checked, DatagramChannel)

    @property
    def address(self) -> Address:
        """The local address, also after the listener was closed."""
        return self._address

    def statistics(self) -> ListenerStatistics:
        """Return the listener's counts, also after its end."""
        return self._table.statistics()

    def socket_statistics(self) -> SocketStatistics:
        """Return the counts of the listener's socket, also after its end."""
        return self._table.socket.statistics()

    async def accept(self) -> DatagramChannel:
        """Wait for a datagram from a new peer and return the channel to it.

        Raises:
          trio.ClosedResourceError: if the listener is closed, also while this waits, or drains.

        Always a cancellation point. A cancelled call has accepted no peer.
        """
        self._check_open()
        if self._table.backlog:
            # Other tasks read meanwhile. In a flood of forged sources most peers are evicted before their handlers
            # start, and to start one costs ten times as much as to admit a peer.
            await trio.lowlevel.checkpoint()
        await self._table.wait_for_peer(self._is_ready)
        self._check_open()
        if not self._table.backlog:
            raise trio.ClosedResourceError("this listener drains: it accepts no more peers")
        channel, _ = self._table.backlog.popitem(last=False)
        return channel

    def _is_ready(self) -> bool:
        return bool(self._table.backlog) or not self._table.accepting or self._table.draining

    def _drain(self) -> None:
        """Read no more: accept the peers that were read, and end each channel after what was read."""
        self._table.drain()

    def _check_open(self) -> None:
        if not self._table.accepting:
            raise trio.ClosedResourceError("this listener was closed")

    def close(self) -> None:
        """Refuse new peers, and close the channels that wait for ``accept``.

        Accepted channels stay open; the socket is closed with the last of them. Closing twice does nothing.
        """
        if self._table.accepting:
            self._table.stop_accepting()

    async def aclose(self) -> None:
        """Close the listener as :meth:`close` does, then execute a checkpoint: closed also when cancelled."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __repr__(self) -> str:
        state = "listening" if self._table.accepting else "closed"
        return f"<trio_dgram.DatagramListener on {format_address(self._address)}, {state}>"


@trio.lowlevel.enable_ki_protection
async def open_listeners(
    port: int | None = None,
    *,
    host: str | None = None,
    path: UnixPath | None = None,
    **options: Unpack[ListenerOptions],
) -> list[DatagramListener]:
    """Open a listener for each address family, as ``trio.open_tcp_listeners`` does for TCP.

    Args:
      port: the UDP port, the same for all; 0 for one of the kernel's choice that is free in each family. Default: None,
        with ``path`` only.
      host: a local address, or a name that resolves to some; all interfaces without one. Default: None.
      path: the path, or abstract name, of one ``"unix"`` socket, instead of port and host. Default: None.
      options: limits for the peers, and options of the sockets, as documented in :class:`ListenerOptions`. With
        ``ipv6_only=False`` and no host one dual-stack socket serves both families.

    Raises:
      TypeError, ValueError: if an argument is wrong; no socket was opened.
      socket.gaierror: if the name does not resolve.
      OSError: the kernel's error, such as EADDRINUSE; no socket stays open.

    A checkpoint. A cancelled call leaves no socket open.
    """
    limits, socket_options = split_options(options, unix=path is not None)
    bound = await bind_sockets(port, host, path, socket_options)
    return [DatagramListener(socket, **limits) for socket in bound]
