"""A kernel that refuses: any call, in any combination."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trio_dgram
from trio_dgram import Datagram, Failure

from .support.descriptors import same_descriptors
from .support.families import Family
from .support.faults import faulty_kernel

NO_ROOM = (errno.EAGAIN, errno.ENOBUFS)
EARLIER = (errno.ECONNREFUSED, errno.EMSGSIZE, errno.EHOSTUNREACH)
SEND_FAULTS = (None, *NO_ROOM, errno.EINTR, *EARLIER, errno.EPERM)
RECEIVE_FAULTS = (None, errno.EAGAIN, errno.EINTR, *EARLIER)


def outcome(faults: Sequence[int | None]) -> tuple[int | None, list[int]]:
    """Return what the faults of one datagram's calls come to, by the rules: the error or None, and the news.

    It is what the library promises, written down a second time: no room is waited for, an interruption is
    nothing, the first of the errors that may be an earlier datagram's is tried again.
    """
    news: list[int] = []
    earlier: int | None = None
    for fault in faults:
        if fault is None:
            break
        if fault == errno.EINTR:
            continue
        if fault in NO_ROOM:
            # It is tried afresh after the wait.
            if earlier is not None:
                news.append(earlier)
            earlier = None
        elif earlier is None and fault in EARLIER:
            earlier = fault
        else:
            if earlier is not None and earlier != fault:
                news.append(earlier)
            return fault, news
    if earlier is not None:
        news.append(earlier)
    return None, news


@given(plan=st.lists(st.sampled_from(SEND_FAULTS), max_size=5), connected=st.booleans())
def test_a_send_meets_any_faults_as_promised(udp: Family, plan: list[int | None], connected: bool) -> None:
    async def main() -> None:
        with faulty_kernel() as faults, same_descriptors():
            async with (
                trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
                trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sender,
            ):
                to = receiver.address
                if connected:
                    await sender.connect(to)
                failures = sender.events(Failure)
                # ENOBUFS is tried for 50 ms, in steps that double from one: a plan of five is within them.
                faults.set("send" if connected else "sendto", *itertools.takewhile(lambda fault: fault, plan))
                error, news = outcome(plan)
                if error is None:
                    await sender.send(b"once", None if connected else to)
                else:
                    with pytest.raises(OSError, match="send") as caught:
                        await sender.send(b"once", None if connected else to)
                    assert caught.value.errno == error
                    assert caught.value.address == to  # type: ignore[attr-defined]
                told = [failures.receive_nowait().error.errno for _ in news]
                assert told == news
                with pytest.raises(trio.WouldBlock):
                    failures.receive_nowait()
                statistics = sender.statistics()
                assert (statistics.sent, statistics.send_errors) == ((1, 0) if error is None else (0, 1))
                assert statistics.receive_errors == len(news)
                # Whatever was left of the plan is the next datagram's trouble.
                faults.plan.clear()
                await sender.send(b"usable", None if connected else to)
                arrived = [(await receiver.receive()).data for _ in range(statistics.sent + 1)]
                assert arrived == [b"once", b"usable"][2 - len(arrived) :]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@given(plan=st.lists(st.sampled_from(RECEIVE_FAULTS), max_size=6), many=st.booleans(), listening=st.booleans())
def test_a_receive_loop_on_an_unconnected_socket_outlives_any_faults(
    udp: Family, plan: list[int | None], many: bool, listening: bool
) -> None:
    async def main() -> None:
        with faulty_kernel() as faults, same_descriptors():
            async with (
                trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
                trio_dgram.open_socket(udp.type) as sender,
            ):
                failures = receiver.events(Failure)
                faults.set("recvmsg" if many and trio_dgram._system.capabilities.offload else "recvfrom", *plan)
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


async def test_an_error_that_is_not_about_a_datagram_is_raised_by_receive_and_the_socket_goes_on(udp: Family) -> None:
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


@pytest.mark.parametrize("heard", [True, False])
async def test_such_an_error_in_the_background_is_reported_or_kept_for_the_next_receive(
    udp: Family, heard: bool
) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            faults.set("recvfrom", errno.ENOMEM)
            failures = sock.events(Failure)
            if not heard:
                failures.close()
            async with sock.events(Datagram) as channel:
                await sock.send(b"x", sock.address)
                assert (await channel.receive()).data == b"x"
            if heard:
                assert failures.receive_nowait().error.errno == errno.ENOMEM
            else:
                with pytest.raises(OSError, match="receive"):
                    await sock.receive()


async def test_enobufs_is_tried_for_50_ms_and_then_raised(udp: Family, autojump_clock: trio.testing.MockClock) -> None:
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


async def test_what_a_destination_of_the_networks_choice_causes_is_reported_and_not_raised(udp: Family) -> None:
    caused = [errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED]
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            failures = sock.events(Failure)
            await sock.send(b"x", sock.address)
            datagram = await sock.receive()
            for number in caused:
                # Twice, since the first time it may be an earlier datagram's; and once more for the short way.
                faults.set("sendto", *[number] * 3)
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
                    await sock.send(b"x", tuple(datagram.address))
                faults.plan.clear()
            assert sock.statistics().send_errors == 3 * len(caused)
            assert sock.statistics().sent == 1
            faults.set("sendto", *[errno.EMSGSIZE] * 3)
            with pytest.raises(OSError, match="send"):
                await sock.send(b"the program's own doing", datagram.address)


@pytest.mark.parametrize("fault", [errno.EADDRINUSE, errno.EACCES])
async def test_a_bind_that_the_kernel_refuses_may_be_tried_again(udp: Family, fault: int) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type) as sock:
            faults.set("bind", *[fault] * 40)
            with pytest.raises(OSError, match=f"bind {udp.loopback}") as caught:
                await sock.bind(0, udp.loopback)
            assert caught.value.errno == fault
            faults.plan.clear()
            await sock.bind(0, udp.loopback)


async def test_a_port_that_was_taken_between_choosing_and_naming_it_is_given_up_for_another(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type) as sock:
            # The first call lets the kernel choose a port, the second names it.
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
        faults.set("setsockopt", *[errno.EPERM] * 9)
        with pytest.raises(OSError, match="not permitted"):
            async with trio_dgram.open_socket(udp.type, dscp=46):
                raise AssertionError
