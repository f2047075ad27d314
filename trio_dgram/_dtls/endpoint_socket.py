"""The socket of a DTLS endpoint: what ``trio.DTLSEndpoint`` sees of a :class:`DatagramSocket`.

Rule 1: ``sendto`` never waits, so no send of Trio's holds the endpoint's lock while the kernel's buffer is full. A
    handshake message that cannot be sent at once is dropped: DTLS retransmits it.
Rule 2: encrypted data is not sent but captured. The channel sends it itself, and its cancellation then leaves nothing
    behind that would be sent with the next datagram.
Rule 3: ``recvfrom`` and ``sendto`` raise nothing but what ends Trio's receive loop, which is a system task: any other
    exception would end the program.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

import trio

from .._services.sockets import is_reported_by_network
from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts
from .._socket.trio_socket import TrioSocket
from .._values.addresses import Address, ProxiedAddress, as_received
from .._values.datagrams import Datagram
from .limits import DTLSLimits

_LONGEST_WAIT: Final = 0.05
"""How long a handshake message waits on a custom socket factory whose calls are awaited, in seconds."""


class Peer(Protocol):
    """What the socket needs of a session."""

    latest: Datagram
    """The datagram of the peer that replies are sent to."""
    queued_bytes: int
    """The bytes of its datagrams that are not decrypted yet."""
    dropped: int
    """Its datagrams that were dropped because too many bytes were queued."""

    def received(self, datagram: Datagram) -> None:
        """Note that a datagram of the peer has arrived."""


class _Queued(bytes):
    """A datagram for one of Trio's queues. It counts until it is freed: Trio does not report when it has taken one."""

    peer: Peer
    sock: EndpointSocket

    def __del__(self) -> None:
        self.peer.queued_bytes -= len(self)
        self.sock.queued_bytes -= len(self)


@defer_interrupts
class EndpointSocket(TrioSocket):
    """A datagram socket as an endpoint sees it.

    Args:
      datagram_socket: a bound socket; a connected one sends to its peer only.
      limits: how many bytes are queued.
      on_error: called with each error that the network reported, and with what ends receiving.
    """

    def __init__(
        self, datagram_socket: DatagramSocket, limits: DTLSLimits, on_error: Callable[[Exception], None]
    ) -> None:
        super().__init__(datagram_socket)
        self.datagram_socket = datagram_socket
        self.peers: dict[Any, Peer] = {}
        """The sessions by the peer's address in the kernel's form."""
        self.queued_bytes: int = 0
        """The bytes of all datagrams that are not decrypted yet."""
        self._limits = limits
        self._on_error = on_error
        self._connected = datagram_socket._association.peer is not None  # noqa: SLF001 -- as the base class
        self._latest: tuple[Any, Datagram | None] = (None, None)
        self._captured: dict[trio.lowlevel.Task, list[bytes]] = {}

    @contextmanager
    def capturing(self) -> Generator[list[bytes]]:
        """Capture what the endpoint sends in this task, instead of sending it."""
        task = trio.lowlevel.current_task()
        captured: list[bytes] = []
        self._captured[task] = captured
        try:
            yield captured
        finally:
            del self._captured[task]

    def close(self) -> None:
        """Close the socket, also if another owner has closed its descriptor."""
        with suppress(OSError):
            super().close()

    async def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """Receive the next datagram that is not empty: anyone can forge an empty one, which OpenSSL takes for an error.

        Raises:
          trio.ClosedResourceError: if the socket is closed, or cannot receive any more.
        """
        while True:
            # A handler takes one datagram from its queue per turn, and a handshake is admitted or refused in its turn:
            # read one per turn, so that the kernel queues the rest.
            await trio.lowlevel.checkpoint()
            try:
                datagram, source = await self._receive(bufsize, flags)
            except trio.ClosedResourceError as error:
                self._on_error(error)
                raise
            except (OSError, trio.BusyResourceError) as error:
                if self.datagram_socket.closed:
                    self._on_error(trio.ClosedResourceError("the socket was closed"))
                    raise trio.ClosedResourceError from None
                self._on_error(error)
                if not is_reported_by_network(error):
                    raise trio.ClosedResourceError from error
                continue
            if type(source) is ProxiedAddress:
                # Trio distinguishes peers by their addresses, and those of two proxies' clients may be equal.
                source = (*source, 0, 0, source.proxy.host)
            if datagram.data and (data := self._admit(datagram, source)):
                self._latest = (source, datagram)
                return data, source

    def _admit(self, datagram: Datagram, source: Any) -> bytes:
        """Return the data for Trio's queue, empty if the queue of the peer has no space for it."""
        data, peer = datagram.data, self.peers.get(source)
        if peer is None:
            return data
        peer.received(datagram)
        size = len(data)
        if (
            peer.queued_bytes + size > self._limits.max_buffer_bytes
            or self.queued_bytes + size > self._limits.max_total_bytes
        ):
            peer.dropped += 1
            return b""
        queued = _Queued(data)
        queued.peer, queued.sock = peer, self
        peer.queued_bytes += size
        self.queued_bytes += size
        return queued

    def latest_from(self, sockaddr: Any) -> Datagram:
        """Return the latest datagram of a peer: its address is one that the network chose."""
        peer = self.peers.get(sockaddr)
        if peer is not None:
            return peer.latest
        source, datagram = self._latest
        if datagram is not None and source == sockaddr:
            return datagram
        host, port, *rest = sockaddr
        return Datagram(b"", as_received(Address(f"{host}%{rest[1]}" if rest and rest[1] else host, port)))

    async def sendto(self, *args: Any) -> int:
        """Send a message of a handshake without waiting, or capture what the task sends."""
        packet, sockaddr = args
        captured = self._captured.get(trio.lowlevel.current_task())
        if captured is not None:
            captured.append(packet)
        else:
            await self._send_now(packet, sockaddr)
        return len(packet)

    async def _send_now(self, packet: bytes, sockaddr: Any) -> None:
        message = packet if self._connected else self.latest_from(sockaddr).reply(packet)
        try:
            self.datagram_socket.send_nowait(message)
        except trio.WouldBlock:
            pass
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                await self._send_awaited(message)
            elif error.errno not in {errno.EMSGSIZE, errno.ENOBUFS}:
                # After EMSGSIZE Trio sends smaller messages.
                self._on_error(error)

    async def _send_awaited(self, message: bytes | Datagram) -> None:
        with trio.move_on_after(_LONGEST_WAIT):
            try:
                await self.datagram_socket.send(message)
            except OSError as error:
                self._on_error(error)
