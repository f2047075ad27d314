"""A DTLS session with one peer: its state, and what its channel does.

    handshaking -> open -> ended -> closed        expired, replaced by a new handshake, or close_notify
                   open ---------> closed         close

A session that has ended returns what was queued; a closed one raises ``trio.ClosedResourceError``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import trio
from OpenSSL import SSL

from .._codecs.payloads import encode
from .._socket.interrupts import defer_interrupts
from .._values.addresses import Address, format_address
from .._values.datagrams import Datagram
from .._values.errors import with_context
from .._values.statistics import DTLSChannelStatistics
from .contexts import Handshake, current_handshake
from .endpoint_socket import EndpointSocket


@defer_interrupts
class Session:
    """A session with one peer.

    Args:
      secured: what Trio has of it.
      sock: the endpoint's socket.
      latest: the latest datagram of the peer.
      connected: whether the socket is connected to the peer, which the program chose then.
    """

    __slots__ = (
        "_bytes_received",
        "_bytes_sent",
        "_connected",
        "_due",
        "_encrypting",
        "_handshake",
        "_received",
        "_receiving",
        "_secured",
        "_sent",
        "_sock",
        "_socket",
        "closed",
        "dropped",
        "ended",
        "handler",
        "handshaking",
        "last_received",
        "latest",
        "on_close",
        "queued_bytes",
        "released",
        "replaced",
    )

    def __init__(self, secured: trio.DTLSChannel, sock: EndpointSocket, latest: Datagram, *, connected: bool) -> None:
        self.latest: Datagram = latest
        """The latest datagram of the handshake: replies are sent to its source, from the local address that received
        it. Anyone can forge a later one, which would divert the replies."""
        self.last_received: float = trio.current_time()
        self.handshaking: bool = True
        self.ended: bool = False
        self.replaced: bool = False
        """Whether the peer has begun another handshake."""
        self.closed: bool = False
        self.queued_bytes: int = 0
        """The bytes of its datagrams that are not decrypted yet."""
        self.dropped: int = 0
        """Its datagrams that were dropped because too many bytes were queued."""
        self.released: trio.Event = trio.Event()
        """Set when the session is closed, or must not keep its place any more."""
        self.handler: trio.CancelScope | None = None
        """The scope of its handler, if the library runs it."""
        self.on_close: Callable[[Session], object] = bool
        self._secured = secured
        self._sock = sock
        self._socket = sock.datagram_socket
        self._connected = connected
        self._handshake = Handshake()
        self._receiving: trio.CancelScope | None = None
        self._encrypting = trio.Lock()
        self._due: OSError | None = None
        self._received = self._bytes_received = self._sent = self._bytes_sent = 0

    @property
    def address(self) -> Address:
        """The address of the peer."""
        return self.latest.address

    @property
    def local_address(self) -> Address:
        """The local address: the one that the peer sends to, if that is known."""
        local, info = self._socket.address, self.latest.info
        return local if info is None or info.local_address is None else Address(info.local_address, local.port)

    @property
    def all_dropped(self) -> int:
        """How many datagrams were dropped because the queue was full."""
        return self.dropped + self._secured.statistics().incoming_packets_dropped_in_trio

    def statistics(self) -> DTLSChannelStatistics:
        """Return the counts."""
        return DTLSChannelStatistics(
            received=self._received,
            dropped=self.all_dropped,
            bytes_received=self._bytes_received,
            sent=self._sent,
            bytes_sent=self._bytes_sent,
        )

    async def shake_hands(self, scope: trio.CancelScope, **options: Any) -> None:
        """Perform the handshake in ``scope``.

        Raises:
          trio.BrokenResourceError: if it was ended by an alert, or the peer has begun another.
        """
        handshake = self._handshake
        handshake.scope = scope
        token = current_handshake.set(handshake)
        try:
            with scope:
                await self._secured.do_handshake(**options)
                self.handshaking = False
        finally:
            current_handshake.reset(token)
            handshake.stop()
        if handshake.failure:
            raise trio.BrokenResourceError(handshake.failure)

    # Sending

    async def send(self, value: object) -> None:
        """Encrypt one datagram and send it."""
        self.check_open()
        payload = encode(self._socket._descriptor.family, value)  # noqa: SLF001 -- the socket is the layer below
        if not payload:
            raise ValueError("value must not be empty: DTLS has no empty datagrams")
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.ended:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise self._broken()
        packet = await self._encrypt(payload)
        # Other tasks ran meanwhile.
        self.check_open()
        if self.ended:
            raise self._broken()
        try:
            await self._socket.send(packet if self._connected else self.latest.reply(packet))
        except trio.ClosedResourceError:
            self.check_open()
            raise self._broken() from None
        self._sent += 1
        self._bytes_sent += len(payload)

    async def _encrypt(self, payload: bytes) -> bytes:
        """Return one encrypted datagram. A cancelled call has encrypted nothing.

        Encryption is shielded from cancellation, because Trio would prepend its bytes to the next datagram. A call
        waits for other tasks only as long as they encrypt, never for the kernel.
        """
        # Trio would join the datagrams of two tasks.
        try:
            self._encrypting.acquire_nowait()
        except trio.WouldBlock:
            await self._encrypting.acquire()
        try:
            with trio.CancelScope(shield=True), self._sock.capturing() as packets:
                await self._secured.send(payload)
        except trio.BrokenResourceError:
            self.ended = self.replaced = True
            raise
        except trio.ClosedResourceError:
            self.check_open()
            raise self._broken() from None
        except SSL.Error as error:
            reason = "OpenSSL cannot encrypt it: a DTLS record has at most 16384 bytes"
            raise with_context(OSError(errno.EMSGSIZE, reason), "send", self.address) from error
        finally:
            self._encrypting.release()
        return b"".join(packets)

    # Receiving

    async def receive(self) -> bytes:
        """Wait for the next datagram and return it decrypted."""
        self.check_open()
        if self._receiving is not None:
            raise trio.BusyResourceError("another task is receiving from this peer")
        self._receiving = scope = trio.CancelScope()
        with scope:
            if self.ended or self._due is not None:
                # It takes effect once the task waits, so what is queued is returned.
                scope.deadline = trio.current_time()
            try:
                data = await self._secured.receive()
            except SSL.ZeroReturnError:
                self.ended = True
                raise trio.EndOfChannel from None
            except trio.BrokenResourceError:
                self.ended = self.replaced = True
                raise
            except trio.ClosedResourceError:
                # The session was closed, or has lost its place.
                self.check_open()
                raise trio.EndOfChannel from None
            except SSL.Error as error:
                raise trio.BrokenResourceError(f"OpenSSL cannot continue with {self.name}") from error
            else:
                self._received += 1
                self._bytes_received += len(data)
                return data
            finally:
                self._receiving = None
        # The session ended, or an error became due, while the task waited.
        due, self._due = self._due, None
        if due is not None:
            raise due
        raise trio.EndOfChannel

    def received(self, datagram: Datagram) -> None:
        """Note that a datagram of the peer has arrived."""
        self.last_received = trio.current_time()
        if self.handshaking:
            self.latest = datagram
            self._handshake.settle_timer()

    def report(self, error: OSError) -> None:
        """Raise ``error`` by the next ``receive``, or by the one that waits."""
        self._due = error
        self._interrupt_receiving()

    # Its end

    def end(self) -> None:
        """End the session: ``receive`` returns what is queued and then raises ``trio.EndOfChannel``."""
        self.ended = True
        self._interrupt_receiving()

    def close(self) -> None:
        """Close the session."""
        if not self.closed:
            self.closed = True
            self._secured.close()
            self.released.set()
            self.on_close(self)

    def check_open(self) -> None:
        """Raise ``trio.ClosedResourceError`` if it is closed."""
        if self.closed:
            raise trio.ClosedResourceError("this channel was closed")

    @property
    def name(self) -> str:
        """The address of the peer, for messages."""
        return format_address(self.address)

    def _broken(self) -> trio.BrokenResourceError:
        return trio.BrokenResourceError(f"the channel to {self.name} has ended")

    def _interrupt_receiving(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
