"""Requests in flight over one channel, each matched with its reply by a key.

Rule 1: one task in the nursery of the block reads for all requests. A request only sends and waits.
Rule 2: an error of an unreachable peer ends neither the exchange nor a request: it is the cause of the next timeout.
Rule 3: a request that ends, in any way, leaves nothing but its key if it was answered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, NoReturn, cast

import attrs
import trio

from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts, interruptibly
from .._socket.pending_errors import PENDING_ERRNOS
from .._values.arguments import check_function, check_integer, describe_value
from .._values.construction import NoPublicConstructor, create
from .._values.errors import NotConnectedError, PeerUnreachable
from .._values.statistics import ExchangeStatistics
from .retry import is_unreachable, retry

_REMEMBERED: Final = 1024
"""How many keys of answered requests are kept to recognise duplicates."""

Key = Callable[[bytes], Hashable]


@attrs.define(eq=False)
class _Request:
    """A request in flight."""

    key: Hashable
    failures_before: int
    reply: bytes | None = None
    over: trio.Event = attrs.field(factory=trio.Event)
    """Set when there is a reply, or when there will be none."""


@attrs.frozen
class _End:
    """Why an exchange has ended."""

    kind: type[Exception]
    reason: str
    cause: Exception | None

    def throw(self) -> NoReturn:
        """Raise a new error each time, since several tasks raise it."""
        raise self.kind(self.reason) from self.cause


@defer_interrupts
class _InFlight:
    """The requests in flight, by key, and the counts; it does no I/O."""

    def __init__(self, key: Key) -> None:
        self.sent: int = 0
        self.replies: int = 0
        self.duplicates: int = 0
        self.strays: int = 0
        self.timeouts: int = 0
        self._key = key
        self._requests: dict[Hashable, _Request] = {}
        self._answered: OrderedDict[Hashable, None] = OrderedDict()
        self._failure: OSError | None = None
        self._failures = 0
        self._end: _End | None = None

    def __len__(self) -> int:
        return len(self._requests)

    def key_of(self, message: bytes) -> Hashable:
        """Return the key of a request, or raise what forbids to send it now."""
        self._check_open()
        key = interruptibly(self._key, message)
        self._check_free(key)
        return key

    def _check_free(self, key: Hashable) -> None:
        if key in self._requests:
            raise ValueError(f"a request with the key {key!r} is in flight already")

    def add(self, key: Hashable) -> _Request:
        """Register a request; another task may have taken its key, or ended the exchange, since :meth:`key_of`."""
        self._check_open()
        self._check_free(key)
        request = self._requests[key] = _Request(key, self._failures)
        self._answered.pop(key, None)
        return request

    def remove(self, request: _Request) -> None:
        """Forget a request that has ended."""
        if self._requests.get(request.key) is request:
            del self._requests[request.key]

    def dispatch(self, data: bytes) -> None:
        """Assign a datagram to the request that it answers, or count it as a stray."""
        try:
            key = interruptibly(self._key, data)
            request = self._requests.pop(key, None)
            is_duplicate = request is None and key in self._answered
        except Exception:  # noqa: BLE001 -- the network chose the datagram, so no error of its key ends the exchange
            self.strays += 1
            return
        if request is not None:
            self.replies += 1
            request.reply = data
            request.over.set()
            self._answered[key] = None
            if len(self._answered) > _REMEMBERED:
                self._answered.popitem(last=False)
        elif is_duplicate:
            self.duplicates += 1
        else:
            self.strays += 1

    def note_failure(self, error: OSError) -> None:
        """Keep an error of an unreachable peer, which is the peer of all requests in flight."""
        # Its traceback would keep the frames of a request alive.
        self._failure = error.with_traceback(None)
        self._failures += 1

    def failure_during(self, request: _Request) -> OSError | None:
        """Return the latest error of an unreachable peer since a request began."""
        return self._failure if self._failures > request.failures_before else None

    def end(self, kind: type[Exception], reason: str, cause: Exception | None = None) -> None:
        """Make every request raise from now on, also those that wait."""
        if self._end is None:
            self._end = _End(kind, reason, cause)
        for request in self._requests.values():
            request.over.set()

    def _check_open(self) -> None:
        if self._end is not None:
            self._end.throw()

    def reply_to(self, request: _Request) -> bytes:
        """Return the reply of a request that is over, or raise why there is none."""
        if request.reply is None:
            cast("_End", self._end).throw()
        return request.reply


@defer_interrupts
class Exchange(metaclass=NoPublicConstructor):
    """Requests over one channel, each matched with its reply; :func:`open_exchange` opens one."""

    _created_by = "open_exchange()"

    def __init__(self, send: Callable[[bytes], Awaitable[None]], in_flight: _InFlight, max_in_flight: int) -> None:
        self._send = send
        # Channels do not promise more than one send at a time: that of Trio's DTLS would join two datagrams to one.
        self._sending = trio.Lock()
        self._in_flight = in_flight
        self._slots = trio.Semaphore(max_in_flight)

    async def request(
        self,
        message: bytes | bytearray | memoryview,
        *,
        timeout: float = 1.0,  # noqa: ASYNC109 -- of one attempt, not of the call
        factor: float = 2.0,
        attempts: int = 4,
        jitter: float = 0.1,
    ) -> bytes:
        """Send a request, wait for its reply and return that; send it again at the end of each attempt.

        Several tasks may do so at the same time. While ``max_in_flight`` requests are in flight, more wait, in order;
        their first attempt begins afterwards. The reply to any attempt counts.

        Args:
          message: the request.
          timeout: the time of the first attempt in seconds, from 0. Default: 1.0.
          factor: the time of each further attempt divided by that of the one before, from 1. Default: 2.0.
          attempts: the largest number of attempts, from 1. Default: 4.
          jitter: the largest random extension of each attempt, as a part of its time, from 0. Default: 0.1.

        Raises:
          TypeError, ValueError: if an argument is wrong; nothing was sent.
          ValueError: if a request with this key is in flight; nothing was sent.
          trio.TooSlowError: if no reply arrived in the time of all attempts. Its ``__cause__`` is the latest error of
            an unreachable peer in that time, such as ECONNREFUSED, if there was one.
          trio.ClosedResourceError: if the channel is closed, or the block of the exchange has ended; also while this
            waits.
          trio.BrokenResourceError: if the channel has ended or cannot receive any more; also while this waits. Its
            ``__cause__`` is the error of the channel.

        What ``key`` raises for ``message``, and what sending raises, is raised as it is, unless the error means that
        the peer is unreachable. A cancellation point always. A cancelled request is forgotten; its reply is a stray.
        """
        tries = retry(timeout=timeout, factor=factor, attempts=attempts, jitter=jitter)
        if not isinstance(message, bytes | bytearray | memoryview):
            raise TypeError(f"message must be bytes-like, not {describe_value(message)}")
        message = bytes(message)
        key = self._in_flight.key_of(message)
        async with self._slots:
            request = self._in_flight.add(key)
            try:
                async for attempt in tries:  # pragma: no branch -- a reply or TooSlowError ends it
                    with attempt:
                        if not request.over.is_set():
                            await self._send_once(message)
                        await request.over.wait()
                        # Not by the loop's own end, which is a checkpoint: that could be cancelled and lose the reply.
                        break
            except trio.TooSlowError:
                if not request.over.is_set():
                    self._in_flight.timeouts += 1
                    raise trio.TooSlowError(
                        f"no reply to a request in {attempts} attempts"
                    ) from self._in_flight.failure_during(request)
            finally:
                self._in_flight.remove(request)
        return self._in_flight.reply_to(request)

    async def _send_once(self, message: bytes) -> None:
        try:
            async with self._sending:
                await self._send(message)
        except OSError as error:
            if not is_unreachable(error):
                raise
            self._in_flight.note_failure(error)
        else:
            self._in_flight.sent += 1

    def statistics(self) -> ExchangeStatistics:
        """Return the exchange's counts, also after its end."""
        counts = self._in_flight
        return ExchangeStatistics(
            sent=counts.sent,
            replies=counts.replies,
            duplicates=counts.duplicates,
            strays=counts.strays,
            timeouts=counts.timeouts,
            in_flight=len(counts),
        )

    def __repr__(self) -> str:
        return f"<trio_dgram.Exchange with {len(self._in_flight)} requests in flight>"


@attrs.frozen
class _SocketChannel:
    """A connected socket as a channel of bytes."""

    socket: DatagramSocket
    peer: Any

    async def send(self, value: bytes) -> None:
        await self.socket.send(value)

    async def receive(self) -> bytes | None:
        """Return the next datagram; None for one of another peer than the first, after ``disconnect``."""
        data, address, _ = await self.socket.receive()
        return data if address == self.peer else None


@defer_interrupts
class _ExchangeManager(AbstractAsyncContextManager[Exchange, None]):
    """The block of :func:`open_exchange`."""

    def __init__(self, channel: trio.abc.Channel[bytes] | _SocketChannel, key: Key, max_in_flight: int) -> None:
        self._channel = channel
        self._in_flight = _InFlight(key)
        self._max_in_flight = max_in_flight
        # The requests of a block that is cleaning up, shielded from cancellation, still get their replies.
        self._reading = trio.CancelScope(shield=True)
        self._nursery_manager: Any
        self._nursery: trio.Nursery

    async def __aenter__(self) -> Exchange:
        await trio.lowlevel.checkpoint()
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        self._nursery.start_soon(self._read)
        return create(Exchange, self._channel.send, self._in_flight, self._max_in_flight)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._in_flight.end(trio.ClosedResourceError, "this exchange was closed: its block has ended")
        self._reading.cancel()
        if self._nursery.cancel_scope.cancel_called:
            # An interrupt in ``key`` ended the reader, so Trio has to see the exception of the body.
            await self._nursery_manager.__aexit__(exc_type, exc, traceback)
        else:
            # Without the exception of the body, which the nursery would wrap in a group.
            await self._nursery_manager.__aexit__(None, None, None)

    async def _read(self) -> None:
        with self._reading:
            try:
                while True:
                    await self._read_one()
            except trio.ClosedResourceError as error:
                self._in_flight.end(trio.ClosedResourceError, "the channel of this exchange was closed", error)
            except trio.EndOfChannel as error:
                self._in_flight.end(trio.BrokenResourceError, "the channel of this exchange has ended", error)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the waiting requests raise it
                reason = f"the channel of this exchange cannot receive any more: {error!r}"
                self._in_flight.end(trio.BrokenResourceError, reason, error)

    async def _read_one(self) -> None:
        try:
            data = await self._channel.receive()
        except OSError as error:
            if not isinstance(error, PeerUnreachable) and error.errno not in PENDING_ERRNOS:
                raise
            self._in_flight.note_failure(error)
            # A channel that raises without a checkpoint must not keep other tasks from running.
            await trio.lowlevel.checkpoint()
            return
        if data is None:
            self._in_flight.strays += 1
        else:
            self._in_flight.dispatch(data)


@trio.lowlevel.enable_ki_protection
def open_exchange(
    channel: trio.abc.Channel[bytes] | DatagramSocket, *, key: Callable[[bytes], Hashable], max_in_flight: int = 1024
) -> AbstractAsyncContextManager[Exchange, None]:
    """Open an exchange of requests and replies over a channel, for the block::

        async def identify(host: str) -> list[bytes]:
            async with (
                trio_dgram.open_connection(host, 41234) as channel,
                trio_dgram.open_exchange(channel, key=lambda data: data[:2]) as exchange,
            ):
                name = await exchange.request(b"01 name")
                return [name, await exchange.request(b"02 version", timeout=0.5, attempts=3)]

    While the block runs, a task of the exchange receives from the channel, and no other task may. Each datagram goes to
    the request in flight with the same key. The exchange does not close the channel.

    Args:
      channel: a ``trio.abc.Channel[bytes]`` such as :class:`DatagramChannel`, or a connected :class:`DatagramSocket`.
        The exchange calls its ``send`` from one task at a time.
      key: a function that returns the key of a request and of its reply, which must be equal and hashable: a DNS id, a
        CoAP token, a sequence number. It is called with every request and every received datagram; a received one for
        which it raises an ``Exception`` is a stray. It must not be equal for two requests whose replies may be
        confused: a key is free again as soon as its request has ended.
      max_in_flight: the largest number of requests in flight, from 1; more wait. Default: 1024.

    Raises:
      TypeError, ValueError: at once, if an argument is wrong.
      NotConnectedError: at once, if the socket is not connected.

    Entering the block is a checkpoint. At its end the requests of other tasks raise ``trio.ClosedResourceError``.
    """
    used: trio.abc.Channel[bytes] | _SocketChannel
    if isinstance(channel, DatagramSocket):
        try:
            used = _SocketChannel(channel, channel.remote_address)
        except NotConnectedError:
            raise NotConnectedError("open_exchange: the socket must be connected first") from None
    elif isinstance(channel, trio.abc.Channel):
        used = cast("trio.abc.Channel[bytes]", channel)
    else:
        raise TypeError(f"channel must be a trio.abc.Channel of bytes, not {describe_value(channel)}")
    check_function("key", key, "bytes")
    return _ExchangeManager(used, key, check_integer("max_in_flight", max_in_flight, 1, 2**31 - 1))
