"""Sending: what the suites of other implementations check."""

from __future__ import annotations

import array
import errno
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

import trio_dgram
from trio_dgram import Address, Datagram, DatagramSocket, Failure, Listening

from ..support.families import Family
from ..support.faults import faulty_kernel
from .conftest import HeldLookup, plain_socket

PAYLOADS = {
    "bytes": (b"0123456789", b"0123456789"),
    "bytearray": (bytearray(b"abc"), b"abc"),
    "memoryview": (memoryview(b"abcdef")[::2], b"ace"),
    "memoryview of words": (memoryview(array.array("H", [1, 2])), array.array("H", [1, 2]).tobytes()),
    "array": (array.array("d", [1.5]), array.array("d", [1.5]).tobytes()),
    "text": ("smörgås", "smörgås".encode()),
    "nothing": (b"", b""),
    "no text": ("", b""),
    "a list": ([b"a", bytearray(b"b"), "ç", memoryview(b"d")], "abçd".encode()),
    "a tuple": ((b"a", b"b"), b"ab"),
    "an empty list": ([], b""),
    "a list of nothing": ([b"", ""], b""),
    "a list of strings": (["hello", " ", "wörld"], "hello wörld".encode()),
}


HOSTS = ["loopback", "", None, "connected"]


@asynccontextmanager
async def sender_and_receiver(
    udp: Family, host: str | None
) -> AsyncGenerator[tuple[DatagramSocket, DatagramSocket, Any]]:
    """Open a sender, a receiver, and yield them with the destination that the sender uses."""
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
        trio_dgram.open_socket(udp.type) as sender,
    ):
        if host == "connected":
            await sender.connect(receiver.address)
            yield sender, receiver, None
        else:
            yield sender, receiver, (udp.loopback if host == "loopback" else host, receiver.address.port)


@pytest.mark.parametrize("host", HOSTS)
async def test_every_kind_of_payload_arrives(udp: Family, host: str | None) -> None:
    async with sender_and_receiver(udp, host) as (sender, receiver, to):
        for kind, (value, expected) in PAYLOADS.items():
            payload: Any = value
            await sender.send(payload, to)
            assert (kind, (await receiver.receive()).data) == (kind, expected)
            # An empty payload has no first byte to leave out.
            one = min(1, len(expected))
            await sender.send(payload, to, offset=one)
            await sender.send(payload, to, offset=0, length=one)
            await sender.send(payload, to, offset=len(expected), length=0)
            parts = [(await receiver.receive()).data for _ in range(3)]
            assert (kind, parts) == (kind, [expected[1:], expected[:1], b""])
        assert sender.statistics().sent == 4 * len(PAYLOADS)


@pytest.mark.kernel_transport("sending at once")
@pytest.mark.parametrize("host", HOSTS)
async def test_send_nowait_sends_every_kind_of_payload(udp: Family, host: str | None) -> None:
    async with sender_and_receiver(udp, host) as (sender, receiver, to):
        for kind, (value, expected) in PAYLOADS.items():
            payload: Any = value
            sender.send_nowait(payload, to)
            assert (kind, (await receiver.receive()).data) == (kind, expected)


@pytest.mark.parametrize("host", ["", None])
async def test_an_empty_host_is_loopback(udp: Family, host: str | None) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
        trio_dgram.open_socket(udp.type) as sender,
    ):
        to = (host, receiver.address.port)
        await sender.send(b"1", to)
        await sender.send([b"2"], to, offset=0, length=1)
        assert [(await receiver.receive()).data for _ in range(2)] == [b"1", b"2"]


async def test_changing_a_payload_after_the_call_has_no_effect(udp: Family, lookup: HeldLookup) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, lookup=lookup) as sock,
        trio.open_nursery() as nursery,
    ):
        first = bytearray(b"before")
        parts: list[bytearray | bytes] = [first, b"!"]
        nursery.start_soon(partial(sock.send, parts, ("a.name", sock.address.port)))
        await lookup.asked.wait()
        first[:] = b"later!"
        parts.clear()
        lookup.allowed.set()
        assert (await sock.receive()).data == b"before!"


async def test_a_name_that_does_not_resolve_raises_the_resolvers_own_exception(udp: Family) -> None:
    error = socket.gaierror(socket.EAI_NONAME, "the resolver's own")

    async def lookup(*_: object) -> tuple[str, int]:
        raise error

    async with trio_dgram.open_socket(udp.type, lookup=lookup, port=0, host=udp.loopback) as sock:
        calls: list[Callable[[], object]] = [
            lambda: sock.send(b"x", ("no.such.name", 9)),
            lambda: sock.connect(("no.such.name", 9)),
        ]
        for call in calls:
            with pytest.raises(socket.gaierror) as caught:
                await call()  # type: ignore[misc]
            assert caught.value is error
        await sock.send(b"usable", sock.address)
        assert (await sock.receive()).data == b"usable"


async def test_trios_resolver_is_used_without_a_lookup(udp: Family) -> None:
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host: object, port: object, *arguments: object) -> object:  # type: ignore[override]
            raise socket.gaierror(socket.EAI_AGAIN, f"asked for {host!r}:{port} {arguments[0]!r}")

        async def getnameinfo(self, *_: object) -> tuple[str, str]:
            raise AssertionError

    trio.socket.set_custom_hostname_resolver(Resolver())
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(socket.gaierror, match=r"asked for b?'no.such.name':9"):
            await sock.send(b"x", ("no.such.name", 9))


async def test_a_kernel_error_carries_errno_operation_address_and_port(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(OSError, match=r"send .*9: Message too long") as caught:
            await sock.send(b"x" * 65_536, (udp.loopback, 9))
        assert caught.value.errno == errno.EMSGSIZE
        assert caught.value.operation == "send"  # type: ignore[attr-defined]
        assert caught.value.address == (udp.loopback, 9)  # type: ignore[attr-defined]
        assert sock.statistics().send_errors == 1


async def test_the_largest_datagram_arrives_and_one_byte_more_does_not(udp: Family) -> None:
    most = {"udp4": 65_507, "udp6": 65_527}[udp.type]
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        await sock.send(b"x" * most, sock.address)
        assert len((await sock.receive()).data) == most
        with pytest.raises(OSError, match="too long"):
            await sock.send(b"x" * (most + 1), sock.address)
        await sock.send(b"usable", sock.address)
        assert (await sock.receive()).data == b"usable"


@pytest.mark.kernel_transport("a kernel with planned answers")
async def test_an_injected_fault_carries_operation_and_address(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
            faults.set("sendto", errno.EPERM, errno.EPERM)
            for _ in range(2):
                with pytest.raises(PermissionError, match=f"send .*{sock.address.port}: ") as caught:
                    await sock.send(b"refused", sock.address)
                assert caught.value.operation == "send"  # type: ignore[attr-defined]
                assert caught.value.address == sock.address  # type: ignore[attr-defined]
            await sock.send(b"usable", sock.address)
            assert [datagram.data for datagram in await sock.receive_many()] == [b"usable"]


@pytest.mark.kernel_transport("sending at once")
async def test_a_failed_send_nowait_leaves_the_socket_usable(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
        trio_dgram.open_socket(udp.type) as sender,
    ):
        with pytest.raises(OSError, match=r"send .*Message too long"):
            sender.send_nowait(bytes(65_536), receiver.address)
        for data in (b"HELO", b"HELO", b"EXIT"):
            sender.send_nowait(data, receiver.address)
        assert [datagram.data for datagram in await receiver.receive_many()] == [b"HELO", b"HELO", b"EXIT"]


@pytest.mark.usefixtures("namespace")
async def test_a_thousand_sends_to_a_closed_port_affect_no_other_datagram(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        data = b"0123"
        for offset, length in [(0, 0), (0, 4), (1, 3), (3, 1), (4, 0)] * 200:
            await sock.send(data, (udp.loopback, 4242), offset=offset, length=length)
        assert sock.statistics().sent == 1_000
        await sock.send(b"to itself", sock.address)
        assert await sock.receive() == (b"to itself", sock.address, None)


async def test_more_datagrams_than_one_batch_arrive_once_each(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
        trio_dgram.open_socket(udp.type) as sender,
    ):
        sent = [b"%02d" % number for number in range(45)] + [b"longer than these"] + [b"%02d" % n for n in range(70)]
        await sender.send_many([Datagram(data, receiver.address) for data in sent])
        received: list[bytes] = []
        while len(received) < len(sent):
            received += [datagram.data for datagram in await receiver.receive_many()]
        assert received == sent
        assert sender.statistics().sent == len(sent)


async def test_a_batch_reaches_any_other_socket_as_single_datagrams(udp: Family) -> None:
    with plain_socket(udp.family) as receiver:
        receiver.bind((udp.loopback, 0))
        to = Address(*receiver.getsockname()[:2])
        async with trio_dgram.open_socket(udp.type) as sender:
            await sender.send_many([Datagram(bytes(size), to) for size in (1000, 1000, 500)])
        assert [len(receiver.recv(4096)) for _ in range(3)] == [1000, 1000, 500]


@pytest.mark.needs("packet_info")
async def test_hop_limit_and_traffic_class_are_sent_with_each_datagram(udp: Family) -> None:
    level, wanted = {
        # IP_RECVTTL has no name in every supported Python.
        "udp4": (socket.IPPROTO_IP, (12, socket.IP_RECVTOS)),
        "udp6": (socket.IPPROTO_IPV6, (socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVTCLASS)),
    }[udp.type]
    with plain_socket(udp.family) as receiver:
        receiver.bind((udp.loopback, 0))
        for option in wanted:
            receiver.setsockopt(level, option, 1)
        async with trio_dgram.open_socket(udp.type, ttl=16, dscp=24, ecn=2) as sender:
            await sender.send(b"1", receiver.getsockname()[:2])
            sender.ttl, sender.dscp, sender.ecn = 255, 0, 0
            await sender.send(b"2", receiver.getsockname()[:2])
        for expected in ({16, 0x62}, {255, 0}):
            _, ancillary, _, _ = receiver.recvmsg(10, 100)
            assert {int.from_bytes(data, sys.byteorder) for _, _, data in ancillary} == expected


async def test_two_concurrent_first_sends_are_both_delivered(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver:
        async with trio_dgram.open_socket(udp.type) as sender:
            listening = sender.events(Listening)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.send, b"abc", receiver.address)
                nursery.start_soon(sender.send, b"def", receiver.address)
            received = [await receiver.receive() for _ in range(2)]
            assert {datagram.data for datagram in received} == {b"abc", b"def"}
            assert {datagram.address.port for datagram in received} == {sender.address.port}
        assert len([event async for event in listening]) == 1


async def test_unresolved_names_fail_each_send_and_leave_the_socket_usable(udp: Family, lookup: HeldLookup) -> None:
    lookup.error = error = socket.gaierror(socket.EAI_NONAME, "the resolver's own")
    async with trio_dgram.open_socket(udp.type, lookup=lookup) as sock:
        failures = sock.events(Failure)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(socket.gaierror) as caught:
                    await sock.send(b"x", ("a.name", 9))
                assert caught.value is error

            for _ in range(3):
                nursery.start_soon(send)
            await lookup.asked.wait()
            lookup.allowed.set()
        assert sock.statistics().sent == 0
        await sock.bind(0, udp.loopback)
        await sock.send(b"usable", sock.address)
        assert (await sock.receive()).data == b"usable"
    assert [event async for event in failures] == []


async def test_ten_sends_in_sequence_all_arrive(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        for number in range(10):
            await sock.send(str(number), sock.address)
        assert [(await sock.receive()).data for _ in range(10)] == [str(number).encode() for number in range(10)]


async def test_a_hundred_concurrent_sends_all_arrive(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(sock.send, bytes([number]), sock.address)
        assert sorted([(await sock.receive()).data[0] for _ in range(100)]) == list(range(100))


async def test_sending_autobinds_to_the_wildcard_address(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        await sock.send(b"x", (udp.loopback, 9))
        assert sock.address == (udp.wildcard, sock.address.port)
        assert sock.address.port > 0


@pytest.mark.kernel_transport("sending at once")
async def test_send_nowait_autobinds_and_rejects_names(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(ValueError, match="needs a numeric host, not 'localhost'"):
            sock.send_nowait(b"x", ("localhost", 9))
        with pytest.raises(trio_dgram.NotBoundError):
            _ = sock.address
        sock.send_nowait(b"x", (udp.loopback, 9))
        assert sock.address.port


@pytest.mark.kernel_transport("sending at once")
async def test_send_nowait_rejects_literals_of_the_other_family_and_blocked_addresses(udp: Family) -> None:
    async with trio_dgram.open_socket("udp4") as four, trio_dgram.open_socket("udp6", ipv6_only=True) as six:
        for sock, host in ((four, "::1"), (four, "fe80::1%lo"), (six, "127.0.0.1")):
            with pytest.raises(socket.gaierror, match="can reach"):
                sock.send_nowait(b"x", (host, 9))
    async with trio_dgram.open_socket(udp.type, send_block_list=[udp.loopback]) as sock:
        with pytest.raises(trio_dgram.AddressBlockedError, match="send"):
            sock.send_nowait(b"x", (udp.loopback, 9))


async def test_a_literal_of_the_other_family_raises_gaierror() -> None:
    async with trio_dgram.open_socket("udp4") as four, trio_dgram.open_socket("udp6", ipv6_only=True) as six:
        for sock, host in ((four, "::1"), (four, "fe80::1%lo"), (six, "127.0.0.1")):
            with pytest.raises(socket.gaierror, match="can reach"):
                await sock.send(b"x", (host, 9))
            with pytest.raises(socket.gaierror):
                await sock.connect((host, 9))


async def test_an_ipv4_literal_on_a_dual_stack_socket_is_mapped() -> None:
    async with (
        trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as four,
        trio_dgram.open_socket("udp6", port=0) as six,
    ):
        await six.send(b"to four", four.address)
        received = await four.receive()
        assert received.data == b"to four"
        await four.send(b"to six", ("127.0.0.1", six.address.port))
        answer = await six.receive()
        assert answer.address == (f"::ffff:{four.address.host}", four.address.port)
        await six.send(b"and back", answer.address)
        # A dual-stack socket also maps the IPv4 address of a received datagram.
        await six.send(b"again", received.address[:2])
        assert (await four.receive()).data == b"and back"


async def test_a_datagram_is_sent_to_its_own_address(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        await sock.send(Datagram(b"data", sock.address))
        datagram = await sock.receive()
        await sock.send(datagram.reply(b"answer"))
        assert (await sock.receive()).data == b"answer"
        with pytest.raises(TypeError, match="to must be omitted"):
            await sock.send(datagram, sock.address)
        with pytest.raises(TypeError, match="the address of the datagram"):
            await sock.send(Datagram(b"x", "nowhere"))  # type: ignore[arg-type]


async def blocked(sock: DatagramSocket, to: Address) -> None:
    with pytest.raises(trio_dgram.AddressBlockedError, match="send") as caught:
        await sock.send(b"x", to)
    assert isinstance(caught.value, PermissionError)


async def test_sends_to_blocked_addresses_raise_and_other_addresses_are_reached(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, send_block_list=[udp.loopback]) as sock:
        await blocked(sock, sock.address)
        with pytest.raises(trio_dgram.AddressBlockedError, match="connect"):
            await sock.connect(sock.address)
        assert sock.statistics().sent == 0
    other = {"udp4": "127.0.0.4/30", "udp6": "::2/127"}[udp.type]
    async with trio_dgram.open_socket(udp.type, port=0, send_block_list=[other]) as sock:
        await blocked(sock, Address(other.partition("/")[0], 9))
        await sock.send(b"x", ("", sock.address.port))
        assert (await sock.receive()).data == b"x"
