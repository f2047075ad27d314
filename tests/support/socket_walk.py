"""Steps over the states of several sockets, each compared with the model in ``socket_model.py``."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import (
    Address,
    Closed,
    Connected,
    Datagram,
    DatagramNursery,
    DatagramSocket,
    Event,
    EventChannel,
    Failure,
    Listening,
)

from .channel_model import ChannelModel
from .families import Family
from .socket_model import ErrorType, NetworkModel, SocketModel
from .walks import Call, Step, error_of_call, start_call

SOCKETS: Final = 3
UNUSED_PORT: Final = 9
KINDS: Final = (
    (),
    (Datagram,),
    (Datagram, Closed),
    (Failure,),
    (Listening, Connected, Closed),
)


@attrs.define(eq=False)
class _HeldLookup:
    """A lookup that the walk completes. The name identifies the call."""

    loopback: str
    answers: dict[str, trio.Event] = attrs.field(factory=dict)

    async def __call__(self, host: str, port: int, _family: socket.AddressFamily) -> Address:
        await self.answers.setdefault(host, trio.Event()).wait()
        return Address(self.loopback, port)

    def answer(self, host: str) -> None:
        self.answers.pop(host).set()


@attrs.define(eq=False)
class _Walker:
    """One socket, its model, and the calls that wait for it."""

    socket: DatagramSocket
    model: SocketModel
    lookup: _HeldLookup
    last_address: Address
    bind: Call | None = None
    connect: Call | None = None
    connects_to: Address | None = None
    receive: Call | None = None
    send: Call | None = None
    """A send that waits for the end of a bind."""
    sends: tuple[Address, bytes] | None = None
    channels: list[tuple[EventChannel[Event], ChannelModel]] = attrs.field(factory=list)
    failures: int = 0
    """How many Failure events there may be at most in each channel."""

    @property
    def waits_for_bind(self) -> bool:
        """Whether a send or a connect waits for the end of a bind: the order of two such calls is open."""
        connects = self.connect is not None and "connect.test" not in self.lookup.answers
        return self.model.binding and (self.send is not None or connects)


@attrs.define(eq=False)
class SocketWalk:
    """A walk over all that can be done with a few sockets, in every state."""

    family: Family
    walkers: list[_Walker] = attrs.field(factory=list)
    network: NetworkModel = attrs.field(factory=NetworkModel)
    payloads: int = 0
    cancelled: bool = False
    """Whether the step is taken in a cancelled scope."""
    sockets: DatagramNursery = attrs.field(init=False)
    tasks: trio.Nursery = attrs.field(init=False)

    async def walk(self, steps: Iterable[Step]) -> None:
        async with trio.open_nursery() as self.tasks, trio_dgram.open_nursery() as self.sockets:
            try:
                self.walkers = [self._new_walker() for _ in range(SOCKETS)]
                for name, *arguments in steps:
                    await getattr(self, name)(*arguments)
                    await self._check()
                await self._finish()
            except BaseException:
                # The sockets would keep the nursery open.
                self.sockets.cancel_scope.cancel()
                self.tasks.cancel_scope.cancel()
                raise
        for walker in self.walkers:
            assert walker.socket.closed
            if not walker.model.closed:
                walker.model.close()
            assert walker.socket.statistics().sent == walker.model.sent
            self._check_channels(walker)

    def _new_walker(self) -> _Walker:
        lookup = _HeldLookup(self.family.loopback)
        made = self.sockets.create_socket(self.family.type, lookup=lookup)
        model = SocketModel(self.family.loopback)
        self.network.sockets.append(model)
        return _Walker(made, model, lookup, Address(self.family.loopback, UNUSED_PORT))

    # Steps

    async def in_cancelled_scope(self, name: str, *arguments: Any) -> None:
        self.cancelled = True
        try:
            await getattr(self, name)(*arguments)
        finally:
            self.cancelled = False

    async def replace(self, who: int) -> None:
        """Make a new socket where this one is closed."""
        if self.walkers[who].model.closed:
            self._check_channels(self.walkers[who])
            self.network.sockets.remove(self.walkers[who].model)
            address = self.walkers[who].last_address
            self.walkers[who] = self._new_walker()
            self.walkers[who].last_address = address

    async def bind(self, who: int, *host: str) -> None:
        walker = self.walkers[who]
        call = await self._call(walker.model.bind_error, walker.socket.bind, 0, *host)
        if call is not None:
            address = call.result()
            assert address == walker.socket.address
            self._bound(walker, host[0] if host else self.family.wildcard)

    async def bind_to_used_port(self, who: int, other: int) -> None:
        walker, bound = self.walkers[who], self.walkers[other].model
        if bound.bound_to is not None and not bound.closed and bound is not walker.model and not self.cancelled:
            expected = walker.model.bind_error or OSError
            call = await self._call(expected, walker.socket.bind, bound.bound_to.port, self.family.loopback)
            assert call is None

    async def bind_by_name(self, who: int) -> None:
        walker = self.walkers[who]
        call = await self._call(walker.model.bind_error, walker.socket.bind, 0, "bind.test")
        if call is not None:
            assert not call.finished
            walker.bind, walker.model.binding = call, True

    async def connect(self, who: int, other: int) -> None:
        walker, to = self.walkers[who], self.walkers[other].last_address
        if walker.waits_for_bind:
            return
        call = await self._call(walker.model.connect_error, walker.socket.connect, to)
        if call is not None:
            walker.connects_to = to
            if walker.model.binding:
                assert not call.finished
                walker.connect, walker.model.connecting = call, True
            else:
                self._connected(walker, call)

    async def connect_by_name(self, who: int, other: int) -> None:
        walker, to = self.walkers[who], self.walkers[other].last_address
        call = await self._call(walker.model.connect_error, walker.socket.connect, ("connect.test", to.port))
        if call is not None:
            assert not call.finished
            walker.connect, walker.connects_to, walker.model.connecting = call, to, True

    async def answer_bind(self, who: int) -> None:
        walker = self.walkers[who]
        if walker.bind is not None:
            walker.lookup.answer("bind.test")
            await wait_all_tasks_blocked()
            walker.bind.result()
            walker.bind = None
            self._bound(walker, self.family.loopback)
            self._end_of_bind(walker)

    async def answer_connect(self, who: int) -> None:
        walker = self.walkers[who]
        if walker.connect is not None and "connect.test" in walker.lookup.answers and not walker.waits_for_bind:
            walker.lookup.answer("connect.test")
            await wait_all_tasks_blocked()
            if not walker.model.binding:
                self._connected(walker, walker.connect)

    async def cancel_bind(self, who: int) -> None:
        walker = self.walkers[who]
        if walker.bind is not None:
            del walker.lookup.answers["bind.test"]
            await walker.bind.cancel()
            walker.bind, walker.model.binding = None, False
            self._end_of_bind(walker)

    async def cancel_connect(self, who: int) -> None:
        walker = self.walkers[who]
        if walker.connect is not None:
            walker.lookup.answers.pop("connect.test", None)
            await walker.connect.cancel()
            walker.connect, walker.model.connecting = None, False

    async def cancel_receive(self, who: int) -> None:
        walker = self.walkers[who]
        if walker.receive is not None:
            await walker.receive.cancel()
            walker.receive, walker.model.receiving = None, False

    async def cancel_send(self, who: int) -> None:
        walker = self.walkers[who]
        if walker.send is not None:
            await walker.send.cancel()
            walker.send = None

    async def disconnect(self, who: int) -> None:
        walker = self.walkers[who]
        _, error = error_of_call(walker.socket.disconnect)
        self._check_error(error, walker.model.unconnected_error)
        if error is None:
            walker.model.disconnected()

    async def send(self, who: int, to: int | None, in_datagram: bool) -> None:
        walker = self.walkers[who]
        if walker.waits_for_bind:
            return
        address, data, arguments = self._outgoing(to, in_datagram=in_datagram)
        call = await self._call(
            walker.model.send_error(address, in_datagram=in_datagram), walker.socket.send, *arguments
        )
        if call is None:
            return
        if walker.model.binding:
            assert address is not None
            assert not call.finished
            walker.send, walker.sends = call, (address, data)
        else:
            call.result()
            self._sent(walker, address, data)

    async def send_nowait(self, who: int, to: int | None, in_datagram: bool) -> None:
        walker = self.walkers[who]
        address, data, arguments = self._outgoing(to, in_datagram=in_datagram)
        _, error = error_of_call(walker.socket.send_nowait, *arguments)
        expected = walker.model.send_error(address, in_datagram=in_datagram)
        self._check_error(error, expected or (trio.WouldBlock if walker.model.binding else None))
        if error is None:
            self._sent(walker, address, data)

    async def send_many(self, who: int, *to: int) -> None:
        walker = self.walkers[who]
        if walker.model.binding:
            return
        outgoing = [self._outgoing(each, in_datagram=True) for each in to]
        # The destinations are checked before anything is sent.
        errors = [walker.model.send_error(address, in_datagram=True) for address, _, _ in outgoing]
        expected = next(filter(None, errors), trio.ClosedResourceError if walker.model.closed else None)
        call = await self._call(expected, walker.socket.send_many, [arguments[0] for _, _, arguments in outgoing])
        if call is not None:
            call.result()
            for address, data, _ in outgoing:
                self._sent(walker, address, data)

    async def receive(self, who: int) -> None:
        walker = self.walkers[who]
        await self._receive(walker, walker.socket.receive)

    async def receive_many(self, who: int, count: int) -> None:
        walker = self.walkers[who]
        await self._receive(walker, walker.socket.receive_many, count)

    async def receive_nowait(self, who: int) -> None:
        walker, model = self.walkers[who], self.walkers[who].model
        datagram, error = error_of_call(walker.socket.receive_nowait)
        if isinstance(error, trio.WouldBlock) and model.receive_error is None:
            assert not model.has_datagrams, model.queue
            assert not model.refused
            return
        if isinstance(error, OSError):
            assert model.receive_error is None
            self._check_refusal(walker, error)
            return
        self._check_error(error, model.receive_error)
        if error is None:
            assert model.is_next(datagram), datagram

    async def read_everything(self, who: int) -> None:
        """Receive until a task has to wait: nothing is left then."""
        walker, model = self.walkers[who], self.walkers[who].model
        if model.receive_error is not None or self.cancelled:
            return
        while True:
            await self._receive(walker, walker.socket.receive)
            if walker.receive is not None:
                break
        await self.cancel_receive(who)
        assert walker.socket.statistics().filtered == model.filtered

    async def open_channel(self, who: int, kinds: int) -> None:
        walker, model = self.walkers[who], self.walkers[who].model
        types = frozenset(KINDS[kinds] or (Listening, Connected, Datagram, Failure, Closed))
        if Datagram in types:
            # What may be filtered or not is read by the walk.
            await self.read_everything(who)
        channel, error = error_of_call(walker.socket.events, *KINDS[kinds])
        self._check_error(error, model.events_error(types))
        if error is None:
            walker.channels.append((channel, model.open_channel(types)))
            await wait_all_tasks_blocked()
            model.read_for_channels()

    async def read_channels(self, who: int) -> None:
        await wait_all_tasks_blocked()
        self._check_channels(self.walkers[who])

    async def close_channel(self, who: int, which: int) -> None:
        walker = self.walkers[who]
        if walker.channels:
            channel, model = walker.channels.pop(which % len(walker.channels))
            channel.close()
            if model in walker.model.channels:
                walker.model.close_channel(model)
            _, error = error_of_call(channel.receive_nowait)
            self._check_error(error, trio.ClosedResourceError)

    async def ref(self, who: int) -> None:
        assert self.walkers[who].socket.ref() is self.walkers[who].socket
        if not self.walkers[who].model.closed:
            self.walkers[who].model.keeps_open = True

    async def unref(self, who: int) -> None:
        assert self.walkers[who].socket.unref() is self.walkers[who].socket
        if not self.walkers[who].model.closed:
            self.walkers[who].model.keeps_open = False

    async def close(self, who: int) -> None:
        self.walkers[who].socket.close()
        await self._closed(self.walkers[who])

    async def aclose(self, who: int) -> None:
        call = await start_call(self.tasks, self.walkers[who].socket.aclose, cancelled=self.cancelled)
        assert call.cancelled == self.cancelled
        await self._closed(self.walkers[who])

    # What steps share

    async def _call(self, expected: ErrorType, async_fn: Callable[..., Awaitable[Any]], *args: Any) -> Call | None:
        """Make a call and check that it raises what it must; return it where it takes effect."""
        call = await start_call(self.tasks, async_fn, *args, cancelled=self.cancelled)
        if self.cancelled:
            # The state may be checked before or after the cancellation.
            assert call.finished
            assert call.cancelled or (expected and type(call.error) is expected), call
            return None
        if expected is None:
            return call
        assert call.finished, f"it waits instead of raising {expected}"
        self._check_error(call.error, expected)
        return None

    def _check_error(self, error: Exception | None, expected: ErrorType) -> None:
        if type(error) is not (expected or type(None)):
            raise AssertionError(f"{error!r} instead of {expected}") from error
        if expected is OSError:
            assert isinstance(error, OSError)
            assert error.errno == errno.EADDRINUSE

    def _outgoing(self, to: int | None, *, in_datagram: bool) -> tuple[Address | None, bytes, tuple[Any, ...]]:
        """Return a destination, a new payload, and the arguments of a send."""
        self.payloads += 1
        data = str(self.payloads).encode()
        address = None if to is None else self.walkers[to].last_address
        if address is None:
            return None, data, (data,)
        return address, data, ((Datagram(data, address),) if in_datagram else (data, address))

    def _bound(self, walker: _Walker, host: str) -> None:
        """Note that the socket was bound to ``host`` and a port of the kernel's choice."""
        address = walker.socket.address
        assert address.host == host
        ports = [each.model.bound_to for each in self.walkers if not each.model.closed]
        assert address.port not in [0, *(bound.port for bound in ports if bound)]
        walker.model.bound(address)
        walker.last_address = walker.model.own_address

    def _sent(self, walker: _Walker, to: Address | None, data: bytes) -> None:
        self._bound_implicitly(walker)
        walker.failures += 1
        self.network.send(walker.model, to, data)

    def _bound_implicitly(self, walker: _Walker) -> None:
        if walker.model.bound_to is None:
            self._bound(walker, self.family.wildcard)

    def _connected(self, walker: _Walker, call: Call) -> None:
        call.result()
        assert walker.connects_to is not None
        if walker.model.bound_to is None:
            # It has the peer already, and with it the local address towards it.
            port = walker.socket.address.port
            walker.model.bound(Address(self.family.wildcard, port))
            walker.last_address = walker.model.own_address
        walker.model.connected(walker.connects_to)
        walker.connect = None

    def _end_of_bind(self, walker: _Walker) -> None:
        """Calls that waited for the end of a bind continue."""
        if walker.send is not None and walker.sends is not None:
            walker.send.result()
            self._sent(walker, *walker.sends)
            walker.send = None
        elif walker.connect is not None and "connect.test" not in walker.lookup.answers:
            self._connected(walker, walker.connect)

    async def _receive(self, walker: _Walker, async_fn: Callable[..., Awaitable[Any]], *args: Any) -> None:
        call = await self._call(walker.model.receive_error, async_fn, *args)
        if call is None:
            return
        walker.receive, walker.model.receiving = call, True
        self._check_receive(walker, *args)

    def _check_receive(self, walker: _Walker, most: int = 1) -> None:
        """Check what the waiting receive has got by now."""
        call, model = walker.receive, walker.model
        if call is None:
            return
        if not call.finished:
            assert not model.has_datagrams, model.queue
            assert not model.refused
            model.emptied()
            return
        walker.receive, model.receiving = None, False
        if isinstance(call.error, OSError):
            self._check_refusal(walker, call.error)
            return
        received = call.result()
        datagrams = received if isinstance(received, list) else [received]
        assert datagrams
        for datagram in datagrams:
            assert model.is_next(datagram), (datagram, model.queue)
        if isinstance(received, list) and len(datagrams) < most:
            assert not model.has_datagrams, model.queue

    def _check_refusal(self, walker: _Walker, error: OSError) -> None:
        assert error.errno == errno.ECONNREFUSED, error
        assert walker.model.raised_refusal(), error

    def _check_channels(self, walker: _Walker) -> None:
        """Check the events that wait in each channel."""
        for channel, model in walker.channels:
            failures = 0
            while True:
                event, error = error_of_call(channel.receive_nowait)
                if error is not None:
                    break
                if isinstance(event, Failure):
                    failures += 1
                    assert event.error.errno == errno.ECONNREFUSED
                else:
                    assert model.events, event
                    assert event == model.take()
            assert not model.events, model.events
            assert failures <= walker.failures
            self._check_error(error, trio.EndOfChannel if model.ended else trio.WouldBlock)

    async def _closed(self, walker: _Walker) -> None:
        """The socket was closed: all that waits for it ends."""
        await wait_all_tasks_blocked()
        if not walker.model.closed:
            walker.model.close()
        for call in (walker.bind, walker.connect, walker.receive, walker.send):
            if call is not None:
                assert call.finished
                self._check_error(call.error, trio.ClosedResourceError)
        walker.bind = walker.connect = walker.receive = walker.send = None
        walker.lookup.answers.clear()

    # What holds after every step

    async def _check(self) -> None:
        await wait_all_tasks_blocked()
        for walker in self.walkers:
            self._check_receive(walker)
            self._check_state(walker)
        keepers = [task for task in self.sockets.child_tasks if task.name.startswith("keeping nursery open")]
        assert len(keepers) == any(walker.model.keeps_nursery_open for walker in self.walkers)

    def _check_state(self, walker: _Walker) -> None:
        model, sock = walker.model, walker.socket
        assert sock.closed == model.closed
        assert sock.statistics().sent == model.sent
        address, error = error_of_call(getattr, sock, "address")
        self._check_error(error, model.unbound_error)
        peer, error = error_of_call(getattr, sock, "remote_address")
        self._check_error(error, model.unconnected_error)
        text = repr(sock)
        assert sock.type in text
        if model.closed:
            assert "closed" in text
            return
        assert (address, peer) == (model.address, model.peer)
        for each in (model.address, model.peer):
            assert each is None or _written(each) in text
        if model.listened_to:
            assert sock.statistics().filtered == model.filtered

    async def _finish(self) -> None:
        for who in range(SOCKETS):
            for cancel in (self.cancel_send, self.cancel_connect, self.cancel_bind, self.cancel_receive):
                await cancel(who)
            await self.read_everything(who)
            await self._check()
            if who % 2:
                await self.close(who)
            else:
                await self.unref(who)


def _written(address: Address) -> str:
    return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"
