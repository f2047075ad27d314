"""The datagram socket: its name and peer, sending and receiving, and what happens to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any, Self

import trio
from trio.lowlevel import checkpoint_if_cancelled

from .._codecs.families import AnyAddress, Destination
from .._codecs.payloads import Payload, check_datagrams, check_outgoing
from .._values.addresses import Address, UnixPath, written
from .._values.arguments import check_bool, check_integer
from .._values.block_lists import blocker
from .._values.datagrams import Datagram, PacketInfo
from .._values.errors import annotated
from .._values.events import Connected, Listening
from .association import Association
from .budget import current_budget
from .config import Creation
from .inbox import Inbox
from .lifetime import Lifetime
from .outbox import Outbox, explained
from .socket_events import SocketWithEvents
from .subscriptions import SocketOwner, Subscriptions
from .waiting import notify_closing

_START = 0  # the default offset, known again by its identity
_PEER = object()  # the destination where none is given
_NOBODY = object()  # a destination that none is
_PLAIN = frozenset({tuple, Address})  # the kinds of addresses that programs make


class DatagramSocket(SocketWithEvents, trio.abc.Channel[Datagram]):
    """A datagram socket that lives in a nursery.

    Made by :meth:`DatagramNursery.create_socket` or :func:`open_socket`. It is a channel of datagrams: what is
    sent to it is received by ``receive`` or an ``async for``, what is given to ``send`` goes out.

    Every async method is a cancellation point, every time; it also yields to the scheduler unless fewer than 64
    such calls and less than 0.5 ms have passed in this Trio run since one last did. Any operation on a closed
    socket, and any that waits when it is closed, raises ``trio.ClosedResourceError``.
    """

    __slots__ = ("__weakref__", "_answered", "_creation", "_direct", "_keeps_open", "_known", "_owner")

    def __init__(self, creation: Creation, owner: SocketOwner) -> None:
        self._creation = creation
        self._owner = owner
        self._keeps_open = True
        self._budget = current_budget()
        self._lifetime = Lifetime()
        self._kernel = creation.make()
        self._association = Association(self._kernel, self._lifetime, creation)
        self._subscriptions = Subscriptions(owner)
        report = self._subscriptions.report
        received_blocked = blocker(creation.receive_block_list)
        self._inbox = Inbox(self._kernel, self._lifetime, self._budget, received_blocked, report)
        sent_blocked = blocker(creation.send_block_list)
        self._outbox = Outbox(
            self._kernel, self._lifetime, self._budget, self._association, sent_blocked, self._inbox, report
        )
        # How a datagram can be handed over straight away, where nothing else is to be looked at; and to whom: a kind of
        # addresses, and one destination that is known again by its identity. See send.
        self._direct: Callable[[bytes, Any], object] | None = None
        self._answered: type[Address] | None = None
        self._known: object = _NOBODY
        if self._association.peer is not None:
            self._inbox.connected(self._association.peer)
        if self._association.bound:
            self._now_bound()

    # Its name

    async def bind(self, port: int | UnixPath = 0, host: str | None = None, *, exclusive: bool = False) -> Address:
        """Give the socket its local address; from now on it receives.

        Args:
          port: the UDP port, 0 for one of the kernel's choice. For a ``"unix"`` socket its path or, with a null
            character first, its abstract name; without one, Linux finds an abstract name.
          host: a local address, or a name that resolves to one; none or ``""`` for all interfaces.
          exclusive: never share the port, neither by a reuse option nor between worker processes.

        Returns:
          The address that it is bound to.

        Raises:
          TypeError, ValueError: if an argument is wrong, or ``exclusive`` goes with a reuse option.
          AlreadyBoundError: if the socket is bound or being bound.
          socket.gaierror: if the name does not resolve.
          OSError: what the kernel says, such as EADDRINUSE or EADDRNOTAVAIL (bind(2), ip(7)); it names the
            operation and the address. The socket is unbound then and ``bind`` may be tried again.

        A cancelled call has bound nothing; one that took effect returns. The file that binding to a path makes is
        removed when the socket is closed.
        """
        wanted = self._kernel.family.check_local(port, host)
        if check_bool("exclusive", exclusive) and (self._creation.reuse_address or self._creation.reuse_port):
            raise ValueError("exclusive must not be combined with reuse_address or reuse_port")
        with self._association.binding():
            await trio.lowlevel.checkpoint()
            address, sockaddr = await self._association.numeric(wanted)
            self._lifetime.check()
            await self._association.bind(address, sockaddr)
        self._now_bound()
        return self.address

    async def connect(self, to: AnyAddress) -> None:
        """Fix the peer: only its datagrams are received, and ``send`` needs no destination.

        Args:
          to: the peer's ``(host, port)``; a name is resolved, an empty host is loopback. The path of the peer's
            socket for a ``"unix"`` one.

        Raises:
          TypeError, ValueError: if ``to`` is no such thing.
          AlreadyConnectedError: if the socket is connected or being connected.
          AddressBlockedError: if the peer is on the send block list.
          socket.gaierror: if the name does not resolve.
          OSError: what the kernel says, such as ENETUNREACH (connect(2)); the socket stays as it was.

        An unbound socket is bound to an ephemeral port first; one of a custom socket factory whose calls can only be
        awaited stays so when it cannot be connected. What others had sent before is filtered, and
        counted. A cancelled call has changed nothing; one that took effect returns.
        """
        wanted = self._kernel.family.check_address("to", to)
        with self._association.connecting():
            await trio.lowlevel.checkpoint()
            address, sockaddr = await self._association.numeric(wanted)
            await self._association.end_of_binding()
            self._lifetime.check()
            try:
                self._outbox.check_allowed(address)
                if not self._association.bound:
                    # Bound by the kernel on the way, it would lose its port when it is disconnected.
                    self._association.probe(sockaddr)
                    await self._bind_implicitly()
                peer = await self._association.connect(sockaddr)
            except OSError as error:
                raise annotated(explained(error, address), "connect", address) from None
        self._choose_way()
        self._inbox.connected(peer)
        self._subscriptions.announce(Connected(peer))

    def disconnect(self) -> None:
        """Let the peer go, keeping the local port: anybody's datagrams are received again.

        Raises:
          NotConnectedError: if there is no peer.
          OSError: ENOTSUP where the platform cannot.
        """
        self._association.remote("disconnect")
        if not self._kernel.family.is_internet:
            # What is still queued then, Linux throws away.
            self._inbox.read_everything()
        self._association.disconnect()
        # The kernel would keep what ICMP said about the peer, and say it of the next one.
        self._inbox.take_errors()
        self._inbox.disconnected()
        self._choose_way()

    @property
    def address(self) -> Address:
        """The local address; :class:`NotBoundError` before ``bind``.

        On a connected socket the kernel names the one address that it uses towards the peer.
        """
        self._association.check_bound()
        return self._kernel.local_address()

    @property
    def remote_address(self) -> Address:
        """The peer's address; :class:`NotConnectedError` without one."""
        return self._association.remote("remote_address")

    # Sending

    async def send(
        self,
        value: Payload | Datagram,
        to: AnyAddress | None = None,
        *,
        offset: int = _START,
        length: int | None = None,
    ) -> None:
        """Send one datagram; when this returns, the kernel has it.

        Args:
          value: the payload: bytes-like, text (sent as UTF-8), or a list or tuple of those, which are joined to
            one datagram; or a :class:`Datagram`, which brings its own address, and the :class:`PacketInfo` to
            send it with if it has one: what a received one tells of its way here is not sent back.
          to: the destination ``(host, port)``; a name is resolved, an empty host is loopback. A path for a
            ``"unix"`` socket. None on a connected socket and with a :class:`Datagram`.
          offset: where in the payload to begin, in bytes.
          length: how much of it to send, in bytes; all the rest where it is None.

        Raises:
          TypeError, ValueError: if an argument is wrong; nothing happened then.
          NotConnectedError: without a destination on an unconnected socket, or on one that is disconnected while
            this waits for room.
          AlreadyConnectedError: with one, other than the peer's own, on a connected socket.
          AddressBlockedError: if the destination is on the send block list.
          socket.gaierror: if the name does not resolve, or no address of the socket's family is meant.
          OSError: what the kernel says against this datagram, such as EMSGSIZE (udp(7)), with the destination
            in its text. If the network chose the destination - it is the address of a received datagram - an
            error that it causes is not raised: it is counted and reported as a :class:`Failure`.

        An unbound socket is bound to an ephemeral port on all interfaces first. ENOBUFS is tried again for at
        most 50 ms. A cancelled call has sent nothing.
        """
        sendto = self._direct
        if sendto and length is None and offset is _START:
            data: object = value
            address: object = to
            info: PacketInfo | None = None
            if to is None:
                if type(value) is Datagram:
                    data, address, info = value
                else:
                    address = _PEER
            if type(data) is bytes and info is None and (type(address) is self._answered or address is self._known):
                budget = self._budget
                budget.left = left = budget.left - 1
                if left > 0 and perf_counter() < budget.deadline:
                    await checkpoint_if_cancelled()
                    try:
                        sendto(data, address)
                    except OSError as error:
                        await self._outbox.send(data, self._in_full(address), error)
                    else:
                        self._outbox.sent += 1
                    return
        payload, wanted, info, brought = check_outgoing(self._kernel.family, value, to, offset, length)
        self._association.check_destination(wanted, brought=brought)
        await self._budget.checkpoint()
        destination = await self._destination(wanted, info, brought=brought)
        # What the kernel takes as it is need not be looked at once more when it comes again. Noted at once, while the
        # socket is what it was when that was found.
        given = value.address if isinstance(value, Datagram) else to
        if type(given) in _PLAIN and given == destination[1]:
            self._known = given
        await self._outbox.send(payload, destination)

    def send_nowait(self, value: Payload | Datagram, /, to: AnyAddress | None = None) -> None:
        """Send one datagram as :meth:`send` does, to a numeric destination and at once, or not at all.

        Raises:
          trio.WouldBlock: if the kernel has no room now, or a ``bind`` of this socket is under way.
          ValueError: if the destination is a name.
          OSError: ENOTSUP on the sockets of a custom socket factory whose calls can only be awaited.
        """
        payload, wanted, info, brought = check_outgoing(self._kernel.family, value, to)
        self._association.check_synchronous()
        sockaddr = None
        if wanted is not None:
            wanted, sockaddr = self._association.locate(wanted)
            if sockaddr is None:
                raise ValueError(f"send_nowait takes numeric hosts, and {wanted.host!r} is a name: resolve it first")
        address = self._association.check_destination(wanted, brought=brought)
        if self._association.is_binding:
            raise trio.WouldBlock
        destination = self._association.destination(address, sockaddr, info)
        self._ensure_bound()
        self._outbox.send_nowait(payload, destination)

    async def send_many(self, datagrams: Iterable[Datagram]) -> None:
        """Send each of ``datagrams``, in order, to its own address.

        Args:
          datagrams: what to send; all of it is looked at before anything is sent.

        Raises:
          TypeError, ValueError: if an item is no datagram that can be sent; nothing was sent then.
          SendManyError: if one fails as :meth:`send` would: its ``index`` says which, its ``sent`` how many
            went before it. Those after it were not sent.
          NotConnectedError: if the socket is disconnected while this waits for room or lets other tasks run.

        It looks for cancellation before the first datagram and while it waits. A cancelled call has sent a
        prefix, counted in ``statistics().sent``.
        """
        payloads, runs = check_datagrams(self._kernel.family, datagrams)
        self._lifetime.check()
        await self._budget.checkpoint()
        destinations: list[tuple[int, Destination]] = []
        known: dict[Address, Destination] = {}
        for start, wanted, info in runs:
            destination = self._answers_go(wanted) or known.get(wanted)
            if destination is None or type(destination[0]) is not type(wanted):
                destination = known[wanted] = await self._destination(wanted, None, brought=True)
            if info is not None:
                destination = self._association.destination(destination[0], destination[1], info)
            destinations.append((start, destination))
        await self._outbox.send_many(payloads, destinations)

    # Receiving

    async def receive(self) -> Datagram:
        """Wait for the next datagram and return it. An empty one is data, not an end.

        Raises:
          NotBoundError: if the socket is not bound.
          trio.BusyResourceError: if another task is receiving, or an event channel takes its datagrams.
          OSError: on a connected socket what ICMP said about an earlier datagram, such as ECONNREFUSED, once,
            unless an event channel takes :class:`Failure`; receiving may go on. Nothing of the kind on an
            unconnected one.

        A cancelled call has consumed nothing.
        """
        inbox = self._inbox
        if inbox.ready and inbox.reader is None and inbox.error is None:
            budget = self._budget
            budget.left = left = budget.left - 1
            if left > 0 and perf_counter() < budget.deadline:
                await checkpoint_if_cancelled()
                return inbox.ready.popleft()
        await self._wait_for_datagrams()
        return inbox.ready.popleft()

    # Not by way of the base class's: one coroutine less per datagram. A socket never ends by itself, so there is
    # no EndOfChannel to be translated.
    __anext__ = receive

    def receive_nowait(self) -> Datagram:
        """Return the next datagram if there is one, else raise ``trio.WouldBlock``; otherwise like :meth:`receive`."""
        inbox = self._inbox
        self._association.check_synchronous()
        self._association.check_bound()
        inbox.claim("receive")
        inbox.release()
        inbox.raise_error()
        if not inbox.ready:
            inbox.pull()
            inbox.raise_error()
        if not inbox.ready:
            raise trio.WouldBlock
        return inbox.ready.popleft()

    async def receive_many(self, max_count: int = 1024) -> list[Datagram]:
        """Wait for a datagram and return it with what else is there, at most ``max_count`` in all.

        Args:
          max_count: how many datagrams at most, from 1; what is beyond stays for the next call. On the sockets of a
            custom socket factory whose calls can only be awaited it is one at a time.

        Raises as :meth:`receive` does. A cancelled call has consumed nothing.
        """
        check_integer("max_count", max_count, 1, 2**31 - 1)
        await self._wait_for_datagrams(max_count)
        ready = self._inbox.ready
        if len(ready) <= max_count:
            taken = list(ready)
            ready.clear()
            return taken
        return [ready.popleft() for _ in range(max_count)]

    # Its life

    def ref(self) -> Self:
        """Let the socket, while it is bound, keep its nursery open; it does unless :meth:`unref` was called."""
        return self._set_keeps_open(keeps_open=True)

    def unref(self) -> Self:
        """Let the nursery end without regard to this socket, and close it then."""
        return self._set_keeps_open(keeps_open=False)

    def close(self) -> None:
        """Close the socket at once. Its port is free, and every task that waits for it gets
        ``trio.ClosedResourceError``. Closing twice does nothing."""
        if self._lifetime.closed:
            return
        self._lifetime.end()
        self._direct = self._answered = None
        self._subscriptions.end()
        self._inbox.discard()
        notify_closing(self._kernel)
        self._kernel.close()
        self._owner.state_changed(self)

    async def aclose(self) -> None:
        """Close the socket as :meth:`close` does, then execute a checkpoint: closed also when cancelled."""
        self.close()
        await trio.lowlevel.checkpoint()

    @property
    def closed(self) -> bool:
        """Whether the socket is closed."""
        return self._lifetime.closed

    @property
    def keeps_nursery_open(self) -> bool:
        """Whether the nursery waits for this socket: it is bound, not closed, and not unref'd."""
        return self._keeps_open and self._association.bound and not self._lifetime.closed

    @property
    def type(self) -> str:
        """The type it was made with: ``"udp4"``, ``"udp6"`` or ``"unix"``."""
        return self._kernel.family.type

    def __repr__(self) -> str:
        parts = [f"trio_dgram.DatagramSocket {self.type}"]
        if self.closed:
            parts.append("closed")
        elif not self._association.bound:
            parts.append("unbound")
        else:
            parts.append(f"bound to {written(self._kernel.local_address())}")
            if self._association.peer is not None:
                parts.append(f"connected to {written(self._association.peer)}")
        return f"<{', '.join(parts)}>"

    # What the above share

    def _set_keeps_open(self, *, keeps_open: bool) -> Self:
        if not self._lifetime.closed:
            self._keeps_open = keeps_open
            self._owner.state_changed(self)
        return self

    def _ensure_bound(self) -> None:
        if not self._association.bound:
            self._association.bind_anywhere()
            self._now_bound()

    def _now_bound(self) -> None:
        self._choose_way()
        self._subscriptions.announce(Listening(self.address))
        self._subscriptions.read(self._inbox)
        self._owner.state_changed(self)

    def _choose_way(self) -> None:
        if not self._outbox.goes_straight:
            return
        if self._association.peer is None:
            self._direct, self._answered, self._known = self._kernel.sendto, self._kernel.family.sender, _NOBODY
        else:
            send = self._kernel.send
            self._direct, self._answered, self._known = (lambda data, _: send(data)), None, _PEER

    def _in_full(self, address: Any) -> Destination:
        """Return the destination in the form of the long way that went the short way as ``address``."""
        if address is _PEER:
            return self.remote_address, None, None
        return self._kernel.family.check_address("to", address), address, None

    async def _bind_implicitly(self) -> None:
        if self._association.bound:
            return
        if self._kernel.awaited is None:
            self._ensure_bound()
            return
        with self._association.binding():
            await self._association.bind(*self._association.anywhere)
        self._now_bound()

    def _answers_go(self, wanted: Address | None) -> Destination | None:
        """Return where what is for ``wanted`` goes if it is a sender that can be answered straight away."""
        if wanted is not None and type(wanted) is self._answered:
            return wanted, wanted, None
        return None

    async def _destination(self, wanted: Address | None, info: PacketInfo | None, *, brought: bool) -> Destination:
        """Resolve ``wanted`` and bind the socket, where that is to be done; return where to send."""
        straight = None if info is not None else self._answers_go(wanted)
        if straight is not None:
            return straight
        sockaddr = None
        if wanted is not None:
            wanted, sockaddr = await self._association.numeric(wanted)
        await self._association.end_of_binding()
        address = self._association.check_destination(wanted, brought=brought)
        destination = self._association.destination(address, sockaddr, info)
        await self._bind_implicitly()
        return destination

    async def _wait_for_datagrams(self, wanted: int | None = None) -> None:
        self._association.check_bound()
        self._inbox.claim("receive")
        try:
            await self._inbox.wait(wanted)
        finally:
            self._inbox.release()
