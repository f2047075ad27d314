"""Socket groups: the datagrams of many sockets, received by one task.

To wake a task and to switch to it costs several times what a datagram does, so a task for each of a thousand sockets
spends most of its time on that. A group waits for all of its members at once, and reads those that are ready in passes.

Rule 1: what a member has received stays in its own inbox until the group returns it: the member counts it, discards it
    when it is closed, and receives it itself once it has left the group.
Rule 2: a pass is bounded in members and in time, and skips members whose datagrams were not returned yet; datagrams are
    returned one of each member in turn. So a flood on one member delays the others by a pass at most.
Rule 3: an error belongs to its member. The group raises what the member's own receive would raise, with the member.
"""

from __future__ import annotations

import select
from collections import deque
from contextlib import suppress
from time import perf_counter
from typing import Final

import trio
from trio.lowlevel import checkpoint_if_cancelled

from .._values.arguments import check_integer, describe_value
from .._values.datagrams import Datagram
from .._values.errors import with_context
from .budget import current_budget
from .datagram_socket import DatagramSocket
from .event_loop import require_trio
from .interrupts import defer_interrupts
from .lifetime import Lifetime

_MOST_EVENTS: Final = 64
"""How many members a pass reads at most. The kernel reports those that it did not report first the next time."""

_FALSE_WAKEUPS: Final = 2
"""After how many wake-ups in a row without a datagram a member's descriptor is checked."""

_READABLE: Final = 0x001
"""EPOLLIN: the module has no such name on other systems than Linux."""


@defer_interrupts
class _Member:
    """A socket in a group."""

    __slots__ = (
        "_group",
        "failed",
        "false_wakeups",
        "hidden",
        "inbox",
        "is_ready",
        "is_unread",
        "pending",
        "read",
        "scope",
        "socket",
    )

    def __init__(self, group: SocketGroup, socket: DatagramSocket) -> None:
        self._group = group
        self.socket = socket
        self.inbox = socket._inbox  # noqa: SLF001 -- of this layer
        self.pending = socket._pending  # noqa: SLF001 -- likewise
        # Which queues of the group it is in.
        self.is_ready = self.is_unread = self.failed = False
        # Whether it may have datagrams that its descriptor does not show.
        self.hidden = True
        self.false_wakeups = 0
        # Of the task that waits for it where no epoll can: its scope, and where it waits until all that was read ahead
        # was returned.
        self.scope: trio.CancelScope | None = None
        self.read: trio.lowlevel.ParkingLot | None = None

    def changed(self) -> None:
        """Read the inbox again: its datagrams were filtered, or its descriptor exchanged."""
        self._group._changed(self)  # noqa: SLF001 -- of this module

    def closed(self) -> None:
        """Leave the group."""
        self._group._remove(self)  # noqa: SLF001 -- of this module


def _check_type(socket: object) -> None:
    if not isinstance(socket, DatagramSocket):
        raise TypeError(f"socket must be a DatagramSocket, not {describe_value(socket)}")


@defer_interrupts
class SocketGroup(trio.abc.ReceiveChannel[tuple[DatagramSocket, Datagram]]):
    """Receives the datagrams of many sockets in one task::

        async with trio_dgram.open_nursery() as nursery, trio_dgram.SocketGroup() as group:
            for _ in range(100):
                socket = nursery.create_socket("udp4")
                await socket.bind(0, "127.0.0.1")
                group.add(socket)
            await socket.send(b"hello", socket.address)
            async for socket, datagram in group:
                print(datagram.data, "at", socket.address)
                nursery.cancel_scope.cancel()

    It costs a fraction of what a task for each socket does: the group waits for all of its members at once (epoll(7)).
    Where that is not possible, a task waits for each. The members stay open when the group is closed; one that is
    closed leaves the group. While a socket is a member, its own ``receive`` raises ``trio.BusyResourceError``; sending,
    options, statistics and events other than datagrams are as before.

    A flood on one member does not delay the others: datagrams are returned one of each member in turn.

    Raises:
      RuntimeError: outside a Trio run.
    """

    def __init__(self) -> None:
        require_trio()
        self._lifetime = Lifetime()
        self._budget = current_budget()
        self._members: dict[DatagramSocket, _Member] = {}
        # Those that the epoll watches, by descriptor.
        self._watched: dict[int, _Member] = {}
        self._epoll: select.epoll | None = None
        # Those with datagrams to return, to be read, and with an error to raise.
        self._ready: deque[_Member] = deque()
        self._unread: deque[_Member] = deque()
        self._failed: deque[_Member] = deque()
        self._receiving = False
        self._waiting: trio.CancelScope | None = None

    # Its members

    def add(self, socket: DatagramSocket) -> None:
        """Receive the datagrams of ``socket``, also those that it has queued. A member that is added again stays one.

        Args:
          socket: a bound socket of this Trio run.

        Raises:
          TypeError: if ``socket`` is not a :class:`DatagramSocket`.
          NotBoundError: if it is not bound.
          trio.BusyResourceError: if a task is receiving from it, an event channel takes its datagrams, or it is in
            another group.
          trio.ClosedResourceError: if the socket or the group is closed.
          OSError: if the system has no more descriptors (EMFILE) or watches (ENOSPC, epoll_ctl(2)).
        """
        _check_type(socket)
        self._check("SocketGroup.add")
        socket._association.check_bound("SocketGroup.add")  # noqa: SLF001 -- of this layer
        if socket in self._members:
            return
        member = _Member(self, socket)
        member.inbox.claim("group", member)
        try:
            self._watch(member)
        except OSError as error:
            member.inbox.release()
            raise with_context(error, "SocketGroup.add", None) from None
        self._members[socket] = member
        self._mark(member)

    def discard(self, socket: DatagramSocket) -> None:
        """Remove ``socket``, which may receive by itself again; do nothing if it is not a member.

        Datagrams that were read ahead, and an error that was not raised yet, stay with the socket.

        Raises:
          TypeError: if ``socket`` is not a :class:`DatagramSocket`.
          trio.ClosedResourceError: if the group is closed.
        """
        _check_type(socket)
        self._check("SocketGroup.discard")
        member = self._members.get(socket)
        if member is not None:
            self._remove(member)
            member.inbox.release()

    def __contains__(self, socket: object) -> bool:
        return socket in self._members

    # Receiving

    async def receive(self) -> tuple[DatagramSocket, Datagram]:
        """Wait for a datagram of any member and return it with the member.

        Raises:
          trio.BusyResourceError: if another task is receiving from the group.
          trio.ClosedResourceError: if the group is closed, also while this waits.
          OSError: what the ``receive`` of a member would raise, such as the ECONNREFUSED of a connected one, once,
            unless an event channel of that member takes :class:`Failure`. Its attribute ``socket`` is the member.
            Receiving may continue.

        Without members it waits until another task adds one. A cancelled call has consumed nothing. It is a
        cancellation point always, and yields to the scheduler unless fewer than 64 operations and less than 0.5 ms have
        passed since the last yield.
        """
        if self._ready and not self._receiving:
            budget = self._budget
            budget.left = left = budget.left - 1
            if left > 0 and perf_counter() < budget.deadline:
                await checkpoint_if_cancelled()
                return self._take()
        await self._wait()
        return self._take()

    # Not the base class's, which awaits receive(): that would be a coroutine more per datagram.
    __anext__ = receive

    async def receive_many(self, max_count: int = 1024) -> list[tuple[DatagramSocket, Datagram]]:
        """Wait for a datagram and return it with what else the members have queued, at most ``max_count``.

        Args:
          max_count: the largest number of datagrams, from 1. The rest stays for the next call. Default: 1024.

        Returns:
          At least one datagram, each with its socket. Reading ends after about 1 ms, so more may be queued.

        Raises as :meth:`receive` does. A cancelled call has consumed nothing.
        """
        wanted = check_integer("max_count", max_count, 1, 2**31 - 1)
        await self._wait()
        deadline = perf_counter() + self._budget.seconds
        taken = [self._take()]
        while len(taken) < wanted:
            if not self._ready:
                if perf_counter() < deadline:  # pragma: no branch -- 1 ms have passed on a busy machine only
                    self._read_members()
                if not self._ready:
                    break
            taken.append(self._take())
        return taken

    async def _wait(self) -> None:
        """Wait until a datagram is ready."""
        self._check("receive")
        if self._receiving:
            raise trio.BusyResourceError("this socket group is being read: another task is receiving")
        self._receiving = True
        try:
            await (self._budget.checkpoint() if self._ready else self._budget.renew())
            while True:
                self._check("receive")
                self._read_members()
                self._raise_due()
                if self._ready:
                    return
                if self._unread:
                    # Only filtered datagrams so far: other tasks must run before more of them are filtered.
                    await self._budget.renew()
                else:
                    await self._wait_readable()
        finally:
            self._receiving = False

    async def _wait_readable(self) -> None:
        """Wait until the kernel has a datagram or an error for a member, or :meth:`_wake` is called."""
        with trio.CancelScope() as scope:
            self._waiting = scope
            try:
                if self._epoll is None:
                    await trio.sleep_forever()
                else:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
            finally:
                self._waiting = None
        self._budget.restart()

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    def _take(self) -> tuple[DatagramSocket, Datagram]:
        """Return the next datagram: one of each member in turn."""
        ready = self._ready
        member = ready[0]
        queue = member.inbox.ready
        datagram = queue.popleft()
        if queue:
            ready.rotate(-1)
        else:
            ready.popleft()
            member.is_ready = False
            if member.hidden:
                self._mark(member)
            elif member.read is not None:
                member.read.unpark_all()
        return member.socket, datagram

    def _read_members(self) -> None:
        """Read a batch of each member that may have datagrams: of the next ones, for a bounded time."""
        if self._epoll is not None:
            for number, _ in self._epoll.poll(0, _MOST_EVENTS):
                member = self._watched.get(number)
                if member is None:
                    self._renew_epoll(self._epoll)
                    break
                self._mark(member)
        unread, deadline = self._unread, perf_counter() + self._budget.seconds
        while unread:
            member = unread.popleft()
            member.is_unread = False
            self._read(member)
            if perf_counter() >= deadline:
                break

    def _mark(self, member: _Member) -> None:
        """Read ``member`` in the next pass, unless its datagrams wait to be returned."""
        if not (member.is_ready or member.is_unread):
            member.is_unread = True
            self._unread.append(member)
            self._wake()

    def _read(self, member: _Member) -> None:
        inbox, pending = member.inbox, member.pending
        if inbox.pull():
            member.false_wakeups = 0
        elif member.false_wakeups < _FALSE_WAKEUPS:
            member.false_wakeups += 1
        else:
            try:
                inbox.check_open()
            except OSError as error:
                # Its descriptor would stay readable.
                self._unwatch(member)
                pending.due = error
        if member.hidden:
            member.hidden = inbox.hides_datagrams
        if inbox.ready:
            member.is_ready = True
            self._ready.append(member)
        elif member.hidden:
            self._mark(member)
        if pending.due is not None:
            pending.report_due()
            if pending.due is not None and not member.failed:
                member.failed = True
                self._failed.append(member)
        if member.read is not None and not member.is_ready:
            member.read.unpark_all()

    def _raise_due(self) -> None:
        """Raise the error of a member that is due, once."""
        while self._failed:
            member = self._failed.popleft()
            member.failed = False
            error, member.pending.due = member.pending.due, None
            if error is not None:
                vars(error).update(socket=member.socket)
                raise error

    # Waiting for a member

    def _watch(self, member: _Member) -> None:
        """Learn from now on when ``member`` is readable."""
        socket = member.socket
        if not socket._transport.is_pollable:  # noqa: SLF001 -- of this layer
            member.scope = trio.CancelScope(shield=True)
            member.read = trio.lowlevel.ParkingLot()
            socket._owner.start_background(self._wait_for, member, member.scope, member.read)  # noqa: SLF001 -- likewise
            return
        if self._epoll is None:
            self._epoll = select.epoll()
            # A task that receives waits without it.
            self._wake()
        number = socket.fileno()
        with suppress(FileExistsError):
            self._epoll.register(number, _READABLE)
        self._watched[number] = member

    def _unwatch(self, member: _Member) -> None:
        """End :meth:`_watch`."""
        if member.scope is not None:
            member.scope.cancel()
            return
        number = member.socket.fileno()
        # A forked child shares the epoll with its parent, which still watches the socket.
        if self._epoll is not None and self._watched.get(number) is member and not self._lifetime.inherited:
            del self._watched[number]
            # Something else may have closed the descriptor.
            with suppress(OSError):
                self._epoll.unregister(number)

    def _renew_epoll(self, former: select.epoll) -> None:
        """Watch the members by another epoll: ``former`` watches a socket that was exchanged, and then discarded."""
        trio.lowlevel.notify_closing(former.fileno())
        former.close()
        self._epoll = select.epoll()
        for number in self._watched:
            # Something else may have closed it.
            with suppress(OSError):
                self._epoll.register(number, _READABLE)

    async def _wait_for(self, member: _Member, scope: trio.CancelScope, read: trio.lowlevel.ParkingLot) -> None:
        """Report whenever ``member`` is readable, in a task of its own."""
        with scope, suppress(trio.ClosedResourceError):
            # Each of the two waits may have ended before the member left.
            while not scope.cancel_called:
                await member.inbox.wait_readable()
                if not scope.cancel_called:
                    self._mark(member)
                    await read.park()

    def _changed(self, member: _Member) -> None:
        """Read a member again whose inbox changed."""
        if member.is_ready:
            member.is_ready = False
            self._ready.remove(member)
        member.hidden = True
        if member.scope is None:
            self._watch(member)
        self._mark(member)

    def _remove(self, member: _Member) -> None:
        """Forget a member."""
        del self._members[member.socket]
        self._unwatch(member)
        for is_in, queue in (
            (member.is_ready, self._ready),
            (member.is_unread, self._unread),
            (member.failed, self._failed),
        ):
            if is_in:
                queue.remove(member)

    # Its lifetime

    def close(self) -> None:
        """Release the members, which stay open. A task that waits in ``receive`` gets ``trio.ClosedResourceError``.

        What was read ahead stays with its socket. Closing again does nothing.
        """
        self._lifetime.check_thread("SocketGroup.close")
        if self._lifetime.closed:
            return
        self._lifetime.closed = True
        for member in list(self._members.values()):
            self._remove(member)
            member.inbox.release()
        self._wake()
        if self._epoll is not None:
            if not self._lifetime.inherited:  # pragma: no branch -- coverage does not follow a forked child
                trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()

    async def aclose(self) -> None:
        """Close the group as :meth:`close` does, then execute a checkpoint; a cancelled call has closed it."""
        try:
            self.close()
        finally:
            await trio.lowlevel.checkpoint()

    def _check(self, operation: str) -> None:
        self._lifetime.check_thread(operation)
        if self._lifetime.closed:
            raise trio.ClosedResourceError("this socket group was closed")

    def __repr__(self) -> str:
        state = "closed" if self._lifetime.closed else f"{len(self._members)} sockets"
        return f"<trio_dgram.SocketGroup, {state}>"
