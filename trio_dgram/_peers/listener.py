"""Listening for peers, each of which gets a channel of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Unpack

import trio

from .._codecs.families import UDP6
from .._socket.config import check_options
from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts
from .._values.addresses import Address, format_address
from .._values.construction import create
from .._values.statistics import ListenerStatistics
from .binding import bind_each_family
from .channel import DatagramChannel
from .limits import ListenerOptions, PeerLimits, check_limits
from .table import PeerTable


@defer_interrupts
class _NoNursery:
    """What a socket is told whose listener or channels close it, and no nursery."""

    def start_background(self, _async_fn: Callable[..., Awaitable[object]], /, *_args: Any) -> None:
        """Never: nobody has event channels of such a socket."""
        raise AssertionError

    def state_changed(self, socket: Any, /) -> None:
        """Nothing depends on it."""


@trio.lowlevel.enable_ki_protection
def make_socket(type_: str) -> DatagramSocket:
    """Make a socket that lives in no nursery, and leaves the other family to others."""
    options: Any = {"ipv6_only": True} if type_ == UDP6.type else {}
    return create(DatagramSocket, check_options(type_, options), _NoNursery())


@defer_interrupts
class DatagramListener(trio.abc.Listener[DatagramChannel]):
    """Hears datagrams, and makes a channel for each peer that they come from.

    Made by :func:`open_listeners`; ``trio.serve_listeners`` takes it. There is no task behind it: whoever waits in
    ``accept``, or in a channel's ``receive``, reads for all.
    """

    def __init__(self, socket: DatagramSocket, limits: PeerLimits) -> None:
        self._table = PeerTable[DatagramChannel](socket, limits, DatagramChannel)
        self._address = socket.address

    @property
    def address(self) -> Address:
        """The local address, also after the listener was closed."""
        return self._address

    def statistics(self) -> ListenerStatistics:
        """Return the listener's counts."""
        return self._table.statistics()

    async def accept(self) -> DatagramChannel:
        """Wait for a datagram from a new peer and return the channel to it.

        Raises:
          trio.ClosedResourceError: if the listener is closed, or is closed meanwhile.

        A cancellation point always. A cancelled call has accepted nobody.
        """
        self._check_open()
        if self._table.backlog:
            # One for all that is sorted meanwhile: in a flood of newcomers most make room again before a task has been
            # started for them, which costs ten times as much as all the rest, and what others have sent is read.
            await trio.lowlevel.checkpoint()
        await self._table.wait_for_peer(self._has_come)
        self._check_open()
        channel, _ = self._table.backlog.popitem(last=False)
        return channel

    def _has_come(self) -> bool:
        return bool(self._table.backlog) or not self._table.accepting

    def _check_open(self) -> None:
        if not self._table.accepting:
            raise trio.ClosedResourceError("this listener was closed")

    def close(self) -> None:
        """Let nobody else in. The channels that were accepted stay open, and the port taken until the last of them is
        closed or has ended. Closing twice does nothing."""
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
    port: int, *, host: str | None = None, **options: Unpack[ListenerOptions]
) -> list[DatagramListener]:
    """Open a listener for each address family, as ``trio.open_tcp_listeners`` does for TCP.

    Args:
      port: the UDP port, the same for all; 0 for one of the kernel's choice that is free in each family.
      host: a local address, or a name that resolves to some; all interfaces if there is none.
      options: limits for the peers, as :class:`ListenerOptions` lists them.

    Raises:
      TypeError, ValueError: if an argument is wrong; nothing was opened then.
      socket.gaierror: if the name does not resolve.
      OSError: what the kernel says, such as EADDRINUSE; nothing is left open then.
    """
    limits = check_limits(options)
    return [DatagramListener(sock, limits) for sock in await bind_each_family(port, host, _bind)]


@trio.lowlevel.enable_ki_protection
async def _bind(type_: str, host: str, port: int) -> DatagramSocket:
    sock = make_socket(type_)
    try:
        await sock.bind(port, host)
    except BaseException:
        sock.close()
        raise
    return sock
