"""Listening for peers, each of which gets a channel of its own."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, Unpack

import trio

from ._addresses import Address, check_host, check_port, written
from ._creation import check_creation
from ._datagram_channel import DatagramChannel
from ._families import UDP4, UDP6, is_literal
from ._peer_limits import ListenerOptions, PeerLimits, check_limits
from ._peers import ListenerStatistics, PeerTable
from ._socket import DatagramSocket

_PORT_TRIES: Final = 16
_NO_SUCH_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class _Alone:
    """What a socket is told whose listener or channels close it, and no nursery."""

    def start_background(self, _async_fn: Callable[..., Awaitable[object]], /, *_args: Any) -> None:
        """Never: nobody has event channels of such a socket."""
        raise AssertionError

    def state_changed(self, socket: Any, /) -> None:
        """Nothing depends on it."""


def make_socket(type_: str) -> DatagramSocket:
    """Make a socket that lives in no nursery, and leaves the other family to others."""
    options: Any = {"ipv6_only": True} if type_ == UDP6.type else {}
    return DatagramSocket(check_creation(type_, options), _Alone())


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
        await trio.lowlevel.checkpoint()
        await self._table.wait(self._has_come, None)
        self._check_open()
        return self._table.backlog.popleft()

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
        return f"<trio_dgram.DatagramListener on {written(self._address)}, {state}>"


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
    check_port("port", port)
    name = check_host("host", host)
    everywhere = [(UDP6.type, UDP6.wildcard.host), (UDP4.type, UDP4.wildcard.host)]
    await trio.lowlevel.checkpoint()
    addresses = await numeric_addresses(name, port) if name else everywhere
    tries = 1 if port else _PORT_TRIES
    while True:
        tries -= 1
        try:
            sockets = await _bind_all(addresses, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not tries:
                raise
        else:
            return [DatagramListener(sock, limits) for sock in sockets]


async def numeric_addresses(host: str | None, port: int) -> list[tuple[str, str]]:
    """Return the addresses of a name, in the order in which they are to be tried, each with its type of socket."""
    for family in (UDP4, UDP6):
        if host and is_literal(host.partition("%")[0], family.family):
            return [(family.type, host)]
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    types = {int(family.family): family.type for family in (UDP4, UDP6)}
    return list(dict.fromkeys((types[int(entry[0])], str(entry[4][0])) for entry in found))


async def _bind_all(addresses: list[tuple[str, str]], port: int) -> list[DatagramSocket]:
    bound: list[DatagramSocket] = []
    missing: list[OSError] = []
    try:
        for type_, host in addresses:
            try:
                bound.append(await _bind(type_, host, port))
            except OSError as error:
                # This machine may have but one of the families.
                if error.errno not in _NO_SUCH_FAMILY or len(addresses) == 1:
                    raise
                missing.append(error)
            else:
                # The others have to have the same.
                port = bound[-1].address.port
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    if not bound:
        raise missing[0]
    return bound


async def _bind(type_: str, host: str, port: int) -> DatagramSocket:
    sock = make_socket(type_)
    try:
        await sock.bind(port, host)
    except BaseException:
        sock.close()
        raise
    return sock
