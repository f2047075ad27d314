"""Sending, as other implementations' suites insist on it."""

from __future__ import annotations

import array
import errno
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import Address, Datagram, DatagramSocket

from ..support.families import Family

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


@pytest.mark.parametrize(("value", "expected"), PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("connected", [False, True])
async def test_every_kind_of_payload_arrives(udp: Family, value: object, expected: bytes, connected: bool) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
        trio_dgram.open_socket(udp.type) as sender,
    ):
        to: Address | None = receiver.address
        if connected:
            await sender.connect(receiver.address)
            to = None
        await sender.send(value, to)  # type: ignore[arg-type]
        assert (await receiver.receive()).data == expected
        sender.send_nowait(value, to)  # type: ignore[arg-type]
        assert (await receiver.receive()).data == expected
        if expected:
            await sender.send(value, to, offset=1)  # type: ignore[arg-type]
            await sender.send(value, to, offset=0, length=1)  # type: ignore[arg-type]
            await sender.send(value, to, offset=len(expected), length=0)  # type: ignore[arg-type]
            assert [(await receiver.receive()).data for _ in range(3)] == [expected[1:], expected[:1], b""]
    assert sender.statistics().sent == (5 if expected else 2)


@pytest.mark.parametrize("host", ["", None])
async def test_an_empty_host_is_loopback(udp: Family, host: str | None) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
        trio_dgram.open_socket(udp.type) as sender,
    ):
        to = (host, receiver.address.port)
        await sender.send(b"1", to)
        sender.send_nowait(b"2", to)
        await sender.send([b"3"], to, offset=0, length=1)
        assert [(await receiver.receive()).data for _ in range(3)] == [b"1", b"2", b"3"]


async def test_changing_what_was_sent_after_the_call_has_no_effect(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock, trio.open_nursery() as nursery:
        first = bytearray(b"before")
        parts: list[bytearray | bytes] = [first, b"!"]
        nursery.start_soon(partial(sock.send, parts, sock.address))
        await wait_all_tasks_blocked()
        first[:] = b"later!"
        parts.clear()
        assert (await sock.receive()).data == b"before!"


@pytest.mark.parametrize("wrong", [True, 5, None, [b"x", 5], [None], {"a": 1}, [[b"x"]], 1.5, object()])
async def test_what_is_no_payload_is_refused(udp: Family, wrong: object) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        with pytest.raises(TypeError, match="payload must be bytes-like"):
            await sock.send(wrong, sock.address)  # type: ignore[arg-type]
        assert sock.statistics().sent == 0


@pytest.mark.parametrize(
    ("part", "name", "error"),
    [
        ({"offset": 11}, "offset", ValueError),
        ({"offset": -1}, "offset", ValueError),
        ({"offset": "1"}, "offset", TypeError),
        ({"offset": False}, "offset", TypeError),
        ({"offset": 5, "length": 6}, "length", ValueError),
        ({"length": 11}, "length", ValueError),
        ({"length": -1}, "length", ValueError),
        ({"length": 1.0}, "length", TypeError),
    ],
)
async def test_a_part_beyond_the_payload_is_refused_by_name(
    udp: Family, part: dict[str, Any], name: str, error: type[Exception]
) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        with pytest.raises(error, match=name):
            await sock.send(b"0123456789", sock.address, **part)
        with pytest.raises(error, match=name):
            await sock.send(Datagram(b"0123456789", sock.address), **part)
        assert sock.statistics().sent == 0


@pytest.mark.parametrize("wrong", [0, False, [], {}, 1.5, b"localhost"])
async def test_a_host_that_is_no_string_is_refused_although_falsy(udp: Family, wrong: object) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(TypeError, match="the host of to"):
            await sock.send(b"x", (wrong, 9))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="the host of to"):
            await sock.connect((wrong, 9))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [0, -1, 65536, 10**9])
async def test_a_port_outside_its_range_is_refused(udp: Family, wrong: int) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(ValueError, match="the port of to must be from 1 to 65535"):
            await sock.send(b"x", (udp.loopback, wrong))
        with pytest.raises(ValueError, match="the port of to"):
            await sock.connect((udp.loopback, wrong))


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


async def test_trios_resolver_is_asked_where_there_is_no_lookup(udp: Family) -> None:
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host: object, port: object, *arguments: object) -> object:  # type: ignore[override]
            raise socket.gaierror(socket.EAI_AGAIN, f"asked for {host!r}:{port} {arguments[0]!r}")

        async def getnameinfo(self, *_: object) -> tuple[str, str]:
            raise AssertionError

    trio.socket.set_custom_hostname_resolver(Resolver())
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(socket.gaierror, match=r"asked for b?'no.such.name':9"):
            await sock.send(b"x", ("no.such.name", 9))


async def test_a_refusal_by_the_kernel_carries_errno_operation_address_and_port(udp: Family) -> None:
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


async def test_two_sends_without_waiting_in_between_are_both_delivered(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver:
        async with trio_dgram.open_socket(udp.type) as sender, trio.open_nursery() as nursery:
            nursery.start_soon(sender.send, b"x", receiver.address)
            nursery.start_soon(sender.send, b"x", receiver.address)
        assert len(await receiver.receive_many()) == 2


async def test_ten_sends_each_after_the_one_before_all_arrive(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        for number in range(10):
            await sock.send(str(number), sock.address)
        assert [(await sock.receive()).data for _ in range(10)] == [str(number).encode() for number in range(10)]


async def test_a_hundred_sends_at_once_all_arrive(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(sock.send, bytes([number]), sock.address)
        assert sorted([(await sock.receive()).data[0] for _ in range(100)]) == list(range(100))


async def test_sending_binds_to_all_interfaces_first(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        await sock.send(b"x", (udp.loopback, 9))
        assert sock.address == (udp.wildcard, sock.address.port)
        assert sock.address.port > 0


async def test_send_nowait_binds_too_and_refuses_names(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(ValueError, match="'localhost' is a name"):
            sock.send_nowait(b"x", ("localhost", 9))
        with pytest.raises(trio_dgram.NotBoundError):
            _ = sock.address
        sock.send_nowait(b"x", (udp.loopback, 9))
        assert sock.address.port


@pytest.mark.parametrize("wrong", ["here", 5, ("a",), ("a", 1, 2), ["127.0.0.1", 1], ("127.0.0.1", "1"), ("", True)])
async def test_a_destination_that_is_no_pair_is_refused(udp: Family, wrong: object) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(TypeError, match="to"):
            await sock.send(b"x", wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="to"):
            sock.send_nowait(b"x", wrong)  # type: ignore[arg-type]
        with pytest.raises(trio_dgram.NotBoundError):
            _ = sock.address


async def test_a_literal_of_another_family_is_a_gaierror() -> None:
    async with trio_dgram.open_socket("udp4") as four, trio_dgram.open_socket("udp6", ipv6_only=True) as six:
        for sock, host in ((four, "::1"), (four, "fe80::1%lo"), (six, "127.0.0.1")):
            with pytest.raises(socket.gaierror, match="can reach"):
                await sock.send(b"x", (host, 9))
            with pytest.raises(socket.gaierror):
                sock.send_nowait(b"x", (host, 9))
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
        # What an IPv4 socket received is an IPv4 address to a dual-stack one as well.
        await six.send(b"again", received.address[:2])
        assert (await four.receive()).data == b"and back"


async def test_a_datagram_brings_its_own_address(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        await sock.send(Datagram(b"data", sock.address))
        datagram = await sock.receive()
        await sock.send(datagram.reply(b"answer"))
        assert (await sock.receive()).data == b"answer"
        with pytest.raises(TypeError, match="to must be left out"):
            await sock.send(datagram, sock.address)
        with pytest.raises(TypeError, match="the address of the datagram"):
            await sock.send(Datagram(b"x", "nowhere"))  # type: ignore[arg-type]


async def blocked(sock: DatagramSocket, to: Address) -> None:
    with pytest.raises(trio_dgram.AddressBlockedError, match="send") as caught:
        await sock.send(b"x", to)
    assert isinstance(caught.value, PermissionError)


async def test_nothing_is_sent_to_a_blocked_address_and_what_is_not_blocked_arrives(udp: Family) -> None:
    other = {"udp4": "127.0.0.0/30", "udp6": "::2/127"}[udp.type]
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, send_block_list=[udp.loopback]) as sock:
        await blocked(sock, sock.address)
        with pytest.raises(trio_dgram.AddressBlockedError):
            sock.send_nowait(b"x", sock.address)
        with pytest.raises(trio_dgram.AddressBlockedError, match="connect"):
            await sock.connect(sock.address)
        assert sock.statistics().sent == 0
    async with trio_dgram.open_socket(udp.type, port=0, send_block_list=[other]) as sock:
        if udp.type == "udp6":
            await sock.send(b"x", (udp.loopback, sock.address.port))
            assert (await sock.receive()).data == b"x"
        else:
            await blocked(sock, Address(udp.loopback, 9))
