"""A kernel that refuses any call, in any combination."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trio_dgram
from trio_dgram import Datagram, DatagramSocket, Failure
from trio_dgram._kernel import python_calls as _python_calls

from .support.descriptors import same_descriptors
from .support.families import Family
from .support.faults import Faults, faulty_kernel

T = TypeVar("T")

NO_ROOM = (errno.EAGAIN, errno.ENOBUFS)
EARLIER = (errno.ECONNREFUSED, errno.EMSGSIZE, errno.EHOSTUNREACH)
SEND_FAULTS = (None, *NO_ROOM, errno.EINTR, *EARLIER, errno.EPERM)
RECEIVE_FAULTS = (None, errno.EAGAIN, errno.EINTR, *EARLIER)


def outcome(faults: Sequence[int | None]) -> tuple[int | None, list[int]]:
    """Return the expected result of the faults of one datagram: the error or None, and the pending errors.

    This restates the promise of the library independently: a full queue is waited for, an interruption is ignored, and
    the first error that may belong to an earlier datagram is retried.
    """
    pending: list[int] = []
    earlier: int | None = None
    for fault in faults:
        if fault is None:
            break
        if fault == errno.EINTR:
            continue
        if fault in NO_ROOM:
            # The send is retried afresh after the wait.
            if earlier is not None:
                pending.append(earlier)
            earlier = None
        elif earlier is None and fault in EARLIER:
            earlier = fault
        else:
            if earlier is not None and earlier != fault:
                pending.append(earlier)
            return fault, pending
    if earlier is not None:
        pending.append(earlier)
    return None, pending


@given(plan=st.lists(st.sampled_from(SEND_FAULTS), max_size=5), connected=st.booleans(), again=st.booleans())
def test_a_send_meets_any_faults_as_promised(udp: Family, plan: list[int | None], connected: bool, again: bool) -> None:
    async def main() -> None:
        with faulty_kernel() as faults, same_descriptors():
            async with (
                trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
                trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sender,
            ):
                to = receiver.address
                if connected:
                    await sender.connect(to)
                if again:
                    # An address that was checked once is not checked again.
                    await sender.send(b"before", None if connected else to)
                    assert (await receiver.receive()).data == b"before"
                failures = sender.events(Failure)
                # ENOBUFS is retried for 50 ms, in steps that double from one: a plan of five is within them.
                faults.set("send" if connected else "sendto", *itertools.takewhile(lambda fault: fault, plan))
                error, pending = outcome(plan)
                if error is None:
                    await sender.send(b"once", None if connected else to)
                else:
                    with pytest.raises(OSError, match="send") as caught:
                        await sender.send(b"once", None if connected else to)
                    assert caught.value.errno == error
                    assert vars(caught.value)["address"] == to
                reported = [failures.receive_nowait().error.errno for _ in pending]
                assert reported == pending
                with pytest.raises(trio.WouldBlock):
                    failures.receive_nowait()
                statistics = sender.statistics()
                sent = statistics.sent - again
                assert (sent, statistics.send_errors) == ((1, 0) if error is None else (0, 1))
                assert statistics.receive_errors == len(pending)
                # The rest of the plan applies to the next datagram.
                faults.plan.clear()
                await sender.send(b"usable", None if connected else to)
                arrived = [(await receiver.receive()).data for _ in range(sent + 1)]
                assert arrived == [b"once", b"usable"][2 - len(arrived) :]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@given(
    single=st.lists(st.sampled_from(SEND_FAULTS), max_size=8),
    segments=st.lists(st.sampled_from((*SEND_FAULTS, errno.EINVAL, errno.EIO)), max_size=3),
    sizes=st.lists(st.sampled_from((1, 7, 7, 7, 7)), min_size=1, max_size=8),
    connected=st.booleans(),
)
def test_a_send_many_with_faults_has_sent_the_prefix_that_it_reports(
    udp: Family, single: list[int | None], segments: list[int | None], sizes: list[int], connected: bool
) -> None:
    async def main() -> None:
        with faulty_kernel() as faults, same_descriptors():
            async with (
                trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
                trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sender,
            ):
                if connected:
                    await sender.connect(receiver.address)
                faults.set("send" if connected else "sendto", *single)
                faults.set("sendmsg", *segments)
                payloads = [bytes([number]) * size for number, size in enumerate(sizes)]
                rest = [Datagram(payload, receiver.address) for payload in payloads]
                errors = 0
                while rest:
                    before = sender.statistics().sent
                    sent = index = len(rest)
                    try:
                        await sender.send_many(rest)
                    except trio_dgram.SendManyError as error:
                        sent, index = error.sent, error.index
                        errors += 1
                    assert sender.statistics().sent - before == sent == index
                    # The refused datagram is retried.
                    rest = rest[index:]
                assert sender.statistics().sent == len(payloads)
                assert sender.statistics().send_errors == errors
                assert [(await receiver.receive()).data for _ in payloads] == payloads
                with pytest.raises(trio.WouldBlock):
                    receiver.receive_nowait()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


CAUSED = (errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED)


@given(
    answering=st.sampled_from(["send", "reply", "send_nowait", "send_many"]),
    plan=st.lists(st.sampled_from((None, *CAUSED, errno.ENOBUFS, errno.EINTR)), max_size=12),
)
def test_a_server_outlives_any_faults_and_accounts_for_each_answer(
    udp: Family, answering: str, plan: list[int | None]
) -> None:
    async def main() -> None:
        with faulty_kernel() as faults, same_descriptors():
            async with (
                trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as server,
                trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as client,
            ):
                questions = [bytes([number]) for number in range(8)]
                await client.send_many([Datagram(data, server.address) for data in questions])
                failures = server.events(Failure)
                faults.set("sendto", *plan)
                faults.set("sendmsg", *plan)
                for _ in questions:
                    question = await server.receive()
                    match answering:
                        case "send":
                            await server.send(question.data, question.address)
                        case "reply":
                            await server.send(question.reply(question.data))
                        case "send_nowait":
                            server.send_nowait(question.data, question.address)
                        case _:
                            await server.send_many([question.reply(question.data)])
                statistics = server.statistics()
                assert statistics.sent + statistics.send_errors == len(questions)
                reported = [
                    failures.receive_nowait() for _ in range(statistics.send_errors + statistics.receive_errors)
                ]
                with pytest.raises(trio.WouldBlock):
                    failures.receive_nowait()
                refused = [failure for failure in reported if failure.operation == "send"]
                assert len(refused) == statistics.send_errors
                assert {failure.address for failure in refused} <= {client.address}
                answers = [(await client.receive()).data for _ in range(statistics.sent)]
                assert len(set(answers)) == len(answers)
                assert answers == [data for data in questions if data in answers]
                with pytest.raises(trio.WouldBlock):
                    client.receive_nowait()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.usefixtures("reading")
@given(
    plan=st.lists(st.sampled_from(RECEIVE_FAULTS), max_size=6),
    many=st.booleans(),
    listening=st.booleans(),
    coalescing=st.booleans(),
)
def test_a_receive_loop_on_an_unconnected_socket_outlives_any_faults(
    udp: Family, plan: list[int | None], many: bool, listening: bool, coalescing: bool
) -> None:
    async def main() -> None:
        with faulty_kernel() as faults, same_descriptors():
            async with (
                trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
                trio_dgram.open_socket(udp.type) as sender,
            ):
                failures = receiver.events(Failure)
                coalescing_here = coalescing and receiver._descriptor.can_segment
                if coalescing_here:
                    receiver._descriptor.coalesce()
                if not _python_calls._BURST and trio_dgram.capabilities().batches:
                    faults.set("recvmmsg", *plan)
                else:
                    faults.set("recvmsg" if coalescing_here else "recvfrom", *plan)
                sent = [bytes([number]) for number in range(8)]
                await sender.send_many([Datagram(data, receiver.address) for data in sent])
                got: list[bytes] = []
                if listening:
                    async with receiver.events(Datagram) as channel:
                        got += [(await channel.receive()).data for _ in sent]
                while len(got) < len(sent):
                    got += [d.data for d in (await receiver.receive_many() if many else [await receiver.receive()])]
                assert got == sent
                met = len(plan) - faults.pending
                expected = [fault for fault in plan[:met] if fault in EARLIER]
                assert receiver.statistics().receive_errors == len(expected)
                assert [failures.receive_nowait().error.errno for _ in expected] == expected
                assert receiver.statistics().received == len(sent)

    trio.run(main)


async def test_a_connected_socket_raises_the_latest_error_of_earlier_datagrams_once(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            await sock.connect(sock.address)
            faults.set("recvfrom", errno.EHOSTUNREACH)
            with pytest.raises(OSError, match="receive") as caught:
                sock.receive_nowait()
            assert caught.value.errno == errno.EHOSTUNREACH
            faults.set("send", errno.ECONNREFUSED, None, errno.EHOSTUNREACH)
            await sock.send(b"1")
            await sock.send(b"2")
            with pytest.raises(OSError, match="receive") as caught:
                await sock.receive()
            assert caught.value.errno == errno.EHOSTUNREACH
            assert [(await sock.receive()).data for _ in range(2)] == [b"1", b"2"]
            assert sock.statistics().receive_errors == 3


async def test_an_error_that_is_not_about_a_datagram_is_raised_by_receive_once(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            failures = sock.events(Failure)
            await sock.send(b"x", sock.address)
            faults.set("recvfrom", errno.ENOMEM)
            with pytest.raises(OSError, match="receive") as caught:
                await sock.receive()
            assert caught.value.errno == errno.ENOMEM
            with pytest.raises(trio.WouldBlock):
                failures.receive_nowait()
            assert (await sock.receive()).data == b"x"


@pytest.mark.parametrize("watched", [True, False])
async def test_a_background_error_is_reported_or_kept_for_the_next_receive(udp: Family, watched: bool) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            faults.set("recvfrom", errno.ENOMEM)
            failures = sock.events(Failure)
            if not watched:
                failures.close()
            async with sock.events(Datagram) as channel:
                await sock.send(b"x", sock.address)
                assert (await channel.receive()).data == b"x"
            if watched:
                assert failures.receive_nowait().error.errno == errno.ENOMEM
            else:
                with pytest.raises(OSError, match="receive"):
                    await sock.receive()


async def test_enobufs_is_retried_for_50_ms_and_then_raised(
    udp: Family, autojump_clock: trio.testing.MockClock
) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            faults.set("sendto", *[errno.ENOBUFS] * 100)
            start = trio.current_time()
            with pytest.raises(OSError, match="send") as caught:
                await sock.send(b"x", sock.address)
            assert caught.value.errno == errno.ENOBUFS
            assert trio.current_time() - start == pytest.approx(0.05)
            faults.plan.clear()
            faults.set("sendto", *[errno.ENOBUFS] * 2)
            await sock.send(b"y", sock.address)
            assert sock.statistics().sent == 1


async def test_errors_of_a_reply_to_a_received_address_are_reported_and_not_raised(udp: Family) -> None:
    caused = [errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED]
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            failures = sock.events(Failure)
            await sock.send(b"x", sock.address)
            datagram = await sock.receive()
            for number in caused:
                # Twice, since the first error may belong to an earlier datagram.
                faults.set("sendto", *[number] * 2)
                await sock.send(b"answer", datagram.address)
                faults.plan.clear()
                faults.set("sendto", *[number] * 2)
                await sock.send(datagram.reply(b"answer"))
                faults.plan.clear()
                for _ in range(2):
                    failure = await failures.receive()
                    assert (failure.error.errno, failure.operation) == (number, "send")
                    assert failure.address == datagram.address
                faults.set("sendto", *[number] * 2)
                with pytest.raises(OSError, match="send"):
                    await sock.send(b"x", (datagram.address.host, datagram.address.port))
                faults.plan.clear()
            assert sock.statistics().send_errors == 3 * len(caused)
            assert sock.statistics().sent == 1
            faults.set("sendto", *[errno.EMSGSIZE] * 3)
            with pytest.raises(OSError, match="send"):
                await sock.send(b"the program's own doing", datagram.address)


@pytest.mark.parametrize("fault", [errno.EADDRINUSE, errno.EACCES])
async def test_a_bind_that_the_kernel_refuses_may_be_retried(udp: Family, fault: int) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type) as sock:
            faults.set("bind", *[fault] * 40)
            with pytest.raises(OSError, match=f"bind {udp.loopback}") as caught:
                await sock.bind(0, udp.loopback)
            assert caught.value.errno == fault
            faults.plan.clear()
            await sock.bind(0, udp.loopback)


async def test_a_port_bound_by_another_socket_after_the_choice_is_replaced(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type) as sock:
            # In the first call the kernel chooses a port, the second names it.
            faults.set("bind", None, errno.EADDRINUSE, None, errno.EADDRINUSE)
            assert (await sock.bind(0, udp.loopback)).port


@pytest.mark.parametrize("fault", [errno.ENETUNREACH, errno.EACCES])
@pytest.mark.parametrize("bound", [True, False])
async def test_a_connect_that_the_kernel_refuses_leaves_the_socket_as_it_was(
    udp: Family, fault: int, bound: bool
) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0 if bound else None) as sock:
            faults.set("connect", fault)
            with pytest.raises(OSError, match="connect") as caught:
                await sock.connect((udp.loopback, 9))
            assert caught.value.errno == fault
            with pytest.raises(trio_dgram.NotConnectedError):
                _ = sock.remote_address
            if not bound:
                with pytest.raises(trio_dgram.NotBoundError):
                    _ = sock.address
            await sock.connect((udp.loopback, 9))


async def test_an_option_that_the_kernel_refuses_leaves_no_descriptor(udp: Family) -> None:
    with faulty_kernel() as faults, same_descriptors():
        async with trio_dgram.open_nursery() as nursery:
            faults.set("setsockopt", *[errno.EPERM] * 9)
            with pytest.raises(OSError, match="not permitted"):
                nursery.create_socket(udp.type, dscp=46)


async def test_an_operation_can_be_repeated_after_any_of_its_calls_failed(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as peer:
        nth, calls = 0, 1
        while nth < calls:
            nth += 1
            with faulty_kernel() as faults, same_descriptors():
                faults.nth = (nth, errno.EPERM)
                await live(faults, udp, peer)
                calls = faults.refusable


async def live(faults: Faults, udp: Family, peer: DatagramSocket) -> None:
    """Run a socket through all its states with ``peer``, repeating once each operation that the kernel refuses."""

    async def attempt(operation: Callable[[], Awaitable[T]]) -> T:
        with suppress(OSError):
            return await operation()
        faults.nth = None
        return await operation()

    async def at_once(operation: Callable[[], T]) -> T:
        return operation()

    async with trio_dgram.open_nursery() as nursery:
        create = partial(
            nursery.create_socket, udp.type, ttl=9, dscp=1, broadcast=True, multicast_ttl=2, reuse_port=True
        )
        sock = await attempt(partial(at_once, create))
        await attempt(partial(sock.send, b"unbound", peer.address))
        await attempt(partial(sock.connect, peer.address))
        assert sock.remote_address == peer.address
        await attempt(partial(sock.send, b"connected"))
        question = await peer.receive()
        await peer.send(question.reply(b"to one"))
        assert (await attempt(sock.receive)).data == b"to one"
        await attempt(partial(at_once, sock.disconnect))
        await attempt(partial(sock.send_many, [Datagram(b"many", peer.address)]))
        await peer.send(question.reply(b"to many"))
        assert [each.data for each in await attempt(sock.receive_many)] == [b"to many"]
        assert [(await peer.receive()).data for _ in range(2)] == [b"connected", b"many"]
        assert (sock.statistics().sent, sock.statistics().received) == (3, 2)
        sock.close()

        bound = await attempt(partial(at_once, create))
        await attempt(partial(bound.bind, 0, udp.loopback))
        for change in (bound.add_membership, bound.drop_membership):
            (interface,) = await attempt(partial(at_once, partial(change, udp.group, "lo")))
            assert interface.name == "lo"
        await attempt(partial(bound.connect, peer.address))
        bound.close()

        unbound = await attempt(partial(at_once, create))
        await attempt(partial(unbound.connect, peer.address))
        unbound.close()
