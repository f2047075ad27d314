"""Many datagrams read by one system call."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import trio_dgram
from trio_dgram import Datagram, DatagramSocket
from trio_dgram._codecs.ancillary import control_messages
from trio_dgram._codecs.families import FAMILIES
from trio_dgram._kernel import receiver as _receiver
from trio_dgram._kernel import system_socket as _system
from trio_dgram._kernel.recvmmsg import Batch
from trio_dgram._kernel.system_socket import SystemSocket
from trio_dgram._values.addresses import ReceivedIPv6Address, ScopedReceivedAddress

from .support.families import Family
from .support.faults import FaultySocket, faulty_kernel

pytestmark = pytest.mark.skipif(not _system.capabilities.batches, reason="kernel: it has no recvmmsg")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every datagram read in a batch, also one that comes alone."""
    monkeypatch.setattr(_receiver, "_SEVERAL", 0)


async def received(sock: DatagramSocket, count: int) -> list[Datagram]:
    """Return the next ``count`` datagrams."""
    return [await sock.receive() for _ in range(count)]


async def test_a_burst_is_read_by_few_calls_and_single_datagrams_by_their_own(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, offload=False) as sock:
            payloads = [number.to_bytes(2, "big") for number in range(100)]
            # Of the first burst, batches of 1, 2, 4 and 8 show that more is coming. The second one is read as a burst.
            for calls in ((15, 3), (0, 2)):
                await sock.send_many([Datagram(data, sock.address) for data in payloads])
                faults.calls.clear()
                got = await received(sock, 100)
                assert [datagram.data for datagram in got] == payloads
                assert (faults.calls["recvfrom"], faults.calls["recvmmsg"]) == calls
                with pytest.raises(trio.WouldBlock):
                    sock.receive_nowait()
            for number in range(10):
                faults.calls.clear()
                await sock.send(b"alone", sock.address)
                assert (await sock.receive()).data == b"alone"
                assert faults.calls["recvmmsg"] == (number == 0)
            # Nor is there more than one looked for, but now and then.
            assert faults.calls["recvfrom"] <= 2


@pytest.mark.usefixtures("always")
async def test_datagrams_of_all_sizes_and_senders_come_as_they_were_sent(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket(udp.type, receive_buffer_size=8_000_000)
        to = await sock.bind(0, udp.loopback)
        senders = [nursery.create_socket(udp.type) for _ in range(3)]
        addresses = [await sender.bind(0, udp.loopback) for sender in senders]
        sizes = [0, 1, 1472, 65507, 0, 9000]
        for number, size in enumerate(sizes):
            await senders[number % 3].send(bytes([number]) * size, to)
        got = await sock.receive_many()
        assert [datagram.data for datagram in got] == [bytes([number]) * size for number, size in enumerate(sizes)]
        assert [datagram.address for datagram in got] == addresses * 2
        # The same sender is the same value.
        assert got[0].address is got[3].address
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("always")
async def test_a_dual_stack_socket_tells_its_peers_apart() -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket("udp6")
        port = (await sock.bind(0, "::")).port
        four, six = nursery.create_socket("udp4"), nursery.create_socket("udp6")
        await four.send(b"4", ("127.0.0.1", port))
        await six.send(b"6", ("::1", port))
        assert [datagram.address for datagram in await sock.receive_many()] == [
            ("::ffff:127.0.0.1", four.address.port),
            ("::1", six.address.port),
        ]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
@pytest.mark.usefixtures("always")
async def test_a_kernel_without_the_call_is_asked_for_it_once(udp: Family, number: int) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            faults.set("recvmmsg", number)
            await sock.send_many([Datagram(b"1", sock.address), Datagram(b"22", sock.address)])
            assert [datagram.data for datagram in await received(sock, 2)] == [b"1", b"22"]
            assert faults.calls["recvmmsg"] == 1
            assert sock.statistics().receive_errors == 0


@pytest.mark.usefixtures("always", "coalescing")
async def test_joined_datagrams_come_in_batches_of_about_what_was_asked_for(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, receive_buffer_size=2_000_000) as sock:
            with pytest.raises(trio.WouldBlock):
                sock.receive_nowait()
            for number in range(20):
                await sock.send_many([Datagram(bytes([number]) * 10, sock.address)] * 50)
            got = await sock.receive_many(60)
            faults.calls.clear()
            while len(got) < 1000:
                before = len(got)
                got += await sock.receive_many(60)
                assert len(got) - before <= 60
            assert [datagram.data for datagram in got] == [bytes([index // 50]) * 10 for index in range(1000)]
            assert sock.statistics().coalesced_receives == 20


class _Telling(FaultySocket):
    """Says of every datagram that what is told beside it had no room."""

    def recvmmsg(self, most: int, source_size: int, *, ancillary: bool) -> Batch:
        payloads, sources, _ = SystemSocket.recvmmsg(self, most, source_size, ancillary=ancillary)
        return payloads, sources, [(b"", socket.MSG_CTRUNC)] * len(payloads)


@pytest.mark.usefixtures("always", "coalescing")
async def test_datagrams_whose_borders_are_lost_are_discarded_and_counted(
    udp: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.faults.FaultySocket", _Telling)
    with faulty_kernel():
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            with pytest.raises(trio.WouldBlock):
                sock.receive_nowait()
            await sock.send_many([Datagram(b"xy", sock.address)] * 5)
            with pytest.raises(trio.WouldBlock):
                sock.receive_nowait()
            assert (sock.statistics().truncated, sock.statistics().received) == (1, 1)


@pytest.mark.usefixtures("always")
def test_threads_do_not_get_each_others_datagrams(udp: Family) -> None:
    wrong: list[Any] = []

    async def talk_to_oneself(name: bytes) -> None:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, offload=False) as sock:
            for number in range(50):
                sent = [Datagram(name * (number + 1), sock.address)] * 20
                await sock.send_many(sent)
                got = await received(sock, 20)
                wrong.extend(datagram for datagram in got if datagram[:2] != (name * (number + 1), sock.address))

    threads = [threading.Thread(target=trio.run, args=(talk_to_oneself, name)) for name in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def packed_ipv4(host: str, port: int) -> bytes:
    """Return a struct sockaddr_in (ip(7))."""
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)


def packed_ipv6(host: str, port: int, scope: int = 0) -> bytes:
    """Return a struct sockaddr_in6 (ipv6(7))."""
    octets = socket.inet_pton(socket.AF_INET6, host)
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + octets + struct.pack("=I", scope)


def test_what_the_kernel_writes_is_read_as_the_socket_module_does() -> None:
    sent = [("1.2.30.255", 1), ("127.0.0.1", 65535)]
    assert FAMILIES["udp4"].received(b"".join(packed_ipv4(*address) for address in sent)) == sent
    packed = packed_ipv6("2001:db8::1", 53) + packed_ipv6("fe80::1", 53, 1) + packed_ipv6("::ffff:1.2.3.4", 5353)
    addresses = FAMILIES["udp6"].received(packed)
    assert addresses == [("2001:db8::1", 53), ("fe80::1%lo", 53), ("::ffff:1.2.3.4", 5353)]
    assert [type(address) for address in addresses] == [ReceivedIPv6Address, ScopedReceivedAddress, ReceivedIPv6Address]


def test_addresses_that_cannot_be_answered_are_nobodys() -> None:
    packed = packed_ipv4("1.2.3.4", 0) + packed_ipv4("1.2.3.4", 1)
    assert FAMILIES["udp4"].received(packed) == [None, ("1.2.3.4", 1)]
    assert FAMILIES["udp6"].received(packed_ipv6("::1", 0) + packed_ipv6("::", 53)) == [None, None]


MESSAGES = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.binary(max_size=40)), max_size=4)


def packed_messages(messages: list[tuple[int, int, bytes]]) -> bytes:
    """Return ``messages`` as the kernel writes them (cmsg(3))."""
    packed = b""
    for level, kind, data in messages:
        message = struct.pack("@Nii", socket.CMSG_LEN(len(data)), level, kind) + data
        packed += message.ljust(socket.CMSG_SPACE(len(data)), b"\0")
    return packed


@given(messages=MESSAGES)
def test_control_messages_are_read_as_they_were_written(messages: list[tuple[int, int, bytes]]) -> None:
    assert control_messages(packed_messages(messages)) == messages


@given(messages=MESSAGES, end=st.integers(0, 100), junk=st.binary(max_size=100))
def test_bytes_that_are_no_control_messages_end_the_list(
    messages: list[tuple[int, int, bytes]], end: int, junk: bytes
) -> None:
    packed = packed_messages(messages)
    found = control_messages(packed[:end])
    assert found == messages[: len(found)]
    assert control_messages(packed + bytes(len(junk)))[: len(messages)] == messages
    control_messages(junk)
