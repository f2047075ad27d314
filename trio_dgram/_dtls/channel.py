"""The channel to one peer, the same on both ends."""

from __future__ import annotations

import trio

from .._codecs.payloads import Payload
from .._socket.interrupts import defer_interrupts
from .._values.addresses import Address
from .._values.construction import NoPublicConstructor
from .._values.statistics import DTLSChannelStatistics
from .session import Session


@defer_interrupts
class DTLSChannel(trio.abc.Channel[bytes], metaclass=NoPublicConstructor):
    """Receives the datagrams of one peer decrypted, and sends to it encrypted.

    :func:`serve`, a :class:`DTLSListener` and :func:`open_connection` create it. ``receive`` raises
    ``trio.EndOfChannel`` when the peer has closed its end (the alert close_notify, RFC 5246, 7.2.1) or, on a server,
    when nothing has arrived for the idle timeout. Datagrams may be lost in both directions, and arrive in
    another order; one that was replayed or forged is dropped.
    """

    _created_by = "dtls.open_connection(), dtls.serve() or DTLSListener.accept()"

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def address(self) -> Address:
        """The address of the peer."""
        return self._session.address

    @property
    def local_address(self) -> Address:
        """The local address: the one that the peer sends to, if that is known."""
        self._session.check_open()
        return self._session.local_address

    def statistics(self) -> DTLSChannelStatistics:
        """Return the channel's counts, also after its end."""
        return self._session.statistics()

    def mark_validated(self) -> None:
        """Do nothing: the handshake has proved that the peer has its address. It is here for handlers that serve
        :class:`trio_dgram.DatagramChannel` as well."""

    async def send(self, value: Payload) -> None:
        """Encrypt one datagram and send it to the peer.

        Args:
          value: the payload, as :meth:`DatagramSocket.send` takes it, of 1 to 16384 bytes: DTLS has no empty datagrams.

        Raises:
          TypeError: if ``value`` is not such a payload.
          ValueError: if it is empty.
          trio.ClosedResourceError: if the channel is closed, or is closed meanwhile.
          trio.BrokenResourceError: if it has ended, or the peer has begun another handshake.
          OSError: the kernel's error for this datagram, such as EMSGSIZE, also for more than 16384 bytes. On a server
            an error that the peer's address causes is not raised but counted.

        A cancellation point always. A cancelled call has sent nothing, and returns at once.
        """
        await self._session.send(value)

    async def receive(self) -> bytes:
        """Wait for the peer's next datagram and return it decrypted.

        Raises:
          trio.EndOfChannel: when the channel has ended and its queue is empty.
          trio.ClosedResourceError: if it is closed, or is closed meanwhile.
          trio.BrokenResourceError: if the peer has begun another handshake, or reports that it has failed.
          trio.BusyResourceError: if another task is receiving.
          OSError: on the client's end the ICMP error of an earlier datagram, such as ECONNREFUSED, once.

        A cancellation point always. A cancelled call has consumed nothing.
        """
        return await self._session.receive()

    def close(self) -> None:
        """Close the channel at once; what was queued is discarded. Closing twice does nothing.

        The peer is not informed: Trio's DTLS cannot send close_notify. It detects the end by an idle timeout of its
        own, or by a message of the protocol that the program sends first.
        """
        self._session.close()

    async def aclose(self) -> None:
        """Close the channel as :meth:`close` does, then execute a checkpoint: closed also when cancelled."""
        self.close()
        await trio.lowlevel.checkpoint()

    @property
    def _ended(self) -> bool:
        return self._session.ended

    def _handler_starts(self, scope: trio.CancelScope) -> None:
        self._session.handler = scope

    def _handler_ended(self) -> None:
        self._session.handler = None

    def __repr__(self) -> str:
        session = self._session
        state = "closed" if session.closed else "ended" if session.ended else "open"
        return f"<trio_dgram.dtls.DTLSChannel to {session.name}, {state}>"
