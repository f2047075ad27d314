"""Offload: the same datagrams, in fewer system calls."""

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
from trio_dgram._kernel import receiver as _receiver
from trio_dgram._kernel import system_socket as _system
from trio_dgram._kernel.system_socket import SystemSocket

from .support.families import Family
from .support.faults import FaultySocket, faulty_kernel
from .support.namespaces import Machine, entered

pytestmark = pytest.mark.skipif(not _system.detect().offload, reason="kernel: it has no UDP_GRO and UDP_SEGMENT")

EDGES = (0, 1, 2, 64, 1023, 1024, 1472, 32753, 32754, 65506, 65507)
RUNS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2]),
        st.sampled_from(EDGES) | st.integers(0, 1500),
        st.sampled_from([1, 2, 3, 54, 63, 64, 65, 129]),
    ),
    max_size=4,
)
"""Which of three receivers, how many bytes, how often."""


async def never_asked(host: str, port: int, family: socket.AddressFamily) -> Address:  # pragma: no cover -- its name
    raise AssertionError((host, port, family))


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "broadcast": st.booleans(),
        "device": st.just("lo"),
        "dscp": st.integers(0, 63),
        "ecn": st.integers(0, 2),
        # Where there is no such queue, it is an error to ask for it.
        "icmp_errors": st.sampled_from([False, True] if _system.capabilities.error_queue else [False]),
        "ipv6_only": st.booleans(),
        "lookup": st.just(None) | st.just(never_asked),
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


@pytest.mark.usefixtures("coalescing")
@given(runs=RUNS, sending=st.booleans(), receiving=st.booleans(), connected=st.booleans(), options=OPTIONS)
def test_the_same_datagrams_arrive_in_order_whatever_is_offloaded(
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
                # No more than a receive buffer holds, so that what arrives is what was sent.
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
async def test_runs_of_equal_datagrams_go_and_come_in_one_call(udp: Family) -> None:
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
        portable = not _system.capabilities.offload
        statistics = sender.statistics()
        assert (statistics.sent, statistics.segmented_sends, statistics.segmented_datagrams) == (
            (12, 0, 0) if portable else (12, 1, 11)
        )
        statistics = receiver.statistics()
        assert (statistics.received, statistics.coalesced_receives, statistics.coalesced_datagrams) == (
            (12, 0, 0) if portable else (12, 1, 11)
        )


@pytest.mark.parametrize("many", [True, False])
async def test_a_socket_that_is_flooded_has_the_kernel_join_datagrams_from_then_on(udp: Family, many: bool) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, receive_buffer_size=212992) as sock:
        exact = sock.statistics().kernel_drops_exact
        assert exact == _system.capabilities.drop_counter
        await sock.send_many([Datagram(b"x", sock.address)] * 100)
        assert len(await sock.receive_many()) == 100
        assert sock.statistics().kernel_drops_exact == exact
        # More than one batch of the largest size follows those that grow up to it.
        for _ in range(400):
            await sock.send(b"x", sock.address)
        got = 0
        while got < 400:
            got += len(await sock.receive_many()) if many else bool(await sock.receive())
        assert sock.statistics().kernel_drops_exact == (exact and not _system.capabilities.offload)


@pytest.mark.skipif("config.getoption('--portable')", reason="kernel: the portable path has no offload")
class TestRefusals:
    @pytest.mark.parametrize("number", [errno.EMSGSIZE, errno.EINVAL])
    async def test_a_refusal_on_account_of_a_path_is_remembered_for_that_path_and_size(
        self, udp: Family, number: int
    ) -> None:
        with faulty_kernel() as faults:
            async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
                datagrams = [Datagram(b"x" * 10, sock.address)] * 5
                faults.set("sendmsg", number)
                await sock.send_many(datagrams)
                assert faults.pending == 0
                assert (sock.statistics().sent, sock.statistics().segmented_sends) == (5, 0)
                await sock.send_many(datagrams)
                assert sock.statistics().segmented_sends == 0
                await sock.send_many([Datagram(b"x" * 9, sock.address)] * 5)
                assert (sock.statistics().sent, sock.statistics().segmented_sends) == (15, 1)
                assert len(await sock.receive_many()) == 15

    async def test_eio_turns_segmentation_off_for_the_socket(self, udp: Family) -> None:
        with faulty_kernel() as faults:
            async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
                faults.set("sendmsg", errno.EIO)
                for _ in range(3):
                    await sock.send_many([Datagram(b"x", sock.address)] * 5)
                assert faults.calls["sendmsg"] == 1
                assert (sock.statistics().sent, sock.statistics().segmented_sends) == (15, 0)

    @pytest.mark.parametrize("number", [errno.EPERM, errno.ENETUNREACH])
    async def test_another_error_is_found_out_by_sending_singly(self, udp: Family, number: int) -> None:
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
    async def test_segments_wait_for_room_as_one(self, udp: Family) -> None:
        with faulty_kernel() as faults:
            async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
                faults.set("sendmsg", errno.EAGAIN, errno.ENOBUFS, errno.EINTR, errno.EAGAIN)
                await sock.send_many([Datagram(b"x", sock.address)] * 5)
                assert (sock.statistics().sent, sock.statistics().segmented_sends) == (5, 1)

    async def test_refused_paths_are_forgotten_before_they_grow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trio_dgram._kernel.segmentation._REMEMBERED_PATHS", 3)
        with faulty_kernel() as faults:
            async with trio_dgram.open_socket("udp4", port=0) as sock:
                for host in range(1, 8):
                    faults.set("sendmsg", errno.EINVAL)
                    await sock.send_many([Datagram(b"x", Address(f"127.0.0.{host}", sock.address.port))] * 2)
                assert len(sock._outbox._segmentation._refused) <= 3
                assert sock.statistics().sent == 14

    @pytest.mark.usefixtures("coalescing")
    async def test_a_kernel_without_coalescing_is_read_as_before(self, udp: Family) -> None:
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
        monkeypatch.setattr(_receiver, "SEGMENT_SIZE_SPACE", socket.CMSG_LEN(0))
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            with pytest.raises(trio.WouldBlock):
                sock.receive_nowait()
            await sock.send_many([Datagram(b"xy", sock.address)] * 5)
            await sock.send(b"single", sock.address)
            assert [datagram.data for datagram in await sock.receive_many()] == [b"single"]
            assert (sock.statistics().truncated, sock.statistics().received) == (1, 2)


class _Shortening(FaultySocket):
    """Says of every datagram that there was more of it."""

    def recvmsg(self, *arguments: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int]]:
        data, ancillary, flags, source = SystemSocket.recvmsg(self, *arguments)
        return data, ancillary, flags | socket.MSG_TRUNC, source


@pytest.mark.usefixtures("coalescing")
@pytest.mark.skipif("config.getoption('--portable')", reason="kernel: the portable path has no recvmsg")
async def test_a_datagram_that_comes_shortened_is_counted(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.faults.FaultySocket", _Shortening)
    with faulty_kernel():
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            with pytest.raises(trio.WouldBlock):
                sock.receive_nowait()
            await sock.send(b"x", sock.address)
            assert [datagram.data for datagram in await sock.receive_many()] == [b"x"]
            assert (sock.statistics().truncated, sock.statistics().received) == (1, 1)


async def test_a_datagram_that_is_too_big_is_named_and_those_before_it_are_told(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        datagrams = [Datagram(b"x" * 10, sock.address)] * 4
        datagrams.insert(3, Datagram(b"x" * 70_000, sock.address))
        with pytest.raises(SendManyError, match="datagram 3") as caught:
            await sock.send_many(datagrams)
        assert (caught.value.index, caught.value.sent, caught.value.errno) == (3, 3, errno.EMSGSIZE)
        assert len(await sock.receive_many()) == 3


async def test_a_path_with_a_smaller_mtu_gets_its_datagrams_singly_and_whole(udp: Family, machine: Machine) -> None:
    link = machine.link(mtu=1300)
    with machine.entered():
        async with trio_dgram.open_nursery() as nursery:
            receiver = nursery.create_socket(udp.type)
            to = await receiver.bind(0, link.there[udp.type])
            with entered(machine.home):
                sender = nursery.create_socket(udp.type)
            # Segments must fit the path; a datagram that does not is fragmented (RFC 791, RFC 8200).
            sent = [Datagram(bytes([number]) * 1400, to) for number in range(5)]
            for _ in range(2):
                await sender.send_many(sent)
                got = [(await receiver.receive()).data for _ in sent]
                assert got == [datagram.data for datagram in sent]
            assert (sender.statistics().sent, sender.statistics().segmented_sends) == (10, 0)
            await sender.send_many([Datagram(b"x" * 1000, to)] * 5)
            assert [len((await receiver.receive()).data) for _ in range(5)] == [1000] * 5
            assert sender.statistics().segmented_sends == int(_system.capabilities.offload)
            nursery.cancel_scope.cancel()


async def test_interleaved_destinations_each_get_theirs_in_order(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        receivers = [nursery.create_socket(udp.type) for _ in range(3)]
        addresses = [await receiver.bind(0, udp.loopback) for receiver in receivers]
        sender = nursery.create_socket(udp.type)
        await sender.send_many([Datagram(bytes([number]), addresses[number % 3]) for number in range(30)])
        for start, receiver in enumerate(receivers):
            got = [(await receiver.receive()).data[0] for _ in range(10)]
            assert got == list(range(start, 30, 3))
        nursery.cancel_scope.cancel()


async def test_a_blocked_destination_fails_by_its_index(udp: Family) -> None:
    blocked = {"udp4": "127.0.0.66", "udp6": "2001:db8::66"}[udp.type]
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, send_block_list=[blocked]) as sock:
        fine, wrong = Datagram(b"x", sock.address), Datagram(b"x", Address(blocked, 9))
        with pytest.raises(SendManyError) as caught:
            await sock.send_many([fine, fine, wrong, wrong, fine])
        assert (caught.value.index, caught.value.sent) == (2, 2)
        assert isinstance(caught.value.__cause__, trio_dgram.AddressBlockedError)
        assert len(await sock.receive_many()) == 2


async def test_equal_addresses_of_the_programs_and_the_networks_choice_are_told_apart(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, offload=False) as sock:
            await sock.send(b"x", sock.address)
            received = await sock.receive()
            mine = Datagram(b"x", Address(*received.address))
            faults.set("sendto", *[errno.EPERM] * 9)
            with pytest.raises(SendManyError) as caught:
                await sock.send_many([received, received.reply(b"y"), mine, received])
            assert (caught.value.index, caught.value.sent) == (2, 0)
