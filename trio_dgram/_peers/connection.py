"""The client's end: a channel to one peer that the program chooses."""

from __future__ import annotations

import errno
from collections import deque
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Unpack, cast

import attrs
import trio

from .._codecs.families import UDP6, AnyAddress, check_type
from .._services.connecting import addresses_of, check_local, connect_next
from .._services.sockets import make_socket
from .._socket.config import SocketOptions, check_options
from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts
from .._values.addresses import UnixPath, check_host, check_port
from .channel import DatagramChannel
from .limits import UNLIMITED
from .table import PeerTable

_REFUSALS: Final = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)
"""The errors that ICMP reports about an address without a server."""


@attrs.frozen
class _Peer:
    """The arguments of :func:`open_connection`, checked."""

    host: str
    port: int
    path: UnixPath | None
    local: AnyAddress | None
    options: SocketOptions


@defer_interrupts
class _ConnectionManager(AbstractAsyncContextManager[DatagramChannel, None]):
    """The block of :func:`open_connection`."""

    def __init__(self, peer: _Peer) -> None:
        self._peer = peer
        # The addresses that have not been tried yet.
        self._addresses: deque[tuple[str, str]] = deque()
        self._channel: DatagramChannel
        self._table: PeerTable[DatagramChannel]

    async def _connect(self, type_: str, address: str, port: int) -> DatagramSocket:
        local = self._peer.local
        sock = make_socket(type_, self._peer.options)
        try:
            if type_ == "unix":
                # The peer can answer only a socket that has a name.
                await sock.bind(0 if local is None else cast("UnixPath", local))
                await sock.connect(address)
            else:
                if local is not None:
                    await sock.bind(cast("tuple[str | None, int]", local))
                await sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def __aenter__(self) -> DatagramChannel:
        peer = self._peer
        if peer.path is not None:
            self._addresses.append(("unix", check_type("unix").check_address("path", peer.path).host))
        else:
            self._addresses = await addresses_of(peer.host, peer.port, peer.options.get("lookup"))
        sock = await connect_next(self._addresses, peer.port, self._connect)
        self._table = table = PeerTable[DatagramChannel](sock, UNLIMITED, DatagramChannel)
        self._channel = channel = DatagramChannel(table, sock.remote_address, trio.current_time())
        table.add(channel)
        table.accepting = False
        table.on_error = self._try_next_address
        return channel

    async def _try_next_address(self, error: OSError) -> None:
        """Continue with the next address if this one refused before anything arrived from it; else raise ``error``."""
        if not self._addresses or error.errno not in _REFUSALS or self._table.statistics().received:
            raise error
        try:
            sock = await connect_next(self._addresses, self._peer.port, self._connect)
        except OSError:
            raise error from None
        self._table.replace_socket(sock, self._channel)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()


def open_connection(
    host: str | None = None,
    port: int | None = None,
    *,
    path: UnixPath | None = None,
    local: AnyAddress | None = None,
    **options: Unpack[SocketOptions],
) -> AbstractAsyncContextManager[DatagramChannel, None]:
    """Open a channel to one peer; the channel is closed when the block ends.

    Args:
      host: its name or address; ``""`` for this machine. Default: None, with ``path`` only.
      port: its UDP port, 1 to 65535. Default: None, with ``path`` only.
      path: the path of its ``"unix"`` socket, instead of host and port. Default: None.
      local: the local ``(host, port)``, or path, to send from. Default: chosen by the kernel.
      options: options of the socket, as documented in :class:`SocketOptions`.

    The addresses of a name are tried in order. One without a route is skipped when the block is entered. One that
    refuses, which UDP learns only after a datagram was sent, is left during ``receive`` for the next one, unless
    something has arrived from it; the refused datagram is lost, so send it again, for example by
    :func:`retry`. An address that does not answer at all cannot be detected.

    Raises:
      TypeError, ValueError: if an argument is wrong; nothing was opened.
      socket.gaierror: if the name does not resolve.
      OSError: the kernel's error for the last address, such as ENETUNREACH, if none has a route; for a path ENOENT or
        ECONNREFUSED.

    ``receive`` of the channel raises the ICMP error of an earlier datagram, such as ECONNREFUSED, once; receiving may
    continue. Entering the block is a checkpoint; leaving it is not.
    """
    given: Any = (host, port)
    if path is not None:
        if given != (None, None):
            raise TypeError("open_connection takes a path alone, or host and port, not both")
        check_options("unix", options)
        family = check_type("unix")
        family.check_address("path", path)
        if local is not None:
            family.check_address("local", local)
    else:
        if None in given:
            raise TypeError("open_connection needs host and port, or the path of a unix socket")
        check_host("host", host)
        check_port("port", port, lowest=1)
        check_options(UDP6.type, options)
        check_local(local)
    return _ConnectionManager(_Peer(host or "", port or 0, path, local, options))
