"""Sockets of a custom socket factory that offers Trio's socket interface only: their behaviour and their limits.

The behaviour that they share with the kernel's sockets is in the conformance suite, which runs on both.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import Address, Datagram, DatagramNursery, DatagramSocket, Failure, Listening, PacketInfo
from trio_dgram.sim import cancel_everywhere

from .support.descriptors import same_descriptors
from .support.factories import AwaitedSockets, awaited_sockets
from .support.families import Family


@pytest.fixture
async def sockets() -> AsyncGenerator[AwaitedSockets]:
    """A custom factory that creates every socket of the test."""
    with awaited_sockets() as made:
        yield made


@pytest.fixture
async def nursery(sockets: AwaitedSockets) -> AsyncGenerator[DatagramNursery]:
    async with trio_dgram.open_nursery() as opened:
        yield opened
        opened.cancel_scope.cancel()


async def bound(nursery: DatagramNursery, udp: Family, **options: Any) -> DatagramSocket:
    sock = nursery.create_socket(udp.type, **options)
    await sock.bind(0, udp.loopback)
    return sock


def awaited(sock: DatagramSocket) -> Any:
    """Return the socket of the factory that ``sock`` runs on."""
    transport: Any = sock._transport
    return transport._awaited


# Autobind


async def test_concurrent_sends_autobind_once(udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery) -> None:
    receiver = await bound(nursery, udp)
    sender = nursery.create_socket(udp.type)
    listening = sender.events(Listening)
    sockets.faults.calls.clear()
    async with trio.open_nursery() as senders:
        for number in range(10):
            senders.start_soon(sender.send, bytes([number]), receiver.address)
        received = [await receiver.receive() for _ in range(10)]
    assert sockets.faults.calls["bind"] == 1
    assert {datagram.data[0] for datagram in received} == set(range(10))
    assert {datagram.address.port for datagram in received} == {sender.address.port}
    sender.close()
    assert len([event async for event in listening]) == 1


async def test_a_waiting_send_autobinds_after_another_ones_bind_failed_or_was_cancelled(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery
) -> None:
    receiver = await bound(nursery, udp)
    sender = nursery.create_socket(udp.type)
    held = sockets.hold("bind")
    first = trio.CancelScope()

    async def cancelled() -> None:
        with first:
            await sender.send(b"cancelled", receiver.address)

    refused = []

    async def send(data: bytes) -> None:
        try:
            await sender.send(data, receiver.address)
        except OSError as error:
            refused.append((data, error.errno))

    async with trio.open_nursery() as senders:
        senders.start_soon(cancelled)
        await held.reached.wait()
        senders.start_soon(send, b"1")
        senders.start_soon(send, b"2")
        await wait_all_tasks_blocked()
        sockets.faults.set("bind", errno.EADDRINUSE)
        first.cancel()
        held.let_go.set()
    # Trio chooses the order of the two tasks.
    ((data, number),) = refused
    assert number == errno.EADDRINUSE
    assert {(await receiver.receive()).data, data} == {b"1", b"2"}


# Receiving


async def test_datagrams_are_received_one_by_one_and_none_is_read_ahead(udp: Family, nursery: DatagramNursery) -> None:
    sock = await bound(nursery, udp)
    await sock.send_many([Datagram(bytes([number]), sock.address) for number in range(4)])
    assert (await sock.receive()).data == b"\0"
    assert [datagram.data for datagram in await sock.receive_many()] == [b"\1"]
    assert [datagram.data async for datagram in two(sock)] == [b"\2", b"\3"]
    await sock.send(b"left", sock.address)
    sock.close()
    statistics = sock.statistics()
    assert (statistics.sent, statistics.received, statistics.discarded_at_close) == (5, 4, 0)


async def two(sock: DatagramSocket) -> AsyncGenerator[Datagram]:
    for _ in range(2):
        yield await anext(sock)


async def test_a_closed_event_channel_returns_undelivered_datagrams_to_receive(
    udp: Family, nursery: DatagramNursery
) -> None:
    sock = await bound(nursery, udp)
    async with sock.events(Datagram) as events:
        await sock.send_many([Datagram(bytes([number]), sock.address) for number in range(3)])
        assert (await events.receive()).data == b"\0"
        await wait_all_tasks_blocked()
    assert [(await sock.receive()).data for _ in range(2)] == [b"\1", b"\2"]


async def test_a_datagram_in_flight_to_a_closed_channel_is_received(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery
) -> None:
    sock = await bound(nursery, udp)
    held = sockets.hold_answers("recvfrom")
    async with sock.events(Datagram):
        await sock.send(b"in flight", sock.address)
        await held.reached.wait()
    async with trio.open_nursery() as receiving:

        async def receive() -> None:
            assert (await sock.receive()).data == b"in flight"

        receiving.start_soon(receive)
        await wait_all_tasks_blocked()
        held.let_go.set()


async def test_datagrams_from_blocked_sources_are_filtered_and_counted(udp: Family, nursery: DatagramNursery) -> None:
    sock = await bound(nursery, udp, receive_block_list=[udp.loopback])
    async with trio.open_nursery() as receiving:
        receiving.start_soon(sock.receive)
        await sock.send(b"x", sock.address)
        await wait_all_tasks_blocked()
        assert sock.statistics().filtered == sock.statistics().received == 1
        receiving.cancel_scope.cancel()


# Closing


async def connected_send(sock: DatagramSocket, udp: Family) -> None:
    await sock.connect((udp.loopback, 9))
    await sock.send(b"x")


CALLS: dict[str, tuple[str, Callable[[DatagramSocket, Family], Awaitable[object]]]] = {
    "bind": ("bind", lambda sock, udp: sock.bind(0, udp.loopback)),
    "send that binds": ("bind", lambda sock, udp: sock.send(b"x", (udp.loopback, 9))),
    "send": ("sendto", lambda sock, udp: sock.send(b"x", (udp.loopback, 9))),
    "send_many": ("sendto", lambda sock, udp: sock.send_many([Datagram(b"x", Address(udp.loopback, 9))])),
    "connect": ("connect", lambda sock, udp: sock.connect((udp.loopback, 9))),
    "send to the peer": ("send", connected_send),
}


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(("held", "call"), CALLS.values(), ids=CALLS)
async def test_closing_ends_waiting_calls(
    udp: Family,
    sockets: AwaitedSockets,
    held: str,
    call: Callable[[DatagramSocket, Family], Awaitable[object]],
    done: bool,
) -> None:
    holding = sockets.hold_answers(held) if done else sockets.hold(held)
    with same_descriptors():
        async with trio_dgram.open_socket(udp.type) as sock, trio.open_nursery() as waiting:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await call(sock, udp)

            waiting.start_soon(wait)
            await holding.reached.wait()
            sock.close()
            holding.let_go.set()


@pytest.mark.parametrize(("held", "call"), CALLS.values(), ids=CALLS)
async def test_a_call_that_meets_ebadf_after_closing_raises_closed_resource_error(
    udp: Family,
    sockets: AwaitedSockets,
    held: str,
    call: Callable[[DatagramSocket, Family], Awaitable[object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:

        def answer(operation: str) -> None:
            if operation == held:
                sock.close()
                raise OSError(errno.EBADF, "gone")

        monkeypatch.setattr(type(sockets.faults), "answer", lambda _, operation: answer(operation))
        with pytest.raises(trio.ClosedResourceError):
            await call(sock, udp)
        assert sock.statistics().sent == 0


@pytest.mark.parametrize("many", [False, True])
async def test_closing_ends_a_receive_and_counts_its_datagram_as_discarded(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery, many: bool
) -> None:
    sock = await bound(nursery, udp)
    held = sockets.hold_answers("recvfrom")
    async with trio.open_nursery() as waiting:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await (sock.receive_many() if many else sock.receive())

        waiting.start_soon(wait)
        await sock.send(b"x", sock.address)
        await held.reached.wait()
        sock.close()
        held.let_go.set()
    statistics = sock.statistics()
    assert (statistics.received, statistics.discarded_at_close, statistics.receive_errors) == (1, 1, 0)


async def test_closing_during_a_background_read_ends_the_channel(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery
) -> None:
    sock = await bound(nursery, udp)
    held = sockets.hold_answers("recvfrom")
    events = sock.events(Datagram)
    await sock.send(b"x", sock.address)
    await held.reached.wait()
    sock.close()
    held.let_go.set()
    assert [event async for event in events] == []
    await wait_all_tasks_blocked()
    assert sock.statistics().discarded_at_close == 1


async def test_a_receive_that_meets_ebadf_after_closing_counts_no_error(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock = await bound(nursery, udp)

    def answer(_: object, operation: str) -> None:
        if operation == "recvfrom":
            sock.close()
            raise OSError(errno.EBADF, "gone")

    monkeypatch.setattr(type(sockets.faults), "answer", answer)
    with pytest.raises(trio.ClosedResourceError):
        await sock.receive()
    assert sock.statistics().receive_errors == 0


# Cancellation


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("many", [False, True])
async def test_a_cancelled_send_has_sent_what_it_counted(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery, connected: bool, many: bool
) -> None:
    receiver = await bound(nursery, udp)
    to, counted = receiver.address, 0

    async def scenario() -> bool:
        nonlocal counted
        counted = 0
        async with trio_dgram.open_socket(udp.type) as sender:
            try:
                if connected:
                    await sender.connect(to)
                # The first send reports a pending error.
                sockets.faults.plan.clear()
                sockets.faults.set("send" if connected else "sendto", errno.ECONNREFUSED)
                if many:
                    await sender.send_many([Datagram(bytes([number]), to) for number in range(3)])
                else:
                    await sender.send(b"\0", None if connected else to)
            finally:
                counted = sender.statistics().sent
        return True

    async def check(returned: bool | None) -> None:
        for number in range(counted):
            assert (await receiver.receive()).data == bytes([number])
        assert counted == (3 if many else 1) or not returned

    assert await cancel_everywhere(scenario, check) >= 10
    sockets.faults.plan.clear()


TAKES: dict[str, Callable[[DatagramSocket], Awaitable[object]]] = {
    "receive": lambda sock: sock.receive(),
    "receive_many": lambda sock: sock.receive_many(),
    "anext": anext,
}


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
async def test_a_cancelled_receive_has_consumed_nothing(
    udp: Family, nursery: DatagramNursery, take: Callable[[DatagramSocket], Awaitable[Any]], waits: bool
) -> None:
    sender, sock = await bound(nursery, udp), await bound(nursery, udp)

    async def scenario() -> object:
        if not waits:
            return await take(sock)
        taken = []
        async with trio.open_nursery() as sending:
            sending.start_soon(sender.send, b"x", sock.address)
            taken.append(await take(sock))
        return taken

    async def check(taken: object) -> None:
        received = sock.statistics().received - (taken is not None)
        await sender.send(b"end", sock.address)
        while (await sock.receive()).data != b"end":
            pass
        assert sock.statistics().received == sender.statistics().sent
        assert received <= sender.statistics().sent
        if not waits:
            await sender.send(b"x", sock.address)

    if not waits:
        await sender.send(b"x", sock.address)
    assert await cancel_everywhere(scenario, check) >= 2


@pytest.mark.parametrize("bound_before", [False, True])
async def test_a_cancelled_bind_or_connect_has_changed_nothing_and_a_completed_one_returns(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery, bound_before: bool
) -> None:
    peer = await bound(nursery, udp)

    async def scenario() -> None:
        async with trio_dgram.open_socket(udp.type) as sock:
            returned = False
            try:
                if bound_before:
                    await sock.bind(0, udp.loopback)
                    returned = True
            finally:
                assert returned == ("unbound" not in repr(sock))
            returned = False
            try:
                await sock.connect(peer.address)
                returned = True
            finally:
                assert returned == ("connected" in repr(sock))
                # The cancelled connect has not closed it.
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_DGRAM

    assert await cancel_everywhere(scenario) >= 4


# Errors


async def test_a_pending_error_is_raised_by_the_next_receive_and_not_by_send(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery
) -> None:
    sock = await bound(nursery, udp)
    await sock.connect(sock.address)
    sockets.faults.set("send", errno.ECONNREFUSED, None)
    await sock.send(b"x")
    assert sock.statistics().sent == 1
    with pytest.raises(ConnectionRefusedError, match="receive"):
        await sock.receive()
    assert (await sock.receive()).data == b"x"
    sockets.faults.set("recvfrom", errno.ECONNREFUSED)
    with pytest.raises(ConnectionRefusedError, match="receive"):
        await sock.receive()
    assert (sock.statistics().receive_errors, sock.statistics().send_errors) == (2, 0)


async def test_open_failure_channels_receive_pending_errors_instead(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery
) -> None:
    sock = await bound(nursery, udp)
    await sock.connect(sock.address)
    failures = sock.events(Failure)
    sockets.faults.set("send", errno.EHOSTUNREACH)
    sockets.faults.set("recvfrom", errno.ECONNREFUSED)
    await sock.send(b"x")
    assert (await sock.receive()).data == b"x"
    reported = [(await failures.receive()).error.errno for _ in range(2)]
    assert reported == [errno.EHOSTUNREACH, errno.ECONNREFUSED]


async def test_an_unconnected_socket_counts_pending_errors_and_keeps_receiving(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery
) -> None:
    sock = await bound(nursery, udp)
    sockets.faults.set("recvfrom", errno.ECONNREFUSED, errno.ECONNRESET)
    await sock.send(b"x", sock.address)
    assert (await sock.receive()).data == b"x"
    assert sock.statistics().receive_errors == 2
    sockets.faults.set("recvfrom", errno.EIO)
    with pytest.raises(OSError, match="receive"):
        await sock.receive()


async def test_an_error_due_to_the_next_receive_does_not_affect_channels(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery
) -> None:
    sock = await bound(nursery, udp)
    sockets.faults.set("recvfrom", errno.EIO)
    async with sock.events(Datagram) as events:
        await wait_all_tasks_blocked()
        await sock.send(b"x", sock.address)
        assert (await events.receive()).data == b"x"
    with pytest.raises(OSError, match="receive"):
        await sock.receive()


@pytest.mark.parametrize("second", [errno.ECONNREFUSED, errno.EHOSTUNREACH])
async def test_the_second_error_of_a_send_belongs_to_its_own_datagram(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery, second: int
) -> None:
    sock = await bound(nursery, udp)
    sockets.faults.set("sendto", errno.ECONNREFUSED, second)
    with pytest.raises(OSError, match="send ") as caught:
        await sock.send(b"x", sock.address)
    assert caught.value.errno == second
    statistics = sock.statistics()
    assert (statistics.sent, statistics.send_errors) == (0, 1)
    assert statistics.receive_errors == (second != errno.ECONNREFUSED)
    # The error of a destination that the network chose is not raised.
    sockets.faults.set("sendto", second, second)
    await sock.send(Datagram(b"", sock.address).reply(b"x"))
    assert sock.statistics().send_errors == 2


async def test_enobufs_is_retried_for_50_ms(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery, autojump_clock: trio.testing.MockClock
) -> None:
    sock = await bound(nursery, udp)
    sockets.faults.set("sendto", errno.ENOBUFS, errno.ENOBUFS, errno.EAGAIN)
    await sock.send(b"x", sock.address)
    assert (await sock.receive()).data == b"x"
    sockets.faults.set("sendto", *[errno.ENOBUFS] * 100)
    start = trio.current_time()
    with pytest.raises(OSError, match="send ") as caught:
        await sock.send(b"x", sock.address)
    assert caught.value.errno == errno.ENOBUFS
    assert trio.current_time() - start == pytest.approx(0.05)


async def test_a_failed_connect_leaves_the_socket_unconnected(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery
) -> None:
    sock = nursery.create_socket(udp.type)
    sockets.faults.set("connect", errno.ENETUNREACH)
    with pytest.raises(OSError, match="connect") as caught:
        await sock.connect((udp.loopback, 9))
    assert caught.value.errno == errno.ENETUNREACH
    with pytest.raises(trio_dgram.NotConnectedError):
        _ = sock.remote_address
    await sock.connect((udp.loopback, 9))


# Unsupported operations


@pytest.mark.parametrize("option", ["packet_info", "icmp_errors"])
async def test_packet_info_and_icmp_errors_raise_enotsup_at_creation(
    udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery, option: str
) -> None:
    with same_descriptors(), pytest.raises(OSError, match="this custom socket factory") as caught:
        nursery.create_socket(udp.type, **{option: True})  # type: ignore[arg-type]
    assert caught.value.errno == errno.ENOTSUP


NOT_DONE: dict[str, Callable[[DatagramSocket, Family], object]] = {
    "receive_nowait": lambda sock, _: sock.receive_nowait(),
    "send_nowait": lambda sock, udp: sock.send_nowait(b"x", (udp.loopback, 9)),
    "add_membership": lambda sock, udp: sock.add_membership(udp.group),
}


@pytest.mark.parametrize("call", NOT_DONE.values(), ids=NOT_DONE)
async def test_synchronous_operations_raise_enotsup(
    udp: Family, nursery: DatagramNursery, call: Callable[[DatagramSocket, Family], object]
) -> None:
    sock = nursery.create_socket(udp.type)
    with pytest.raises(OSError, match="this custom socket factory") as caught:
        call(sock, udp)
    assert caught.value.errno == errno.ENOTSUP
    assert "unbound" in repr(sock)


async def test_a_connected_socket_cannot_be_disconnected(udp: Family, nursery: DatagramNursery) -> None:
    sock = nursery.create_socket(udp.type)
    await sock.connect((udp.loopback, 9))
    with pytest.raises(OSError, match="cannot be disconnected") as caught:
        sock.disconnect()
    assert caught.value.errno == errno.ENOTSUP
    assert sock.remote_address.port == 9


async def test_path_mtu_is_none_and_sending_packet_info_raises_enotsup(udp: Family, nursery: DatagramNursery) -> None:
    sock = nursery.create_socket(udp.type)
    assert sock.path_mtu((udp.loopback, 9)) is None
    with pytest.raises(OSError, match="this custom socket factory") as caught:
        await sock.send(Datagram(b"x", Address(udp.loopback, 9), PacketInfo(hop_limit=3)))
    assert caught.value.errno == errno.ENOTSUP
    assert "unbound" in repr(sock)
    with pytest.raises(OSError, match="Message too long") as caught:
        await sock.send(bytes(65_536), (udp.loopback, 9))
    assert vars(caught.value)["path_mtu"] is None


async def test_optional_options_may_be_refused(udp: Family, sockets: AwaitedSockets, nursery: DatagramNursery) -> None:
    sockets.faults.set("setsockopt", *[errno.ENOPROTOOPT] * 3)
    sock = await bound(nursery, udp)
    sockets.faults.plan.clear()
    sockets.faults.set("getsockopt", *[errno.ENOPROTOOPT] * 9)
    await sock.send(b"x", sock.address)
    assert (await sock.receive()).data == b"x"
    sock.close()
    assert sock.statistics().dropped_by_kernel is None


@pytest.mark.parametrize("options", [{"ipv6_only": True}, {"ttl": 3}, {"reuse_address": True}])
async def test_a_requested_option_that_is_refused_leaves_no_descriptor(
    sockets: AwaitedSockets, nursery: DatagramNursery, options: Any
) -> None:
    sockets.faults.set("setsockopt", errno.ENOPROTOOPT)
    if "ipv6_only" not in options:
        sockets.faults.set("setsockopt", *[errno.ENOPROTOOPT] * 9)
    with same_descriptors(), pytest.raises(OSError, match="Protocol not available"):
        nursery.create_socket("udp6", **options)


# Paths


async def test_a_unix_socket_needs_a_path_and_removes_it_when_it_is_closed(
    tmp_path: Path, sockets: AwaitedSockets, nursery: DatagramNursery
) -> None:
    path, sender_path = tmp_path / "socket", tmp_path / "sender"
    sock, sender = nursery.create_socket("unix"), nursery.create_socket("unix")
    await sock.bind(path)
    with pytest.raises(OSError, match="need a name") as caught:
        await sender.send(b"x", path)
    assert caught.value.errno == errno.ENOTSUP
    with pytest.raises(OSError, match="another socket has that name"):
        await sender.bind(path)
    await sender.bind(sender_path)
    await sender.send(bytes(100_000), path)
    assert len((await sock.receive()).data) == 100_000
    sock.close()
    sender.close()
    assert not path.exists()
    assert not sender_path.exists()


async def test_closing_during_bind_leaves_no_file(
    tmp_path: Path, sockets: AwaitedSockets, nursery: DatagramNursery
) -> None:
    path = tmp_path / "socket"
    sock = nursery.create_socket("unix")
    held = sockets.hold_answers("bind")
    async with trio.open_nursery() as binding:

        async def bind() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await sock.bind(path)

        binding.start_soon(bind)
        await held.reached.wait()
        assert path.exists()
        sock.close()
        held.let_go.set()
    assert not path.exists()


async def test_receive_raises_a_pending_error_before_it_waits(udp: Family, nursery: DatagramNursery) -> None:
    gone, sock = await bound(nursery, udp), nursery.create_socket(udp.type)
    closed_address = gone.address
    gone.close()
    await sock.connect(closed_address)
    await sock.send(b"x")
    with pytest.raises(ConnectionRefusedError, match="receive"):
        await sock.receive()
    assert sock.statistics().receive_errors == 1


async def test_creating_a_socket_keeps_the_custom_factory_installed(udp: Family, sockets: AwaitedSockets) -> None:
    with same_descriptors():
        async with trio_dgram.open_socket(udp.type, port=0) as sock:
            assert sockets.faults.calls["bind"] == 1
            assert sock.fileno() > 0
        async with trio_dgram.open_socket(udp.type, port=0):
            assert sockets.faults.calls["bind"] == 2


async def test_a_source_with_port_0_is_filtered_and_counted(udp: Family, nursery: DatagramNursery) -> None:
    sock = await bound(nursery, udp)
    came = [(b"forged", (udp.loopback, 0)), (b"honest", (udp.loopback, 9))]

    async def recvfrom(_: int) -> tuple[bytes, tuple[str, int]]:
        await trio.lowlevel.checkpoint()
        return came.pop(0)

    awaited(sock).recvfrom = recvfrom
    assert (await sock.receive()).data == b"honest"
    assert (sock.statistics().received, sock.statistics().filtered) == (2, 1)


async def test_a_send_that_is_cancelled_during_its_retry_reports_the_pending_error(
    udp: Family, nursery: DatagramNursery
) -> None:
    sock = await bound(nursery, udp)
    await sock.connect(sock.address)
    failures = sock.events(Failure)

    async def refuse(_: bytes) -> None:
        await trio.lowlevel.checkpoint()
        scope.cancel()
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    awaited(sock).send = refuse
    with trio.CancelScope() as scope:
        await sock.send(b"x")
    assert scope.cancelled_caught
    assert failures.receive_nowait().error.errno == errno.ECONNREFUSED
    assert sock.statistics().sent == 0
