"""Receive and send offload: the same datagrams in fewer system calls."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import trio_dgram
from trio_dgram import Address, Datagram, SendManyError
from trio_dgram._kernel import capabilities as _capabilities
from trio_dgram._kernel import python_calls as _python_calls
from trio_dgram._kernel.python_calls import PythonCalls
from trio_dgram._socket import creation as _creation

from .support.families import Family
from .support.faults import FaultySocket, faulty_kernel
from .support.namespaces import Machine, entered

pytestmark = pytest.mark.skipif(not _capabilities.detect().receive_offload, reason="kernel: no UDP_GRO and UDP_SEGMENT")

EDGES = (0, 1, 2, 64, 1023, 1024, 1472, 32753, 32754, 65506, 65507)
RUNS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2]),
        st.sampled_from(EDGES) | st.integers(0, 1500),
        st.sampled_from([1, 2, 3, 54, 63, 64, 65, 129]),
    ),
    max_size=4,
)
"""One of three receivers, a size in bytes, and a number of datagrams."""


async def unused_lookup(host: str, port: int, family: socket.AddressFamily) -> Address:  # pragma: no cover -- unused
    raise AssertionError((host, port, family))


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "broadcast": st.booleans(),
        "device": st.just("lo"),
        "dscp": st.integers(0, 63),
        "ecn": st.integers(0, 2),
        # icmp_errors=True raises ENOTSUP where there is no error queue.
        "icmp_errors": st.sampled_from([False, True] if trio_dgram.capabilities().error_queue else [False]),
        "ipv6_only": st.booleans(),
        "lookup": st.just(None) | st.just(unused_lookup),
        "multicast_interface": st.just("lo"),
        "multicast_loopback": st.booleans(),
        "multicast_ttl": st.integers(0, 255),
        "packet_info": st.booleans(),
        "receive_block_list": st.just(["192.0.2.0/24", "2001:db8::/32"]),
        "reuse_address": st.booleans(),
        "reuse_port": st.booleans(),
        "send_block_list": st.just(["192.0.2.0/24", "2001:db8::/32"]),
        "send_buffer_size": st.sampled_from([200_000, 400_000]),
        "ttl": st.integers(1, 255),
    },
)


@pytest.mark.long
@pytest.mark.usefixtures("coalescing")
@given(runs=RUNS, sending=st.booleans(), receiving=st.booleans(), connected=st.booleans(), options=OPTIONS)
def test_offload_keeps_the_datagrams_and_their_order(
    udp: Family,
    runs: list[tuple[int, int, int]],
    sending: bool,
    receiving: bool,
    connected: bool,
    options: dict[str, Any],
) -> None:
    if udp.family == socket.AF_INET:
        options.pop("ipv6_only", None)

    async def main() -> None:
        async with trio_dgram.open_nursery() as nursery:
            receivers = [
                nursery.create_socket(udp.type, offload=receiving, receive_buffer_size=8_000_000, **options)
                for _ in range(3)
            ]
            addresses = [await receiver.bind(0, udp.loopback) for receiver in receivers]
            for receiver in receivers:
                with pytest.raises(trio.WouldBlock):
                    receiver.receive_nowait()
            sender = nursery.create_socket(udp.type, offload=sending, **options)
            await sender.bind(0, udp.loopback)
            if connected:
                await sender.connect(addresses[0])
            wanted: list[list[bytes]] = [[], [], []]
            got: list[list[bytes]] = [[], [], []]
            number = 0
            for which, size, count in runs:
                datagrams = []
                to = 0 if connected else which
                for _ in range(count):
                    number += 1
                    data = (number.to_bytes(4, "big") * (size // 4 + 1))[:size]
                    datagrams.append(Datagram(data, addresses[to]))
                    wanted[to].append(data)
                # At most what the receive buffer holds, so that the kernel drops no datagram.
                chunk = max(1, 60_000 // max(size, 830))
                for start in range(0, count, chunk):
                    await sender.send_many(datagrams[start : start + chunk])
                    while len(got[to]) < len(wanted[to]) - (count - min(start + chunk, count)):
                        got[to] += [datagram.data for datagram in await receivers[to].receive_many()]
            assert got == wanted
            assert sender.statistics().sent == sum(map(len, wanted))
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.usefixtures("coalescing", "reading")
async def test_a_run_of_equal_datagrams_is_sent_and_received_by_one_call(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sender,
    ):
        with pytest.raises(trio.WouldBlock):
            receiver.receive_nowait()
        to = receiver.address
        await sender.send_many([Datagram(b"x" * 100, to)] * 10 + [Datagram(b"y" * 50, to), Datagram(b"", to)])
        got = await receiver.receive_many(4)
        assert [len(datagram.data) for datagram in got] == [100] * 4
        got += await receiver.receive_many()
        assert [len(datagram.data) for datagram in got] == [100] * 10 + [50, 0]
        portable = not trio_dgram.capabilities().receive_offload
        statistics = sender.statistics()
        assert (statistics.sent, statistics.segmented_sends, statistics.segmented_datagrams) == (
            (12, 0, 0) if portable else (12, 1, 11)
        )
        statistics = receiver.statistics()
        assert (statistics.received, statistics.coalesced_receives, statistics.coalesced_datagrams) == (
            (12, 0, 0) if portable else (12, 1, 11)
        )


@pytest.mark.parametrize("many", [True, False])
async def test_a_flood_enables_receive_offload(udp: Family, many: bool) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, receive_buffer_size=212992) as sock:
        exact = sock.statistics().kernel_drops_exact
        assert exact == trio_dgram.capabilities().drop_counter
        await sock.send_many([Datagram(b"x", sock.address)] * 100)
        assert len(await sock.receive_many()) == 100
        assert sock.statistics().kernel_drops_exact == exact
        # Enough for a batch of the largest size after those that grow to it.
        for _ in range(400):
            await sock.send(b"x", sock.address)
        got = 0
        while got < 400:
            got += len(await sock.receive_many()) if many else bool(await sock.receive())
        assert sock.statistics().kernel_drops_exact == (exact and not trio_dgram.capabilities().receive_offload)


@pytest.mark.skipif("config.getoption('--portable')", reason="kernel: the portable path has no offload")
class TestRefusals:
    @pytest.mark.parametrize("number", [errno.EMSGSIZE, errno.EINVAL])
    async def test_a_refusal_is_remembered_for_the_destination_and_size(self, udp: Family, number: int) -> None:
        with faulty_kernel() as faults:
            async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
                datagrams = [Datagram(b"x" * 10, sock.address)] * 5
                # A single EMSGSIZE may be the pending error of an earlier datagram, so the call is retried once.
                faults.set("sendmsg", *[number] * (2 if number == errno.EMSGSIZE else 1))
                await sock.send_many(datagrams)
                assert faults.pending == 0
                assert (sock.statistics().sent, sock.statistics().segmented_sends) == (5, 0)
                await sock.send_many(datagrams)
                assert sock.statistics().segmented_sends == 0
                await sock.send_many([Datagram(b"x" * 9, sock.address)] * 5)
                assert (sock.statistics().sent, sock.statistics().segmented_sends) == (15, 1)
                assert len(await sock.receive_many()) == 15

    async def test_eio_disables_send_offload_for_the_socket(self, udp: Family) -> None:
        with faulty_kernel() as faults:
            async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
                faults.set("sendmsg", errno.EIO)
                for _ in range(3):
                    await sock.send_many([Datagram(b"x", sock.address)] * 5)
                assert faults.calls["sendmsg"] == 1
                assert (sock.statistics().sent, sock.statistics().segmented_sends) == (15, 0)

    @pytest.mark.parametrize("number", [errno.EPERM, errno.ENETUNREACH])
    async def test_another_error_is_attributed_by_sending_singly(self, udp: Family, number: int) -> None:
        with faulty_kernel() as faults:
            async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
                faults.set("sendmsg", number, number, number)
                faults.set("sendto", number, number)
                with pytest.raises(SendManyError) as caught:
                    await sock.send_many([Datagram(b"x", sock.address)] * 5)
                assert (caught.value.index, caught.value.sent, caught.value.errno) == (0, 0, number)
                assert isinstance(caught.value.__cause__, OSError)
                faults.plan.clear()
                await sock.send_many([Datagram(b"x", sock.address)] * 5)
                assert sock.statistics().segmented_sends == 1

    @pytest.mark.usefixtures("autojump_clock")
    async def test_segments_are_retried_by_one_call_while_the_buffer_is_full(self, udp: Family) -> None:
        with faulty_kernel() as faults:
            async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
                faults.set("sendmsg", errno.EAGAIN, errno.ENOBUFS, errno.EINTR, errno.EAGAIN)
                await sock.send_many([Datagram(b"x", sock.address)] * 5)
                assert (sock.statistics().sent, sock.statistics().segmented_sends) == (5, 1)

    async def test_the_number_of_remembered_refusals_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trio_dgram._kernel.segmentation._MOST_REMEMBERED", 3)
        with faulty_kernel() as faults:
            async with trio_dgram.open_socket("udp4", port=0) as sock:
                for host in range(1, 8):
                    faults.set("sendmsg", errno.EINVAL)
                    await sock.send_many([Datagram(b"x", Address(f"127.0.0.{host}", sock.address.port))] * 2)
                assert len(sock._outbox._segmentation._refused) <= 3
                assert sock.statistics().sent == 14

    @pytest.mark.usefixtures("coalescing")
    async def test_a_socket_receives_where_receive_offload_is_refused(self, udp: Family) -> None:
        with faulty_kernel() as faults:
            async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
                await sock.send(b"x", sock.address)
                faults.set("setsockopt", errno.ENOPROTOOPT)
                assert [datagram.data for datagram in await sock.receive_many()] == [b"x"]
                assert sock.statistics().kernel_drops_exact

    @pytest.mark.usefixtures("coalescing")
    async def test_a_batch_whose_segment_size_is_lost_is_discarded_and_counted(
        self, udp: Family, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The size is a constant of the compiled layer; test_hot_calls.py plans such a batch for both.
        monkeypatch.setattr(_creation, "create_calls", PythonCalls)
        monkeypatch.setattr(_python_calls, "ANCILLARY_SIZE", socket.CMSG_LEN(0))
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            with pytest.raises(trio.WouldBlock):
                sock.receive_nowait()
            await sock.send_many([Datagram(b"xy", sock.address)] * 5)
            await sock.send(b"single", sock.address)
            assert [datagram.data for datagram in await sock.receive_many()] == [b"single"]
            statistics = sock.statistics()
            assert (statistics.unsplit_batches, statistics.truncated, statistics.received) == (1, 0, 2)


class _Truncating(FaultySocket):
    """Reports every datagram as truncated."""

    def recvmsg(self, *arguments: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int]]:
        data, ancillary, flags, source = super().recvmsg(*arguments)
        return data, ancillary, flags | socket.MSG_TRUNC, source


@pytest.mark.usefixtures("coalescing")
@pytest.mark.skipif("config.getoption('--portable')", reason="kernel: the portable path has no recvmsg")
async def test_a_truncated_datagram_is_counted(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.faults.FaultySocket", _Truncating)
    with faulty_kernel():
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            with pytest.raises(trio.WouldBlock):
                sock.receive_nowait()
            await sock.send(b"x", sock.address)
            assert [datagram.data for datagram in await sock.receive_many()] == [b"x"]
            assert (sock.statistics().truncated, sock.statistics().received) == (1, 1)


async def test_an_oversize_datagram_is_named_and_those_before_it_are_sent(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        datagrams = [Datagram(b"x" * 10, sock.address)] * 4
        datagrams.insert(3, Datagram(b"x" * 70_000, sock.address))
        with pytest.raises(SendManyError, match="datagram 3") as caught:
            await sock.send_many(datagrams)
        assert (caught.value.index, caught.value.sent, caught.value.errno) == (3, 3, errno.EMSGSIZE)
        assert len(await sock.receive_many()) == 3


async def test_datagrams_larger_than_the_path_mtu_are_sent_singly_and_received_whole(
    udp: Family, machine: Machine
) -> None:
    link = machine.link(mtu=1300)
    with machine.active():
        async with trio_dgram.open_nursery() as nursery:
            receiver = nursery.create_socket(udp.type)
            to = await receiver.bind(0, link.there[udp.type])
            with entered(machine.home):
                sender = nursery.create_socket(udp.type)
            # Segments must fit the path MTU; a larger datagram is fragmented (RFC 791, RFC 8200).
            sent = [Datagram(bytes([number]) * 1400, to) for number in range(5)]
            for _ in range(2):
                await sender.send_many(sent)
                got = [(await receiver.receive()).data for _ in sent]
                assert got == [datagram.data for datagram in sent]
            assert (sender.statistics().sent, sender.statistics().segmented_sends) == (10, 0)
            await sender.send_many([Datagram(b"x" * 1000, to)] * 5)
            assert [len((await receiver.receive()).data) for _ in range(5)] == [1000] * 5
            assert sender.statistics().segmented_sends == int(trio_dgram.capabilities().receive_offload)
            nursery.cancel_scope.cancel()


async def test_interleaved_destinations_receive_their_datagrams_in_order(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        receivers = [nursery.create_socket(udp.type) for _ in range(3)]
        addresses = [await receiver.bind(0, udp.loopback) for receiver in receivers]
        sender = nursery.create_socket(udp.type)
        await sender.send_many([Datagram(bytes([number]), addresses[number % 3]) for number in range(30)])
        for start, receiver in enumerate(receivers):
            got = [(await receiver.receive()).data[0] for _ in range(10)]
            assert got == list(range(start, 30, 3))
        nursery.cancel_scope.cancel()


async def test_a_blocked_destination_is_named_by_its_index(udp: Family) -> None:
    blocked = {"udp4": "127.0.0.66", "udp6": "2001:db8::66"}[udp.type]
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, send_block_list=[blocked]) as sock:
        fine, wrong = Datagram(b"x", sock.address), Datagram(b"x", Address(blocked, 9))
        with pytest.raises(SendManyError) as caught:
            await sock.send_many([fine, fine, wrong, wrong, fine])
        assert (caught.value.index, caught.value.sent) == (2, 2)
        assert isinstance(caught.value.__cause__, trio_dgram.AddressBlockedError)
        assert len(await sock.receive_many()) == 2


async def test_equal_addresses_of_program_and_network_are_distinguished(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, offload=False) as sock:
            await sock.send(b"x", sock.address)
            received = await sock.receive()
            mine = Datagram(b"x", Address(*received.address))
            faults.set("sendto", *[errno.EPERM] * 9)
            with pytest.raises(SendManyError) as caught:
                await sock.send_many([received, received.reply(b"y"), mine, received])
            assert (caught.value.index, caught.value.sent) == (2, 0)
