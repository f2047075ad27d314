"""Socket groups: many sockets, received from by one task, on every transport and by both kinds of waiting."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import Datagram, DatagramNursery, DatagramSocket, EventChannel, Failure, NotBoundError, SocketGroup
from trio_dgram._socket import transport as _transport
from trio_dgram._socket.budget import current_budget
from trio_dgram.sim import cancel_everywhere

from .support.factories import run_on_awaited_sockets
from .support.families import Family
from .support.simulated import run_simulated

_RUNS: Final = {"factory": run_on_awaited_sockets, "simulation": run_simulated}
HAS_EPOLL: Final = hasattr(select, "epoll")


@pytest.fixture(autouse=True, params=["together", "by a task each", *_RUNS])
def waiting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the group waits for its members, or the transport that they have."""
    name: str = request.param
    if name == "by a task each":
        monkeypatch.setattr(_transport, "HAS_EPOLL", False)
    elif name == "together" and not HAS_EPOLL:
        pytest.skip("kernel: no epoll")  # pragma: no cover -- Linux has it
    elif name in _RUNS:
        # pytest-trio uses the first marker, so insert this one before that of trio_mode.
        request.node.add_marker(pytest.mark.trio(run=_RUNS[name]), append=False)
    return name


on_the_kernel = pytest.mark.parametrize("waiting", ["together", "by a task each"], indirect=True)
on_an_epoll = pytest.mark.parametrize("waiting", ["together"], indirect=True)
reading_ahead = pytest.mark.parametrize("waiting", ["together", "by a task each", "simulation"], indirect=True)


@pytest.fixture
async def nursery() -> AsyncGenerator[DatagramNursery]:
    async with trio_dgram.open_nursery() as opened:
        yield opened
        opened.cancel_scope.cancel()


class Sockets:
    """Bound sockets in a group, and one that sends to them."""

    def __init__(self, nursery: DatagramNursery, udp: Family, group: SocketGroup) -> None:
        self._nursery = nursery
        self._udp = udp
        self.group = group
        self.sender: DatagramSocket

    async def open(self, **options: Any) -> DatagramSocket:
        sock = self._nursery.create_socket(self._udp.type, **options)
        await sock.bind(0, self._udp.loopback)
        return sock

    async def add(self, count: int, **options: Any) -> list[DatagramSocket]:
        added = [await self.open(**options) for _ in range(count)]
        for sock in added:
            self.group.add(sock)
        return added

    async def send(self, sock: DatagramSocket, *payloads: bytes) -> None:
        """Send to a socket; all are queued there when this returns."""
        for payload in payloads:
            await self.sender.send(payload, sock.address)
        # A simulated datagram is on its way for a while.
        await wait_all_tasks_blocked()


@pytest.fixture
async def sockets(nursery: DatagramNursery, udp: Family) -> AsyncGenerator[Sockets]:
    async with SocketGroup() as group:
        made = Sockets(nursery, udp, group)
        made.sender = await made.open()
        yield made


async def received(group: SocketGroup, count: int) -> list[tuple[DatagramSocket, bytes]]:
    got = []
    with trio.fail_after(5):
        for _ in range(count):
            sock, datagram = await group.receive()
            got.append((sock, datagram.data))
    return got


@asynccontextmanager
async def waiting_for(group: SocketGroup, *expected: tuple[DatagramSocket, bytes]) -> AsyncGenerator[None]:
    """Have a task wait in a group before the block, and receive just what is expected before the end of it."""
    async with trio.open_nursery() as tasks:

        @tasks.start_soon
        async def receive() -> None:
            assert await received(group, len(expected)) == list(expected)

        await wait_all_tasks_blocked()
        yield


async def received_nothing(group: SocketGroup) -> None:
    with trio.move_on_after(0.001) as scope:
        await group.receive()
    assert scope.cancelled_caught


async def failure_of(failures: EventChannel[Failure], group: SocketGroup) -> int | None:
    """Return the errno of a member's failure while a task receives from its group."""
    async with trio.open_nursery() as tasks:
        tasks.start_soon(group.receive)
        with trio.fail_after(5):
            failure = await failures.receive()
        tasks.cancel_scope.cancel()
    return failure.error.errno


# What it returns


async def test_each_datagram_is_returned_with_the_member_that_received_it(sockets: Sockets) -> None:
    members = await sockets.add(5)
    for number, member in enumerate(members):
        await sockets.send(member, b"%d" % number)
    got = await received(sockets.group, 5)
    assert dict(got) == {member: b"%d" % number for number, member in enumerate(members)}
    await sockets.send(members[3], b"")
    sock, datagram = await anext(sockets.group)
    assert (sock, datagram.data, datagram.address) == (members[3], b"", sockets.sender.address)


async def test_a_waiting_group_returns_what_arrives_later(sockets: Sockets) -> None:
    members = await sockets.add(2)
    for member in (*members, *members):
        async with waiting_for(sockets.group, (member, b"x")):
            await sockets.send(member, b"x")


@reading_ahead
async def test_members_with_queued_datagrams_take_turns(sockets: Sockets) -> None:
    one, other = await sockets.add(2)
    await sockets.send(one, *[b"%d" % number for number in range(20)])
    assert await received(sockets.group, 1) == [(one, b"0")]
    await sockets.send(other, b"x", b"y")
    # All of one's batch is read ahead, and the other is read at the next yield.
    got = await received(sockets.group, 21)
    assert [data for sock, data in got if sock is one] == [b"%d" % number for number in range(1, 20)]
    assert [data for sock, data in got if sock is other] == [b"x", b"y"]


@reading_ahead
async def test_a_flood_on_one_member_does_not_starve_the_others(sockets: Sockets) -> None:
    flooded, quiet = await sockets.add(2)
    await sockets.send(flooded, *[b"flood"] * 100)
    await received(sockets.group, 50)
    await sockets.send(quiet, b"quiet")
    returned: list[DatagramSocket] = []
    while not returned or returned[-1] is not quiet:
        await sockets.send(flooded, b"flood")
        returned += [sock for sock, _ in await received(sockets.group, 1)]
    # What was read ahead of one, and what is handed out between two yields.
    assert len(returned) <= 128 + 64


async def received_at_once(sockets: Sockets, members: list[DatagramSocket]) -> int:
    """Send two datagrams to each member and return how many the first call returns: all, unless it takes over 1 ms."""
    for member in members:
        await sockets.send(member, b"1", b"2")
    first = total = len(await sockets.group.receive_many())
    while total < 2 * len(members):
        total += len(await sockets.group.receive_many())  # pragma: no cover -- only on a busy machine
    return first


async def test_receive_many_returns_what_every_member_has_queued(sockets: Sockets, waiting: str) -> None:
    members = await sockets.add(3)
    for member in members:
        await sockets.send(member, b"1", b"2")
    got: list[tuple[DatagramSocket, Datagram]] = []
    with trio.fail_after(5):
        while len(got) < 6:
            more = await sockets.group.receive_many(4)
            assert 1 <= len(more) <= 4
            got += more
    assert Counter(sock for sock, _ in got) == dict.fromkeys(members, 2)
    if waiting == "together":
        assert 6 in [await received_at_once(sockets, members) for _ in range(20)]


async def test_wrong_counts_are_rejected(sockets: Sockets) -> None:
    for wrong in (0, -1, "1", 1.0, None, True):
        with pytest.raises((TypeError, ValueError), match="max_count must be"):
            await sockets.group.receive_many(wrong)  # type: ignore[arg-type]


# Its members


async def test_a_member_can_be_added_while_a_task_waits(sockets: Sockets) -> None:
    for _ in range(2):
        late = await sockets.open()
        async with waiting_for(sockets.group, (late, b"x")):
            await sockets.send(late, b"x")
            sockets.group.add(late)
            sockets.group.add(late)
        assert late in sockets.group


async def test_a_new_members_queued_datagrams_are_returned_first(sockets: Sockets) -> None:
    sock = await sockets.open()
    await sockets.send(sock, b"1", b"2", b"3")
    assert (await sock.receive()).data == b"1"
    sockets.group.add(sock)
    assert await received(sockets.group, 2) == [(sock, b"2"), (sock, b"3")]


async def test_a_member_cannot_be_received_from_in_another_way(sockets: Sockets) -> None:
    (member,) = await sockets.add(1)
    for call in (member.receive, member.receive_many):
        with pytest.raises(trio.BusyResourceError, match="SocketGroup"):
            await call()
    with pytest.raises(trio.BusyResourceError, match="SocketGroup"):
        member.events(Datagram)
    async with SocketGroup() as second:
        with pytest.raises(trio.BusyResourceError, match="SocketGroup"):
            second.add(member)
    assert member in sockets.group


async def test_a_socket_that_is_received_from_cannot_be_added(sockets: Sockets) -> None:
    sock = await sockets.open()
    async with sock.events(Datagram):
        with pytest.raises(trio.BusyResourceError, match="event channels"):
            sockets.group.add(sock)
    async with trio.open_nursery() as tasks:
        tasks.start_soon(sock.receive)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="another task"):
            sockets.group.add(sock)
        await sockets.send(sock, b"x")


async def test_a_discarded_socket_receives_by_itself_again(sockets: Sockets) -> None:
    leaving, staying = await sockets.add(2)
    await sockets.send(leaving, b"1", b"2", b"3")
    assert await received(sockets.group, 1) == [(leaving, b"1")]
    sockets.group.discard(leaving)
    sockets.group.discard(leaving)
    assert leaving not in sockets.group
    with trio.fail_after(5):
        assert [(await leaving.receive()).data for _ in range(2)] == [b"2", b"3"]
    await sockets.send(leaving, b"4")
    await sockets.send(staying, b"x")
    assert await received(sockets.group, 1) == [(staying, b"x")]
    sockets.group.add(leaving)
    assert await received(sockets.group, 1) == [(leaving, b"4")]


async def test_a_socket_is_discarded_between_its_arrival_and_its_turn(sockets: Sockets) -> None:
    one, other = await sockets.add(2)
    current_budget().seconds = 0
    await sockets.send(one, b"1")
    await sockets.send(other, b"2")
    ((first, _),) = await received(sockets.group, 1)
    second = other if first is one else one
    # With no time for a pass it is marked to be read, but not yet read.
    sockets.group.discard(second)
    with trio.fail_after(5):
        assert (await second.receive()).data in (b"1", b"2")


@on_the_kernel
async def test_a_socket_that_is_discarded_when_its_datagram_has_just_arrived_receives_it(sockets: Sockets) -> None:
    sock = await sockets.open()
    returned = []

    async def receive() -> None:
        returned.append(await sockets.group.receive())

    # Trio runs the tasks of one turn in random order.
    for _ in range(10):
        sockets.group.add(sock)
        async with trio.open_nursery() as tasks:
            tasks.start_soon(receive)
            await wait_all_tasks_blocked()
            await sockets.sender.send(b"x", sock.address)
            await trio.lowlevel.checkpoint()
            if sock in sockets.group and not returned:
                sockets.group.discard(sock)
                await wait_all_tasks_blocked()
                assert not returned
                assert sock.receive_nowait().data == b"x"
            tasks.cancel_scope.cancel()
        sockets.group.discard(sock)
        returned.clear()


async def test_a_closed_member_leaves_and_counts_what_it_had_read_ahead(sockets: Sockets, waiting: str) -> None:
    closing, staying = await sockets.add(2)
    await sockets.send(closing, b"1", b"2", b"3", b"4")
    await received(sockets.group, 2)
    closing.close()
    assert closing not in sockets.group
    statistics = closing.statistics()
    assert statistics.received == 2 + statistics.discarded_at_close
    assert waiting == "factory" or statistics.discarded_at_close > 0
    await sockets.send(staying, b"x")
    assert await received(sockets.group, 1) == [(staying, b"x")]


async def test_a_member_that_is_closed_while_the_group_waits_leaves(sockets: Sockets) -> None:
    closing, staying = await sockets.add(2)
    async with waiting_for(sockets.group, (staying, b"x")):
        number = closing.fileno()
        closing.close()
        # Its number is used again.
        (again,) = await sockets.add(1)
        assert number >= 0
        await sockets.send(staying, b"x")
    await sockets.send(again, b"y")
    assert await received(sockets.group, 1) == [(again, b"y")]


async def test_the_nursery_of_a_member_ends_while_it_is_in_a_group(udp: Family) -> None:
    async with SocketGroup() as group:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            group.add(sock)
        assert sock not in group


async def test_what_cannot_be_a_member_is_rejected(sockets: Sockets, udp: Family, nursery: DatagramNursery) -> None:
    wrong: Any
    for wrong in (None, 3, "udp4", object(), []):
        for call in (sockets.group.add, sockets.group.discard):
            with pytest.raises(TypeError, match="socket must be a DatagramSocket, not"):
                call(wrong)
    unbound = nursery.create_socket(udp.type)
    with pytest.raises(NotBoundError, match=r"SocketGroup\.add"):
        sockets.group.add(unbound)
    unbound.close()
    with pytest.raises(trio.ClosedResourceError):
        sockets.group.add(unbound)
    sockets.group.discard(unbound)


async def test_without_descriptors_nothing_is_added(sockets: Sockets, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    sock = await sockets.open()
    with monkeypatch.context() as patched:
        patched.setattr(select, "epoll", refuse, raising=False)
        if sock._transport.is_pollable:
            with pytest.raises(OSError, match=r"^\[Errno \d+\] SocketGroup\.add: ") as refused:
                sockets.group.add(sock)
            assert refused.value.errno == errno.EMFILE
            assert sock not in sockets.group
    sockets.group.add(sock)
    await sockets.send(sock, b"x")
    assert await received(sockets.group, 1) == [(sock, b"x")]


# Connected members, filters and errors


@reading_ahead
async def test_connecting_a_member_filters_what_was_read_ahead(sockets: Sockets) -> None:
    (member,) = await sockets.add(1)
    peer = await sockets.open()
    await sockets.send(member, *[b"of another"] * 8)
    await received(sockets.group, 5)
    await peer.send(b"peer", member.address)
    await member.connect(peer.address)
    assert await received(sockets.group, 1) == [(member, b"peer")]
    assert member.statistics().filtered == 3
    member.disconnect()
    await sockets.send(member, b"anyone")
    assert await received(sockets.group, 1) == [(member, b"anyone")]


@reading_ahead
async def test_disconnecting_a_member_loses_no_datagram(sockets: Sockets) -> None:
    (member,) = await sockets.add(1)
    await member.connect(sockets.sender.address)
    async with waiting_for(sockets.group, (member, b"before"), (member, b"after")):
        await sockets.sender.send(b"before", member.address)
        member.disconnect()
        await sockets.send(member, b"after")


@on_the_kernel
async def test_a_discarded_socket_that_the_kernel_exchanged_does_not_wake_the_group(sockets: Sockets) -> None:
    leaving, staying = await sockets.add(2)
    await leaving.connect(sockets.sender.address)
    await received_nothing(sockets.group)
    await sockets.send(leaving, b"before")
    # On IPv6 its queue stays on a second descriptor.
    leaving.disconnect()
    sockets.group.discard(leaving)
    async with waiting_for(sockets.group, (staying, b"x")):
        await sockets.send(staying, b"x")
    with trio.fail_after(5):
        assert (await leaving.receive()).data == b"before"


@on_the_kernel
async def test_a_disconnected_unix_member_keeps_what_the_kernel_would_discard() -> None:
    async with (
        SocketGroup() as group,
        trio_dgram.open_socket("unix", port=0) as member,
        trio_dgram.open_socket("unix", port=0) as peer,
    ):
        await member.connect(peer.address)
        group.add(member)
        async with waiting_for(group, (member, b"before"), (member, b"after")):
            await peer.send(b"before", member.address)
            member.disconnect()
            await peer.send(b"after", member.address)


async def test_only_filtered_datagrams_let_other_tasks_run(sockets: Sockets, udp: Family) -> None:
    members = await sockets.add(3, receive_block_list=[udp.loopback])
    current_budget().seconds = 0
    for member in members:
        await sockets.send(member, b"blocked", b"blocked")
    with trio.fail_after(5):
        while sum(member.statistics().filtered for member in members) < 6:
            await received_nothing(sockets.group)


@on_the_kernel
async def test_an_icmp_error_of_a_connected_member_is_raised_once_with_the_member(sockets: Sockets) -> None:
    connected, other = await sockets.add(2)
    gone = await sockets.open()
    await connected.connect(gone.address)
    gone.close()
    await connected.send(b"x")
    with trio.fail_after(5), pytest.raises(ConnectionRefusedError) as refused:
        await sockets.group.receive()
    assert vars(refused.value)["socket"] is connected
    await sockets.send(other, b"x")
    assert await received(sockets.group, 1) == [(other, b"x")]
    assert connected.statistics().receive_errors == 1


@on_the_kernel
@pytest.mark.parametrize("then", ["discarded", "disconnected"])
async def test_an_error_that_was_not_raised_yet_stays_with_its_member(sockets: Sockets, then: str) -> None:
    members = await sockets.add(2)
    for member in members:
        gone = await sockets.open()
        await member.connect(gone.address)
        gone.close()
        await member.send(b"x")
    with trio.fail_after(5), pytest.raises(ConnectionRefusedError) as refused:
        await sockets.group.receive()
    (other,) = set(members) - {vars(refused.value)["socket"]}
    if then == "discarded":
        sockets.group.discard(other)
        with pytest.raises(ConnectionRefusedError):
            await other.receive()
    else:
        other.disconnect()
        await sockets.send(other, b"x")
        assert await received(sockets.group, 1) == [(other, b"x")]


@on_the_kernel
async def test_a_failure_channel_takes_the_errors_of_its_member(sockets: Sockets) -> None:
    connected, other = await sockets.add(2)
    gone = await sockets.open()
    await connected.connect(gone.address)
    gone.close()
    async with connected.events(Failure) as failures:
        await connected.send(b"x")
        await sockets.send(other, b"x")
        assert await received(sockets.group, 1) == [(other, b"x")]
        assert await failure_of(failures, sockets.group) == errno.ECONNREFUSED


@reading_ahead
async def test_many_datagrams_that_wait_to_be_filtered_again_are(sockets: Sockets) -> None:
    sock, peer = await sockets.open(), await sockets.open()
    async with sock.events(Datagram) as channel:
        await sockets.send(sock, *[b"of another"] * 150)
        await channel.receive()
    await sock.connect(peer.address)
    sockets.group.add(sock)
    await peer.send(b"peer", sock.address)
    assert await received(sockets.group, 1) == [(sock, b"peer")]
    assert sock.statistics().filtered == 149


@reading_ahead
async def test_what_an_event_channel_left_is_returned_without_another_arrival(sockets: Sockets) -> None:
    sock = await sockets.open()
    payloads = [b"%d" % number for number in range(200)]
    async with sock.events(Datagram) as channel:
        await sockets.send(sock, *payloads)
        await channel.receive()
    sockets.group.add(sock)
    assert await received(sockets.group, 199) == [(sock, payload) for payload in payloads[1:]]


@reading_ahead
async def test_the_queue_of_a_disconnected_socket_is_returned_without_another_arrival(sockets: Sockets) -> None:
    sock = await sockets.open()
    await sock.connect(sockets.sender.address)
    await sockets.send(sock, b"1", b"2", b"3")
    sock.disconnect()
    sockets.group.add(sock)
    assert await received(sockets.group, 3) == [(sock, b"1"), (sock, b"2"), (sock, b"3")]


@on_the_kernel
@pytest.mark.parametrize("watched", [False, True])
async def test_a_member_that_another_owner_has_shut_down_raises_once_and_does_not_spin(
    sockets: Sockets, watched: bool
) -> None:
    theirs = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    theirs.bind(("127.0.0.1", 0))
    theirs.connect(("127.0.0.1", 9))
    async with trio_dgram.open_nursery() as nursery:
        adopted = nursery.adopt_socket(theirs.dup())
        sockets.group.add(adopted)
        (other,) = await sockets.add(1)
        failures = adopted.events(Failure) if watched else None
        theirs.shutdown(socket.SHUT_RD)
        if failures is None:
            with trio.fail_after(5), pytest.raises(OSError, match="shutdown") as ended:
                await sockets.group.receive()
            assert ended.value.errno == errno.ESHUTDOWN
            assert vars(ended.value)["socket"] is adopted
        else:
            assert await failure_of(failures, sockets.group) == errno.ESHUTDOWN
        async with waiting_for(sockets.group, (other, b"x")):
            await sockets.send(other, b"x")
        adopted.close()
        assert adopted not in sockets.group
    theirs.close()


@on_the_kernel
async def test_a_closed_member_whose_queue_another_owner_shares_does_not_wake_the_group(sockets: Sockets) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
        theirs.bind(("127.0.0.1", 0))
        async with trio_dgram.open_nursery() as nursery:
            adopted = nursery.adopt_socket(theirs.dup())
            sockets.group.add(adopted)
            adopted.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", theirs.getsockname())
        async with trio.open_nursery() as tasks:
            tasks.start_soon(sockets.group.receive)
            with trio.fail_after(5):
                await wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()


# Its lifetime


async def test_closing_a_group_ends_its_receive_and_releases_its_members(sockets: Sockets) -> None:
    members = await sockets.add(2)
    async with trio.open_nursery() as tasks:

        @tasks.start_soon
        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError, match="group was closed"):
                await sockets.group.receive()

        await wait_all_tasks_blocked()
        assert repr(sockets.group) == "<trio_dgram.SocketGroup, 2 sockets>"
        sockets.group.close()
    sockets.group.close()
    await sockets.group.aclose()
    assert repr(sockets.group) == "<trio_dgram.SocketGroup, closed>"
    for call in (sockets.group.receive, sockets.group.receive_many):
        with pytest.raises(trio.ClosedResourceError, match="group was closed"):
            await call()
    for member in members:
        for change in (sockets.group.add, sockets.group.discard):
            with pytest.raises(trio.ClosedResourceError, match="group was closed"):
                change(member)
        await sockets.send(member, b"x")
        with trio.fail_after(5):
            assert (await member.receive()).data == b"x"


async def test_closing_an_empty_group_ends_its_receive() -> None:
    async with SocketGroup() as group, trio.open_nursery() as tasks:

        @tasks.start_soon
        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await group.receive()

        await wait_all_tasks_blocked()
        group.close()


async def test_a_second_receiving_task_raises_busy_resource_error(sockets: Sockets) -> None:
    (member,) = await sockets.add(1)
    async with trio.open_nursery() as tasks:
        tasks.start_soon(sockets.group.receive)
        await wait_all_tasks_blocked()
        for call in (sockets.group.receive, sockets.group.receive_many):
            with pytest.raises(trio.BusyResourceError, match="another task is receiving"):
                await call()
        await sockets.send(member, b"x")


async def test_calls_from_another_thread_are_refused(sockets: Sockets) -> None:
    (member,) = await sockets.add(1)
    for name, call in {
        "add": lambda: sockets.group.add(member),
        "discard": lambda: sockets.group.discard(member),
        "close": sockets.group.close,
    }.items():
        with pytest.raises(RuntimeError, match=rf"^SocketGroup\.{name} must run in the thread"):
            await trio.to_thread.run_sync(call)


@pytest.mark.parametrize("waiting", ["by a task each"], indirect=True)
def test_a_group_needs_a_trio_run() -> None:
    with pytest.raises(RuntimeError, match="trio_dgram needs a Trio event loop"):
        SocketGroup()


@on_an_epoll
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kernel: no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("closed", ["socket", "group"])
async def test_a_forked_child_that_closes_its_copy_does_not_change_the_parents_group(
    sockets: Sockets, closed: str
) -> None:
    (member,) = await sockets.add(1)
    child = os.fork()
    if not child:  # pragma: no cover -- it has no coverage of its own
        try:
            (member if closed == "socket" else sockets.group).close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)  # noqa: ASYNC222 -- it ends at once
    await sockets.send(member, b"x")
    assert await received(sockets.group, 1) == [(member, b"x")]


# The promises


@reading_ahead
async def test_a_cancelled_receive_has_consumed_nothing(sockets: Sockets) -> None:
    members = await sockets.add(2)
    payloads = [b"1", b"2", b"3"]
    got: list[tuple[DatagramSocket, bytes]] = []

    async def fill() -> None:
        got.clear()
        for member in members:
            await sockets.send(member, *payloads)

    async def scenario() -> None:
        for _ in range(3):
            sock, datagram = await sockets.group.receive()
            got.append((sock, datagram.data))
        for most in (2, 1):
            got.extend((sock, datagram.data) for sock, datagram in await sockets.group.receive_many(most))

    async def check(_: object) -> None:
        for member in members:
            sockets.group.discard(member)
            with suppress(trio.WouldBlock):
                while True:
                    got.append((member, member.receive_nowait().data))
            sockets.group.add(member)
            assert [data for sock, data in got if sock is member] == payloads
        await fill()

    await fill()
    assert await cancel_everywhere(scenario, check) >= 5


SENT: Final = 12


class Walk:
    """Random steps on a group, compared with a model: a queue for each socket."""

    def __init__(self, sockets: Sockets) -> None:
        self.sockets = sockets
        self.queues: dict[DatagramSocket, deque[bytes]] = {}
        self.members: set[DatagramSocket] = set()
        self.number = 0

    async def walk(self, random: Random, steps: int) -> None:
        for _ in range(steps):
            await random.choice(
                [self.open, self.send, self.send, self.receive, self.receive_many, self.move, self.end]
            )(random)
        for sock in list(self.queues):
            if sock not in self.members:
                self.sockets.group.add(sock)
                self.members.add(sock)
        while any(self.queues.values()):
            await self.receive(random)

    async def open(self, _: Random) -> None:
        if len(self.queues) < 6:
            self.queues[await self.sockets.open()] = deque()

    async def send(self, random: Random) -> None:
        if self.queues:
            sock = random.choice(list(self.queues))
            for _ in range(random.randrange(SENT)):
                self.number += 1
                self.queues[sock].append(b"%d" % self.number)
                await self.sockets.send(sock, b"%d" % self.number)

    async def receive(self, _: Random) -> None:
        if any(self.queues[member] for member in self.members):
            with trio.fail_after(5):
                self.take(*await self.sockets.group.receive())

    async def receive_many(self, random: Random) -> None:
        if any(self.queues[member] for member in self.members):
            most = random.randrange(1, 20)
            with trio.fail_after(5):
                got = await self.sockets.group.receive_many(most)
            assert 1 <= len(got) <= most
            for sock, datagram in got:
                self.take(sock, datagram)

    def take(self, sock: DatagramSocket, datagram: Datagram) -> None:
        assert sock in self.members
        assert datagram.data == self.queues[sock].popleft()

    async def move(self, random: Random) -> None:
        """Add a socket to the group, or discard it and receive from it."""
        if self.queues:
            sock = random.choice(list(self.queues))
            assert (sock in self.sockets.group) == (sock in self.members)
            if sock not in self.members:
                self.sockets.group.add(sock)
                self.members.add(sock)
                return
            self.sockets.group.discard(sock)
            self.members.remove(sock)
            if self.queues[sock]:
                assert (await sock.receive()).data == self.queues[sock].popleft()

    async def end(self, random: Random) -> None:
        if len(self.queues) > 4:
            sock = random.choice(list(self.queues))
            sock.close()
            self.members.discard(sock)
            del self.queues[sock]


@pytest.mark.parametrize("seed", range(4))
async def test_random_steps_agree_with_a_queue_for_each_socket(sockets: Sockets, seed: int) -> None:
    await Walk(sockets).walk(Random(seed), 60)
