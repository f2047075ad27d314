"""The datagram socket: what the program calls, composed of the modules beside this one.

``inbox`` reads received datagrams ahead through the transport's hot calls. ``association`` selects the destination of a
sent one, and ``outbox`` passes it to the transport.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from time import perf_counter
from typing import Any, Self

import trio
from trio.lowlevel import checkpoint_if_cancelled

from .._codecs.families import AnyAddress, Destination, SocketType
from .._codecs.payloads import START, Payload, Run, check_datagrams, check_outgoing
from .._values.addresses import Address, UnixPath, format_address
from .._values.arguments import check_bool, check_integer
from .._values.block_lists import blocker
from .._values.construction import NoPublicConstructor
from .._values.datagrams import Datagram, PacketInfo
from .._values.errors import with_context
from .._values.events import Connected, Listening
from .association import Association
from .background_reader import BackgroundReader, SocketOwner
from .budget import current_budget
from .config import SocketConfig
from .creation import create_transport
from .event_hub import EventHub
from .inbox import Inbox
from .interrupts import defer_interrupts
from .iteration import parts_of
from .lifetime import Lifetime
from .outbox import NO_ROUTE, Outbox
from .pending_errors import PendingErrors
from .proxy import create_decoder
from .socket_events import SocketWithEvents


@defer_interrupts
class DatagramSocket(SocketWithEvents, trio.abc.Channel[Datagram], metaclass=NoPublicConstructor):
    """A datagram socket that lives in a nursery.

    :meth:`DatagramNursery.create_socket` and :func:`open_socket` create it. It is a channel of datagrams: ``receive``
    and ``async for`` return what arrives, ``send`` sends.

    Every async method is a cancellation point, every time. It also yields to the scheduler, unless fewer than 64 such
    operations and less than 0.5 ms have passed in this Trio run since the last yield. A closed socket raises
    ``trio.ClosedResourceError`` from every operation, also from those that wait when it is closed. A call in another
    thread than the Trio run's raises ``RuntimeError``.
    """

    __slots__ = ("__weakref__", "_config", "_keeps_open", "_owner", "_transport")

    _created_by = "open_socket() or DatagramNursery.create_socket()"

    def __init__(self, config: SocketConfig, owner: SocketOwner) -> None:
        self._config = config
        self._owner = owner
        self._keeps_open = True
        self._budget = budget = current_budget()
        self._lifetime = lifetime = Lifetime()
        self._transport = transport = create_transport(config, lifetime)
        self._descriptor = transport.descriptor
        self._hub = EventHub()
        self._pending = pending = PendingErrors(transport.descriptor, self._hub.report)
        self._proxy = proxy = create_decoder(config, pending.report)
        self._association = Association(transport, lifetime, config, self._on_bound, proxy)
        self._inbox = Inbox(transport, lifetime, budget, blocker(config.receive_block_list), pending, proxy)
        sent_blocked = blocker(config.send_block_list)
        self._outbox = Outbox(transport, lifetime, budget, self._association, sent_blocked, pending)
        self._reader = BackgroundReader(self._hub, self._inbox, pending, owner)
        if self._association.peer is not None:
            self._on_connected(self._association.peer)
        if self._association.bound:
            self._on_bound()

    # Its addresses

    async def bind(
        self,
        port: int | UnixPath | tuple[str | None, int] = 0,
        host: str | None = None,
        *,
        exclusive: bool = False,
    ) -> Address:
        """Bind the socket to a local address; from then on it receives.

        Args:
          port: the UDP port, 0 for an automatically chosen one; or a ``(host, port)`` tuple. For a ``"unix"`` socket
            its path or, with a leading null character, its abstract name, which Linux chooses by default. Default: 0.
          host: a local address, or a name that resolves to one; None or ``""`` for all interfaces.
          exclusive: whether the port must not be shared, neither by a reuse option nor between worker processes: a
            socket that was passed to this process is not taken. Default: False.

        Returns:
          The address that the socket is bound to.

        Raises:
          TypeError, ValueError: if an argument is wrong, or ``exclusive`` is combined with a reuse option.
          AlreadyBoundError: if the socket is bound or being bound.
          socket.gaierror: if the name does not resolve.
          OSError: the kernel's error, such as EADDRINUSE or EADDRNOTAVAIL (bind(2), ip(7)), with operation and address
            in its text. The socket is unbound then and ``bind`` may be called again.

        A checkpoint. A cancelled call has bound nothing; one that took effect returns. Closing the socket removes the
        file that binding to a path creates.
        """
        local = self._descriptor.family.check_local(port, host)
        if check_bool("exclusive", exclusive) and (self._config.reuse_address or self._config.reuse_port):
            raise ValueError("exclusive must not be combined with reuse_address or reuse_port")
        await self._association.bind(local, exclusive=exclusive)
        return self.address

    async def connect(self, to: AnyAddress) -> None:
        """Fix the peer: only its datagrams are received, and ``send`` needs no destination.

        Args:
          to: the ``(host, port)`` of the peer; the addresses of a name are tried in order, an empty host is loopback.
            For a ``"unix"`` socket the path of the peer's socket.

        Raises:
          TypeError, ValueError: if ``to`` is not such an address, or the socket has ``proxy_protocol``.
          AlreadyConnectedError: if the socket is connected or being connected.
          AddressBlockedError: if the peer is on the send block list.
          socket.gaierror: if the name does not resolve.
          OSError: the kernel's error, such as ENETUNREACH (connect(2)); for a name that of its first address. The
            socket stays as it was.

        An unbound socket is bound to an automatically chosen port first; on a custom socket factory with awaited calls
        it stays bound if it cannot be connected. Datagrams that others had sent before are filtered and counted. A
        checkpoint. A cancelled call has changed nothing; one that took effect returns.
        """
        peer = self._descriptor.family.check_address("to", to)
        if self._proxy is not None:
            raise ValueError("a socket with proxy_protocol cannot be connected: its peers are clients of proxies")
        try:
            await self._association.connect(peer, self._outbox.check_allowed)
        except OSError as error:
            self._outbox.explain_refusal(error, peer)
            raise
        self._on_connected(self._association.remote("connect"))

    def disconnect(self) -> None:
        """Dissolve the association with the peer and keep the local port: any source is received from again.

        Raises:
          NotConnectedError: if the socket is not connected.
          OSError: ENOTSUP where the system cannot disconnect.

        On a ``"unix"`` socket the kernel discards what is queued, so it is read ahead first, for at most about a
        millisecond: if the peer keeps sending, what is left in its send buffer is lost uncounted. An interface that
        ``device`` named and that has been removed is not set again.
        """
        self._association.remote("disconnect")
        if not self._descriptor.family.is_internet:
            self._inbox.empty_kernel()
        # The kernel would keep a pending error of the peer and raise it for the next one, or lose it with a socket that
        # it has to exchange.
        self._pending.drain_all()
        self._association.disconnect()
        self._pending.drain_all()
        self._pending.forget()
        self._inbox.disconnected()

    @property
    def address(self) -> Address:
        """The local address; :class:`NotBoundError` before ``bind``.

        On a connected socket it is the one address that the kernel uses towards the peer.
        """
        self._association.check_bound("address")
        return self._descriptor.local_address()

    @property
    def remote_address(self) -> Address:
        """The address of the peer; :class:`NotConnectedError` without one."""
        return self._association.remote("remote_address")

    # Sending

    async def send(
        self,
        value: Payload | Datagram,
        to: AnyAddress | None = None,
        *,
        offset: int = START,
        length: int | None = None,
    ) -> None:
        """Send one datagram; when this returns, the kernel has it.

        Args:
          value: the payload: bytes-like, text (sent as UTF-8), or a list or tuple of those, which are joined; or a
            :class:`Datagram`, which brings its own address and, if it has one, the :class:`PacketInfo` to send it
            with. Of a received PacketInfo only what a reply needs is sent.
          to: the destination ``(host, port)``; a name is resolved, an empty host is loopback. A path for a ``"unix"``
            socket. None on a connected socket and with a :class:`Datagram`.
          offset: where in the payload to begin, in bytes. Default: 0.
          length: how much of it to send, in bytes. Default: the rest.

        Raises:
          TypeError, ValueError: if an argument is wrong; nothing was done.
          NotConnectedError: without a destination on an unconnected socket, or on one that is disconnected while this
            waits.
          AlreadyConnectedError: with a destination other than the peer on a connected socket.
          AddressBlockedError: if the destination is on the send block list.
          socket.gaierror: if the name does not resolve, or the address is not one of the socket's family.
          OSError: the kernel's error for this datagram, such as EMSGSIZE (udp(7)), with the destination in its text. If
            the network chose the destination (the address of a received datagram), an error that this address causes
            is not raised: it is counted and reported as a :class:`Failure`.

        An unbound socket is bound to an automatically chosen port on all interfaces first. ENOBUFS is retried for at
        most 50 ms. A cancelled call has sent nothing.
        """
        destination: Destination | None = None
        payload: Any = value
        # The common case: bytes to a destination that route() knows, within the budget.
        if length is None and offset is START:
            if type(value) is bytes:
                destination = self._association.route(to)
            elif type(value) is Datagram and to is None:
                payload, address, info = value
                if type(payload) is bytes and address is not None:
                    association = self._association
                    destination = (
                        association.route(address) if info is None else association.route_with_info(address, info)
                    )
        if destination is not None:
            budget = self._budget
            budget.left = left = budget.left - 1
            if left <= 0 or perf_counter() >= budget.deadline:
                destination = None
        if destination is not None:
            await checkpoint_if_cancelled()
        else:
            payload, wanted, info, from_datagram = check_outgoing(self._descriptor.family, value, to, offset, length)
            self._association.check_destination(wanted, from_datagram=from_datagram)
            await self._budget.checkpoint()
            destination = self._association.resolve_bound(wanted, info, from_datagram=from_datagram)
            if destination is None:
                destinations = await self._association.resolve(wanted, info, from_datagram=from_datagram)
                await self._send_to_first(payload, destinations)
                return
        error = self._outbox.try_send(payload, destination)
        if error is None:
            self._outbox.sent += 1
        else:
            await self._outbox.recover(error, payload, destination)

    async def _send_to_first(self, payload: bytes, destinations: list[Destination]) -> None:
        """Send to the first of the addresses of a name that has a route."""
        # If none has a route, the error names the first address.
        destination, error = destinations[0], None
        for candidate in destinations:
            error = self._outbox.try_send(payload, candidate)
            if error is None or error.errno not in NO_ROUTE:
                destination = candidate
                break
        if error is None:
            self._outbox.sent += 1
        else:
            await self._outbox.recover(error, payload, destination)

    def send_nowait(self, value: Payload | Datagram, /, to: AnyAddress | None = None) -> None:
        """Send one datagram as :meth:`send` does, to a numeric destination and without waiting.

        Args:
          value: as for :meth:`send`.
          to: as for :meth:`send`, with a numeric host. Default: None.

        Raises:
          trio.WouldBlock: if the kernel's buffer is full, or a ``bind`` of this socket is in progress.
          ValueError: if the destination is a name.
          OSError: also ENOTSUP on a custom socket factory with awaited calls.

        The other errors are those of :meth:`send`.
        """
        payload, wanted, info, from_datagram = check_outgoing(self._descriptor.family, value, to)
        self._lifetime.check_thread("send_nowait")
        destination = self._association.resolve_now(wanted, info, from_datagram=from_datagram)
        error = self._outbox.try_send(payload, destination)
        if error is None:
            self._outbox.sent += 1
        else:
            self._outbox.recover_now(error, payload, destination)

    async def send_many(self, datagrams: Iterable[Datagram]) -> None:
        """Send each of ``datagrams``, in order, to its own address.

        Args:
          datagrams: the datagrams, all of which are checked before any is sent.

        Raises:
          TypeError, ValueError: if an item is not a datagram that can be sent; nothing was sent.
          SendManyError: if one fails as :meth:`send` would: its ``index`` is the position of that one, its ``sent`` the
            number of those sent before it. Those after it were not sent.
          NotConnectedError: if the socket is disconnected while this waits or yields.

        It checks for cancellation before the first datagram, and while it waits. A cancelled call has sent a prefix,
        counted in ``statistics().sent``.
        """
        # Each part is freed once it is sent, not all of them in the end.
        parts: deque[tuple[list[bytes], list[Run]]] = deque()
        done = 0
        for part in parts_of(datagrams, self._budget.seconds):
            parts.append(check_datagrams(self._descriptor.family, part, done))
            done += len(part)
            if not self._budget.spend():
                await self._budget.renew()
        self._lifetime.check("send_many")
        await self._budget.checkpoint()
        route, route_with_info, first, sent = self._association.route, self._association.route_with_info, 0, 0
        while parts:
            payloads, runs = parts.popleft()
            destinations: list[tuple[int, Destination]] = []
            for start, wanted, info in runs:
                destination = route(wanted) if info is None else route_with_info(wanted, info)
                # Equal addresses differ if the program chose one and the network the other.
                if destination is None or type(destination[0]) is not type(wanted):
                    destination = await self._destination(wanted, info)
                destinations.append((start, destination))
            sent = await self._outbox.send_many(payloads, destinations, first, sent)
            first += len(payloads)

    async def _destination(self, wanted: Address, info: PacketInfo | None) -> Destination:
        destination = self._association.resolve_bound(wanted, info, from_datagram=True)
        return destination or (await self._association.resolve(wanted, info, from_datagram=True))[0]

    # Receiving

    async def receive(self) -> Datagram:
        """Wait for the next datagram and return it. An empty datagram is data, not an end.

        Raises:
          NotBoundError: if the socket is not bound.
          trio.BusyResourceError: if another task is receiving, or an event channel takes its datagrams.
          OSError: on a connected socket the ICMP error of an earlier datagram, such as ECONNREFUSED, once, unless an
            event channel takes :class:`Failure`; receiving may continue. Never on an unconnected socket.

        A cancelled call has consumed nothing.
        """
        inbox = self._inbox
        if inbox.ready and inbox.reader is None and self._pending.due is None:
            budget = self._budget
            budget.left = left = budget.left - 1
            if left > 0 and perf_counter() < budget.deadline:
                await checkpoint_if_cancelled()
                return inbox.ready.popleft()
        await self._wait_for_datagrams()
        return inbox.ready.popleft()

    # Not the base class's, which awaits receive(): that would be a coroutine more per datagram. A socket never raises
    # EndOfChannel, which the base class translates.
    __anext__ = receive

    def receive_nowait(self) -> Datagram:
        """Return the next datagram without waiting.

        Raises:
          trio.WouldBlock: if none is queued.
          OSError: also ENOTSUP on a custom socket factory with awaited calls.

        The other errors are those of :meth:`receive`.
        """
        inbox = self._inbox
        self._transport.check_synchronous()
        self._association.check_bound("receive_nowait")
        inbox.claim("receive")
        inbox.release()
        inbox.raise_due()
        if not inbox.ready:
            inbox.pull()
            inbox.raise_due()
        if not inbox.ready:
            raise trio.WouldBlock
        return inbox.ready.popleft()

    async def receive_many(self, max_count: int = 1024) -> list[Datagram]:
        """Wait for a datagram and return it with what else is queued, at most ``max_count``.

        Args:
          max_count: the largest number of datagrams, from 1. The rest stays for the next call. Default: 1024.

        Returns:
          At least one datagram. Reading ends after about 1 ms of CPU time, and with the awaited sockets of a custom
          factory after one datagram, so more may be queued.

        Raises as :meth:`receive` does. A cancelled call has consumed nothing.
        """
        wanted = check_integer("max_count", max_count, 1, 2**31 - 1)
        await self._wait_for_datagrams(wanted)
        ready = self._inbox.ready
        if len(ready) <= wanted:
            taken = list(ready)
            ready.clear()
            return taken
        return [ready.popleft() for _ in range(wanted)]

    async def _wait_for_datagrams(self, wanted: int | None = None) -> None:
        self._association.check_bound("receive")
        self._inbox.claim("receive")
        try:
            await self._inbox.wait(wanted)
        finally:
            self._inbox.release()

    # Its lifetime

    def ref(self) -> Self:
        """Make the bound socket keep its nursery open, which is the default. Return the socket."""
        return self._set_keeps_open(keeps_open=True)

    def unref(self) -> Self:
        """Allow the nursery to end, and to close the socket, while it is bound. Return the socket."""
        return self._set_keeps_open(keeps_open=False)

    def close(self) -> None:
        """Close the socket at once. Its port is free, and every task that waits for it gets
        ``trio.ClosedResourceError``. Closing again does nothing.

        Raises:
          OSError: the kernel's error, such as EBADF if the descriptor was closed elsewhere. The socket is closed all
            the same.

        In a forked child of the process that created it, it closes the child's copy of the descriptor only.
        """
        self._lifetime.check_thread("close")
        if self._lifetime.closed:
            return
        self._lifetime.end()
        self._association.close()
        self._reader.stop()
        self._hub.end()
        self._inbox.discard()
        try:
            self._transport.close(notify=not self._lifetime.inherited)
        except OSError as error:
            raise with_context(error, "close", None) from None
        finally:
            self._owner.state_changed(self)

    async def aclose(self) -> None:
        """Close the socket as :meth:`close` does, then execute a checkpoint; a cancelled call has closed it."""
        try:
            self.close()
        finally:
            await trio.lowlevel.checkpoint()

    @property
    def closed(self) -> bool:
        """Whether the socket is closed."""
        return self._lifetime.closed

    @property
    def type(self) -> SocketType:
        """The type that it was created with: ``"udp4"``, ``"udp6"`` or ``"unix"``."""
        return self._descriptor.family.type

    def __repr__(self) -> str:
        parts = [f"trio_dgram.DatagramSocket {self.type}"]
        if self.closed:
            parts.append("closed")
        elif not self._association.bound:
            parts.append("unbound")
        else:
            with suppress(OSError):
                parts.append(f"bound to {format_address(self._descriptor.local_address())}")
            if self._association.peer is not None:
                parts.append(f"connected to {format_address(self._association.peer)}")
            if self._descriptor.passed is not None:
                parts.append("passed")
        return f"<{', '.join(parts)}>"

    @property
    def _keeps_nursery_open(self) -> bool:
        """Whether the nursery waits for this socket: it is bound, not closed, and not unref'd."""
        return self._keeps_open and self._association.bound and not self._lifetime.closed

    def _set_keeps_open(self, *, keeps_open: bool) -> Self:
        self._lifetime.check_thread("ref" if keeps_open else "unref")
        if not self._lifetime.closed:
            self._keeps_open = keeps_open
            self._owner.state_changed(self)
        return self

    def _on_bound(self) -> None:
        if self._descriptor.passed is not None:
            self._descriptor.passed.user = weakref.ref(self)
        self._hub.announce(Listening(self._descriptor.local_address()))
        self._reader.start()
        self._owner.state_changed(self)

    def _on_connected(self, peer: Address) -> None:
        self._pending.peer = peer
        self._inbox.connected(peer)
        self._hub.announce(Connected(peer))
