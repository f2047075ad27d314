"""A channel to one peer, the same on both ends."""

from __future__ import annotations

import trio

from .._socket.interrupts import defer_interrupts
from .._values.addresses import Address, ReceivedAddress, format_address
from .._values.arguments import describe_value
from .._values.errors import AmplificationLimitError
from .._values.statistics import PeerStatistics
from .table import Peer, PeerTable


@defer_interrupts
class DatagramChannel(Peer, trio.abc.Channel[bytes]):
    """The datagrams of one peer, and the way to answer it.

    Made by a :class:`DatagramListener` for each peer that it hears, or by :func:`open_connection`. It ends, with
    ``trio.EndOfChannel``, when nothing has come or gone for the idle timeout, or when it makes room for another peer.
    What is sent to it may get lost, and so may what the peer sends.
    """

    __slots__ = ("__weakref__", "_bytes_sent", "_closed", "_received", "_receiving", "_table")

    def __init__(self, table: PeerTable[DatagramChannel], address: Address, now: float) -> None:
        Peer.__init__(self, address, now)
        self._table = table
        self._bytes_sent = 0
        self._received = 0
        self._receiving = False
        self._closed = False

    @property
    def local_address(self) -> Address:
        """The local address, which the channels of a listener share."""
        self._check_open()
        return self._table.socket.address

    def statistics(self) -> PeerStatistics:
        """Return the channel's counts, also after its end."""
        return PeerStatistics(
            received=self._received,
            queued=len(self.queue or ()),
            queued_bytes=self.queued_bytes,
            dropped=self.dropped,
            bytes_received=self.bytes_received,
            bytes_sent=self._bytes_sent,
            validated=self.validated,
        )

    def mark_validated(self) -> None:
        """Say that the peer has proved to have the address that it sends from.

        From now on it makes room for no newcomer, and no ``amplification_limit`` holds for it. What is proof, the
        program has to know: a second datagram is none, the answer to a secret is.
        """
        self._table.validate(self)

    async def receive(self) -> bytes:
        """Wait for the peer's next datagram and return it. An empty one is data, not an end.

        Raises:
          trio.EndOfChannel: when the channel has ended, once what had come before was received.
          trio.ClosedResourceError: if it is closed, or is closed meanwhile.
          trio.BusyResourceError: if another task is receiving.
          OSError: on the client's end what ICMP said about an earlier datagram, such as ECONNREFUSED.

        A cancellation point always. A cancelled call has consumed nothing.
        """
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise trio.EndOfChannel from None

    async def __anext__(self) -> bytes:
        # The ordinary way to receive, and therefore not a coroutine around another.
        self._check_open()
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this peer")
        self._receiving = True
        table = self._table
        try:
            if self._has_come():
                await table.budget.checkpoint()
            elif table.reader is None:
                await table.read_until(self._has_come)
            else:
                # Here and not in a coroutine of the table's: what each of many peers waits in is to be small.
                task = trio.lowlevel.current_task()
                table.receivers[self] = task
                await trio.lowlevel.wait_task_rescheduled(self._give_up)
                table.budget.restart()
                if table.reader is task:
                    await table.read_until(self._has_come)
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

    def _has_come(self) -> bool:
        return self.queue is not None or self.ended

    async def send(self, value: bytes | bytearray | memoryview) -> None:
        """Send one datagram to the peer.

        Raises:
          TypeError: if ``value`` is not bytes-like.
          trio.ClosedResourceError: if the channel is closed.
          trio.BrokenResourceError: if it has ended.
          AmplificationLimitError: if that much must not go out before the peer is validated.
          OSError: what the kernel says against this datagram, such as EMSGSIZE. What is wrong with the peer's address,
            which the network chose, is not raised but counted, and reported by the socket.

        A cancellation point always. A cancelled call has sent nothing.
        """
        self._check_open()
        if type(value) is not bytes:
            if not isinstance(value, bytes | bytearray | memoryview):
                raise TypeError(f"value must be bytes-like, not {describe_value(value)}")
            value = bytes(value)
        if self.ended:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError(f"the channel to {format_address(self.address)} has ended")
        size = len(value)
        limit = self._table.limits.amplification_limit
        if limit is not None and not self.validated and self._bytes_sent + size > limit * self.bytes_received:
            self._table.amplification_refused += 1
            raise AmplificationLimitError(
                f"{size} more bytes to {format_address(self.address)} would be over {limit} for each of the "
                f"{self.bytes_received} that came: mark_validated() once it has proved its address"
            )
        self._table.heard(self, trio.current_time())
        if isinstance(self.address, ReceivedAddress):
            await self._table.socket.send(value, self.address)
        else:
            await self._table.socket.send(value)
        self._bytes_sent += size

    def close(self) -> None:
        """Close the channel at once: what waits of the peer's is thrown away, and what it sends from now on is a new
        peer's. Closing twice does nothing."""
        if not self._closed:
            self._closed = True
            self._table.discard(self)
            self._table.end(self)

    async def aclose(self) -> None:
        """Close the channel as :meth:`close` does, then execute a checkpoint: closed also when cancelled."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this channel was closed")

    def __repr__(self) -> str:
        state = "closed" if self._closed else "ended" if self.ended else "validated" if self.validated else "open"
        return f"<trio_dgram.DatagramChannel to {format_address(self.address)}, {state}>"
