"""Listening for DTLS peers, each of which gets a channel of its own.

Trio's endpoint and the handshakes need tasks that outlive a call of ``accept``. Trio itself reads in a system task; the
handshakes run in another, from the first ``accept`` until the socket is closed.
"""

from __future__ import annotations

import signal
from typing import Unpack

import trio
from OpenSSL import SSL

from .._services.binding import bind_sockets
from .._services.sockets import answer_from_asked_address, is_reported_by_network, listenable_address
from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts
from .._values.addresses import Address, format_address
from .._values.construction import create
from .._values.statistics import DTLSListenerStatistics, SocketStatistics
from .channel import DTLSChannel
from .contexts import check_context, server_view
from .endpoint_socket import EndpointSocket
from .limits import DTLSListenerOptions, DTLSPeerOptions, check_limits, split_options
from .peers import DTLSPeers


@defer_interrupts
class DTLSListener(trio.abc.Listener[DTLSChannel]):
    """Accepts an encrypted channel for each peer that shakes hands with a socket.

    :func:`open_listeners` and :func:`serve` create it, or the program does for a socket that exists.
    ``trio.serve_listeners`` takes it.

    Handshakes run in the background from the first ``accept`` on, and channels are read from even while no task waits
    for them. The socket is closed when the listener and all of its channels are.

    Args:
      socket: a bound UDP socket, also an adopted one. Nothing else may receive from it. On a wildcard address channels
        reply from the address that the peer sends to if the system reports it, so datagrams get a PacketInfo then.
      ssl_context: an OpenSSL context with ``SSL.DTLS_METHOD``, a certificate and its key. Several listeners may share
        it. Its info callback and its cookie callback are replaced.
      limits: as documented in :class:`DTLSPeerOptions`.

    Raises:
      TypeError, ValueError: if an argument is wrong.
      NotBoundError: if the socket is not bound.
      AlreadyConnectedError: if it is connected.
      trio.ClosedResourceError: if it is closed.
    """

    def __init__(self, socket: DatagramSocket, ssl_context: SSL.Context, **limits: Unpack[DTLSPeerOptions]) -> None:
        address = listenable_address(socket)
        if socket.type == "unix":
            raise ValueError("socket must be a UDP socket, not a unix one: DTLS needs addresses of the internet")
        check_context(ssl_context)
        checked = check_limits(limits)
        self._address = address
        self._context = server_view(ssl_context)
        answer_from_asked_address(socket)
        self._socket = socket
        sock = EndpointSocket(socket, checked, self._on_error)
        self._endpoint = trio.DTLSEndpoint(sock, incoming_packets_buffer=checked.max_buffer_size)
        self._peers = DTLSPeers(sock, checked, self._on_admitted, self._on_left)
        self._accepters = trio.lowlevel.ParkingLot()
        self._started = False
        self._failure: Exception | None = None

    @property
    def address(self) -> Address:
        """The local address, also after the listener was closed."""
        return self._address

    def statistics(self) -> DTLSListenerStatistics:
        """Return the listener's counts, also after its end."""
        return self._peers.statistics()

    def socket_statistics(self) -> SocketStatistics:
        """Return the counts of the listener's socket, also after its end."""
        return self._socket.statistics()

    async def accept(self) -> DTLSChannel:
        """Wait for a peer whose handshake is done and return the channel to it.

        Raises:
          trio.ClosedResourceError: if the listener is closed, or is closed meanwhile.
          trio.BusyResourceError: if something else receives from the socket.
          OSError: the kernel's error if it ends receiving.

        A checkpoint always. A cancelled call has accepted no peer.
        """
        self._check_open()
        if not self._started:
            self._started = True
            trio.lowlevel.spawn_system_task(self._run, name=f"DTLS on {format_address(self._address)}")
        await trio.lowlevel.checkpoint()
        while not self._peers.backlog:
            self._check_open()
            await self._accepters.park()
        self._check_open()
        return create(DTLSChannel, self._peers.backlog.popleft())

    def close(self) -> None:
        """Refuse new peers, cancel the handshakes in progress, and close the channels that wait for ``accept``.

        Accepted channels stay open; the socket is closed with the last of them. Closing twice does nothing.
        """
        if self._peers.admitting:
            self._peers.stop()
            self._accepters.unpark_all()
            self._on_left()

    async def aclose(self) -> None:
        """Close the listener as :meth:`close` does, then execute a checkpoint: closed also when cancelled."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __repr__(self) -> str:
        state = "listening" if self._peers.admitting else "closed"
        return f"<trio_dgram.dtls.DTLSListener on {format_address(self._address)}, {state}>"

    async def _run(self) -> None:
        interrupted = False
        try:
            try:
                await self._endpoint.serve(self._context, self._peers.attend)
            except* KeyboardInterrupt:
                interrupted = True
        except Exception as error:  # noqa: BLE001 -- an exception of a system task would end the program
            self._fail(error)
        finally:
            self._endpoint.close()
        if interrupted:
            # Some lines of Trio's endpoint do not defer it. Here it is deferred, and Trio raises it in the main task.
            signal.raise_signal(signal.SIGINT)

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if not self._peers.admitting:
            raise trio.ClosedResourceError("this listener was closed")

    def _on_admitted(self) -> None:
        self._accepters.unpark()

    def _on_left(self) -> None:
        if not self._peers.admitting and not self._peers.places:
            self._endpoint.close()

    def _on_error(self, error: Exception) -> None:
        if not is_reported_by_network(error):
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Raise ``error`` in every ``accept`` from now on, and end the channels: nothing reads any more."""
        if self._failure is None and self._peers.admitting:
            self._failure = error
            self.close()
            self._endpoint.close()


@trio.lowlevel.enable_ki_protection
async def open_listeners(
    port: int, ssl_context: SSL.Context, *, host: str | None = None, **options: Unpack[DTLSListenerOptions]
) -> list[DTLSListener]:
    """Open a DTLS listener for each address family, as :func:`trio_dgram.open_listeners` does without encryption.

    Args:
      port: the UDP port, the same for all; 0 for one of the kernel's choice that is free in each family.
      ssl_context: as for :class:`DTLSListener`.
      host: a local address, or a name that resolves to some; all interfaces without one. Default: None.
      options: limits for the peers, and options of the sockets, as documented in :class:`DTLSListenerOptions`. With
        ``ipv6_only=False`` and no host one dual-stack socket serves both families.

    Raises:
      TypeError, ValueError: if an argument is wrong; no socket was opened.
      socket.gaierror: if the name does not resolve.
      OSError: the kernel's error, such as EADDRINUSE; no socket stays open.

    A checkpoint. A cancelled call leaves no socket open.
    """
    check_context(ssl_context)
    limits, socket_options = split_options(options)
    server_view(ssl_context)
    bound = await bind_sockets(port, host, None, socket_options)
    return [DTLSListener(socket, ssl_context, **limits) for socket in bound]
