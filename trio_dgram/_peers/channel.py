"""A channel to one peer, the same on both ends."""

from __future__ import annotations

import errno

import trio

from .._codecs.families import Destination
from .._codecs.payloads import Payload, encode
from .._socket.interrupts import defer_interrupts
from .._socket.reply_address import reply_destination, send_to
from .._values.addresses import Address, ReceivedAddress, format_address
from .._values.datagrams import Datagram, PacketInfo, info_for_reply
from .._values.errors import AmplificationLimitError
from .._values.statistics import PeerStatistics
from .table import Peer, PeerTable


@defer_interrupts
class DatagramChannel(Peer, trio.abc.Channel[bytes]):
    """Receives the datagrams of one peer and sends to it.

    A :class:`DatagramListener` creates it for each new peer, and :func:`open_connection` for its one peer. A listener's
    channel ends when nothing has been received from the peer for the idle timeout, or when a new peer evicts this one:
    ``receive`` raises ``trio.EndOfChannel``, ``send`` ``trio.BrokenResourceError``. Datagrams may be lost in both
    directions.
    """

    __slots__ = (
        "__weakref__",
        "_bytes_sent",
        "_closed",
        "_destination",
        "_info_of_destination",
        "_received",
        "_receiving",
        "_table",
    )

    def __init__(self, table: PeerTable[DatagramChannel], address: Address, now: float) -> None:
        Peer.__init__(self, address, now)
        self._table = table
        self._bytes_sent = 0
        self._received = 0
        self._receiving = False
        self._closed = False
        # The destination of answers, and the info of the peer's datagrams from which it was computed.
        self._destination: Destination | None = None
        self._info_of_destination: PacketInfo | None = None

    @property
    def local_address(self) -> Address:
        """The local address that answers leave from.

        On a wildcard address it is the address that the peer's last datagram was sent to, where the system reports
        that.
        """
        self._check_open()
        bound = self._table.socket.address
        local = self._info and info_for_reply(self._info, self.address)
        return bound if local is None or local.local_address is None else Address(local.local_address, bound.port)

    def statistics(self) -> PeerStatistics:
        """Return the channel's counts, also after its end."""
        return PeerStatistics(
            received=self._received,
            queued=len(self._queue or ()),
            queued_bytes=self._queued_bytes,
            dropped=self._dropped,
            bytes_received=self._bytes_received,
            bytes_sent=self._bytes_sent,
            validated=self._validated,
        )

    def mark_validated(self) -> None:
        """Mark the peer's address as validated: the peer has proved that it receives datagrams there.

        From now on no new peer evicts it, and ``amplification_limit`` does not apply to it. A second datagram is no
        proof, since its source can be forged as well; the answer to a secret is.
        """
        self._table.validate(self)

    async def receive(self) -> bytes:
        """Wait for the peer's next datagram and return it. An empty one is data, not an end.

        Raises:
          trio.EndOfChannel: when the channel has ended and its queue is empty.
          trio.ClosedResourceError: if it is closed, or is closed meanwhile.
          trio.BusyResourceError: if another task is receiving.
          OSError: on a client, an ICMP error of an earlier datagram, such as ECONNREFUSED.

        A cancellation point always. A cancelled call has consumed nothing.
        """
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise trio.EndOfChannel from None

    async def __anext__(self) -> bytes:
        # The ordinary idiom, so it does not wrap receive(): that would add a coroutine per datagram.
        self._check_open()
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this peer")
        self._receiving = True
        table = self._table
        try:
            if self._is_ready():
                await table.budget.checkpoint()
            elif table.reader is None:
                await table.read_until(self._is_ready)
            else:
                # Not in a coroutine of the table: each of many idle peers would take the memory of its frame.
                task = trio.lowlevel.current_task()
                table.receivers[self] = task
                await trio.lowlevel.wait_task_rescheduled(self._give_up)
                table.budget.restart()
                if table.reader is task:
                    await table.read_until(self._is_ready)
        finally:
            self._receiving = False
        self._check_open()
        data = table.take(self)
        if data is None:
            raise StopAsyncIteration
        self._received += 1
        return data

    def _give_up(self, _: object) -> trio.lowlevel.Abort:
        del self._table.receivers[self]
        return trio.lowlevel.Abort.SUCCEEDED

    def _is_ready(self) -> bool:
        return self._queue is not None or self._ended or self._table.draining

    async def send(self, value: Payload) -> None:
        """Send one datagram to the peer.

        Args:
          value: the payload, as :meth:`DatagramSocket.send` takes it: bytes-like, text (sent as UTF-8), or a list or
            tuple of those, which are joined.

        Raises:
          TypeError: if ``value`` is not such a payload.
          trio.ClosedResourceError: if the channel is closed.
          trio.BrokenResourceError: if it has ended.
          AmplificationLimitError: if the ``amplification_limit`` would be exceeded. Sends that still wait count.
          OSError: the kernel's error for this datagram, such as EMSGSIZE. An error that the peer's address causes is
            not raised, since the network chose it: the socket counts it.

        A cancellation point, every time. A cancelled call has sent nothing.
        """
        self._check_open()
        table = self._table
        payload = value if type(value) is bytes else encode(table.family, value)
        if self._ended:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError(f"the channel to {format_address(self.address)} has ended")
        size = len(payload)
        limit = table.limits.amplification_limit
        if limit is not None and not self._validated and self._bytes_sent + size > limit * self._bytes_received:
            table.amplification_refused += 1
            raise AmplificationLimitError(
                f"{size} more bytes to {format_address(self.address)} would exceed {limit} times the "
                f"{self._bytes_received} received: call mark_validated() once the peer has proved its address"
            )
        # Reserved before the send waits, so that concurrent sends stay below the limit.
        self._bytes_sent += size
        try:
            destination = self._destination
            if destination is None or self._info is not self._info_of_destination:
                destination = self._find_destination()
            if destination is not None:
                await send_to(table.socket, payload, destination)
            elif isinstance(self.address, ReceivedAddress):
                await table.socket.send(Datagram(b"", self.address, self._info).reply(payload))
            else:
                await self._send_to_chosen_peer(payload)
        except BaseException:
            self._bytes_sent -= size
            raise

    def _find_destination(self) -> Destination | None:
        """Return the destination of answers if it can be kept: then sending costs only the system call."""
        if not isinstance(self.address, ReceivedAddress):
            return None
        if not self.address.host:
            raise OSError(errno.EDESTADDRREQ, "the peer's socket has no name, so it cannot be answered")
        self._info_of_destination = self._info
        self._destination = reply_destination(self._table.socket, Datagram(b"", self.address, self._info))
        return self._destination

    async def _send_to_chosen_peer(self, payload: bytes) -> None:
        socket = self._table.socket
        try:
            await socket.send(payload)
        except trio.ClosedResourceError:
            # The address refused, and the channel has replaced its socket: a datagram to the former address is lost.
            if socket is self._table.socket:
                raise

    def close(self) -> None:
        """Close the channel and discard its queued datagrams; later datagrams of the peer are a new peer's.

        Closing twice does nothing.
        """
        if not self._closed:
            self._closed = True
            self._table.close(self)

    async def aclose(self) -> None:
        """Close the channel as :meth:`close` does, then execute a checkpoint: closed also when cancelled."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _handler_starts(self, scope: trio.CancelScope) -> None:
        self._table.handler_starts(self, scope)

    def _handler_ended(self) -> None:
        self._table.handler_ended(self)

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this channel was closed")

    def __repr__(self) -> str:
        state = "closed" if self._closed else "ended" if self._ended else "validated" if self._validated else "open"
        return f"<trio_dgram.DatagramChannel to {format_address(self.address)}, {state}>"
