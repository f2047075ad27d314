"""recvmmsg(2): many datagrams received by one system call."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import trio_dgram
from trio_dgram import Datagram, DatagramSocket
from trio_dgram._codecs.ancillary import control_messages
from trio_dgram._codecs.families import FAMILIES
from trio_dgram._kernel import python_calls as _python_calls
from trio_dgram._values.addresses import ReceivedIPv6Address, ScopedReceivedAddress

from .support.families import Family
from .support.faults import faulty_kernel
from .support.planned import packed_ipv4, packed_ipv6, packed_messages

pytestmark = pytest.mark.skipif(not trio_dgram.capabilities().batches, reason="kernel: no recvmmsg")


@pytest.fixture
def batched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receive every datagram by recvmmsg, also a single one."""
    monkeypatch.setattr(_python_calls, "_BURST", 0)


async def received(sock: DatagramSocket, count: int) -> list[Datagram]:
    """Return the next ``count`` datagrams."""
    return [await sock.receive() for _ in range(count)]


async def test_a_burst_is_received_by_recvmmsg_and_single_datagrams_by_recvfrom(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, offload=False) as sock:
            payloads = [number.to_bytes(2, "big") for number in range(100)]
            # The first burst is recognised after batches of 1, 2, 4 and 8, the second one from its beginning.
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
            # A second recvfrom, which finds the queue empty, is rare.
            assert faults.calls["recvfrom"] <= 2


@pytest.mark.usefixtures("batched", "coalescing")
async def test_coalesced_datagrams_are_received_up_to_max_count(udp: Family) -> None:
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


def test_packed_sources_are_decoded_as_by_the_socket_module() -> None:
    sent = [("1.2.30.255", 1), ("127.0.0.1", 65535)]
    assert FAMILIES["udp4"].sources(b"".join(packed_ipv4(*address) for address in sent)) == sent
    packed = packed_ipv6("2001:db8::1", 53) + packed_ipv6("fe80::1", 53, 1) + packed_ipv6("::ffff:1.2.3.4", 5353)
    addresses = FAMILIES["udp6"].sources(packed)
    assert addresses == [("2001:db8::1", 53), ("fe80::1%lo", 53), ("::ffff:1.2.3.4", 5353)]
    assert [type(address) for address in addresses] == [ReceivedIPv6Address, ScopedReceivedAddress, ReceivedIPv6Address]


def test_sources_that_cannot_be_answered_are_none() -> None:
    packed = packed_ipv4("1.2.3.4", 0) + packed_ipv4("1.2.3.4", 1)
    assert FAMILIES["udp4"].sources(packed) == [None, ("1.2.3.4", 1)]
    assert FAMILIES["udp6"].sources(packed_ipv6("::1", 0) + packed_ipv6("::", 53)) == [None, None]


MESSAGES = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.binary(max_size=40)), max_size=4)


@given(messages=MESSAGES)
def test_control_messages_are_decoded_as_they_were_encoded(messages: list[tuple[int, int, bytes]]) -> None:
    assert control_messages(packed_messages(messages)) == messages


@given(messages=MESSAGES, end=st.integers(0, 100), junk=st.binary(max_size=100))
def test_malformed_bytes_end_the_list_of_control_messages(
    messages: list[tuple[int, int, bytes]], end: int, junk: bytes
) -> None:
    packed = packed_messages(messages)
    found = control_messages(packed[:end])
    assert found == messages[: len(found)]
    assert control_messages(packed + bytes(len(junk)))[: len(messages)] == messages
    control_messages(junk)
