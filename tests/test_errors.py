"""Bad input gets a clear error before anything happened, and the socket works afterwards."""

from __future__ import annotations

import copy
import errno
import math
import pickle
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import Address, Datagram, DatagramSocket, PacketInfo, PeerUnreachable, SendManyError
from trio_dgram._kernel import system_socket as _system
from trio_dgram._values.errors import annotated

from .support.descriptors import same_descriptors
from .support.families import Family

NOT_STRINGS: tuple[object, ...] = (0, False, 1.5, b"x", [])
NOT_INTEGERS: tuple[object, ...] = ("1", 1.5, True, None, [], b"1")
NO_PAIRS: tuple[object, ...] = (None, "x", 1, [], ("a",))
NOT_BOOLS: tuple[object, ...] = (0, 1, "yes", None, [])

# Option, values of a wrong type, values out of its domain.
OPTIONS: dict[str, tuple[tuple[object, ...], tuple[object, ...]]] = {
    "reuse_address": (NOT_BOOLS, ()),
    "reuse_port": (NOT_BOOLS, ()),
    "ipv6_only": (NOT_BOOLS, ()),
    "offload": (NOT_BOOLS, ()),
    "packet_info": (NOT_BOOLS, ()),
    "icmp_errors": (NOT_BOOLS, ()),
    "mtu_discovery": ((1, None, b"do"), ("", "DO", "always")),
    "broadcast": (NOT_BOOLS, ()),
    "multicast_loopback": (NOT_BOOLS, ()),
    "receive_buffer_size": (NOT_INTEGERS, (-1, 2**31)),
    "send_buffer_size": (NOT_INTEGERS, (-1, 2**31)),
    "ttl": (NOT_INTEGERS, (0, 256, -1)),
    "dscp": (NOT_INTEGERS, (-1, 64)),
    "ecn": (NOT_INTEGERS, (-1, 3)),
    "multicast_ttl": (NOT_INTEGERS, (-1, 256)),
    "multicast_interface": ((1.5, True, b"lo", []), ("", 0, -1)),
    "device": ((0, 1.5, True, b"lo", []), ("", "a" * 16, "a\0b")),
    "lookup": (("name", 1, []), ()),
    "receive_block_list": ((1, None, "10.0.0.0/8", b"x", [1], [None]), (["nowhere"], ["10.0.0.0/99"])),
    "send_block_list": ((1, None, "10.0.0.0/8", b"x", [1], [None]), (["nowhere"], ["10.0.0.0/99"])),
}
# What the platform has not got cannot be read back.
ABSENT = set() if _system.capabilities.path_mtu else {"mtu_discovery"}
PROPERTIES = [name for name in OPTIONS if hasattr(DatagramSocket, name) and name not in ABSENT]


def wrong_options(names: Iterable[str]) -> list[Any]:
    return [
        pytest.param(name, value, error, id=f"{name}={value!r}")
        for name in names
        for values, error in zip(OPTIONS[name], (TypeError, ValueError), strict=True)
        for value in values
    ]


def test_the_table_knows_every_option() -> None:
    assert set(OPTIONS) == set(trio_dgram.SocketOptions.__annotations__)


async def works(sock: DatagramSocket, udp: Family) -> None:
    """Send the socket something and receive it."""
    before = sock.statistics()
    await sock.send(b"works", (udp.loopback, sock.address.port))
    assert (await sock.receive()).data == b"works"
    after = sock.statistics()
    assert (after.sent - before.sent, after.received - before.received) == (1, 1)


@pytest.mark.parametrize(("name", "value", "error"), wrong_options(OPTIONS))
async def test_a_wrong_option_is_named_before_a_descriptor_is_made(
    udp: Family, name: str, value: object, error: type[Exception]
) -> None:
    options: dict[str, Any] = {name: value}
    async with trio_dgram.open_nursery() as nursery:
        with same_descriptors(), pytest.raises(error, match=name):
            nursery.create_socket(udp.type, **options)
    with same_descriptors(), pytest.raises(error, match=name):
        async with trio_dgram.open_socket(udp.type, **options):
            raise AssertionError


@pytest.mark.parametrize(("name", "value", "error"), wrong_options(PROPERTIES))
async def test_a_wrong_property_is_named_and_changes_nothing(
    udp: Family, name: str, value: object, error: type[Exception]
) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        before = getattr(sock, name)
        with pytest.raises(error, match=name):
            setattr(sock, name, value)
        assert getattr(sock, name) == before
        await works(sock, udp)


async def test_an_unknown_option_is_named() -> None:
    async with trio_dgram.open_nursery() as nursery:
        with same_descriptors(), pytest.raises(TypeError, match="'reuseAddr'"):
            nursery.create_socket("udp4", reuseAddr=True)  # type: ignore[call-arg]


async def test_ipv6_only_is_for_udp6() -> None:
    async with trio_dgram.open_nursery() as nursery:
        with same_descriptors(), pytest.raises(ValueError, match="ipv6_only is for udp6"):
            nursery.create_socket("udp4", ipv6_only=True)


Call = Callable[[DatagramSocket], Awaitable[object]]


def calls(method: str, *wrong: tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]) -> list[Any]:
    """Return the table's rows for one method: arguments, keywords, error, what it names."""

    def call_with(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Call:
        return lambda sock: getattr(sock, method)(*arguments, **keywords)

    return [
        pytest.param(call_with(arguments, keywords), error, names, id=f"{method} {arguments} {keywords}")
        for arguments, keywords, error, names in wrong
    ]


BAD_ARGUMENTS = [
    *calls(
        "bind",
        *[((value,), {}, TypeError, "port must be an integer") for value in ("1", 1.5, True, None)],
        *[((value,), {}, ValueError, "port must be from 0 to 65535") for value in (-1, 65536)],
        *[((0, value), {}, TypeError, "host must be") for value in NOT_STRINGS],
        ((0, "a\0b"), {}, ValueError, "host must not contain"),
        ((0,), {"exclusive": 1}, TypeError, "exclusive must be a bool"),
    ),
    *calls(
        "connect",
        *[((value,), {}, TypeError, "to must be a .host, port. tuple") for value in NO_PAIRS],
        (((b"x", 1),), {}, TypeError, "the host of to"),
        ((("", "1"),), {}, TypeError, "the port of to"),
        ((("", 0),), {}, ValueError, "the port of to"),
    ),
    *calls(
        "send",
        ((1, ("", 9)), {}, TypeError, "payload must be"),
        ((b"x", "there"), {}, TypeError, "to must be"),
        ((b"x", ("", 0)), {}, ValueError, "the port of to"),
        ((b"x", ("", 9)), {"offset": 2}, ValueError, "offset"),
        ((b"x", ("", 9)), {"length": 2}, ValueError, "length"),
    ),
    *calls(
        "send_nowait",
        ((1, ("", 9)), {}, TypeError, "payload must be"),
        ((b"x", "there"), {}, TypeError, "to must be"),
        ((b"x", ("a.name", 9)), {}, ValueError, "'a.name' is a name"),
    ),
    *calls(
        "send_many",
        ((None,), {}, TypeError, "datagrams must be an iterable"),
        (([b"x"],), {}, TypeError, "item 0 of datagrams must be a Datagram"),
        (([Datagram(b"x", Address("::1", 1)), 1],), {}, TypeError, "item 1 of datagrams"),
        (([Datagram(b"x", 5)],), {}, TypeError, "the address of item 0"),  # type: ignore[arg-type]
        (([Datagram(1, Address("", 1))],), {}, TypeError, "payload must be"),  # type: ignore[arg-type]
    ),
    *calls("receive_many", *[((value,), {}, TypeError, "max_count") for value in NOT_INTEGERS]),
    *calls("receive_many", *[((value,), {}, ValueError, "max_count") for value in (0, -1)]),
    *calls(
        "events",
        ((int,), {}, TypeError, "events takes event types"),
        (("Closed",), {}, TypeError, "events takes event types"),
        ((), {"overflow": "drop"}, ValueError, "overflow must be one of"),
        ((), {"overflow": None}, TypeError, "overflow must be one of"),
        *[((), {"max_buffer_size": value}, TypeError, "max_buffer_size") for value in ("1", 1.5, True, None)],
        *[((), {"max_buffer_size": value}, ValueError, "max_buffer_size") for value in (0, -1)],
    ),
]


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize(("call", "error", "names"), BAD_ARGUMENTS)
async def test_a_wrong_argument_is_named_before_anything_happened(
    udp: Family, call: Call, error: type[Exception], names: str, bound: bool
) -> None:
    async with trio_dgram.open_socket(udp.type, port=0 if bound else None) as sock:
        events = sock.events()
        if bound:
            await events.receive()
        before = sock.statistics()
        with pytest.raises(error, match=names):
            await call(sock)
        assert sock.statistics() == before
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()
        events.close()
        if not bound:
            with pytest.raises(trio_dgram.NotBoundError):
                _ = sock.address
            await sock.bind()
        await works(sock, udp)


State = Callable[[DatagramSocket], Awaitable[object]]

WRONG_STATES: dict[str, tuple[str, State, type[Exception], str]] = {
    "bind": ("bound", lambda sock: sock.bind(), trio_dgram.AlreadyBoundError, "bound already"),
    "send": ("bound", lambda sock: sock.send(b"x"), trio_dgram.NotConnectedError, "not connected"),
    "receive": ("unbound", lambda sock: sock.receive(), trio_dgram.NotBoundError, "no local address"),
    "receive_many": ("unbound", lambda sock: sock.receive_many(), trio_dgram.NotBoundError, "no local address"),
    "connect": ("connected", lambda sock: sock.connect(("", 9)), trio_dgram.AlreadyConnectedError, "already"),
    "send to": ("connected", lambda sock: sock.send(b"x", ("", 9)), trio_dgram.AlreadyConnectedError, "connected to"),
}


@pytest.mark.parametrize(("state", "call", "error", "names"), WRONG_STATES.values(), ids=WRONG_STATES)
async def test_a_wrong_state_is_named_and_the_socket_works_afterwards(
    udp: Family, state: str, call: State, error: type[Exception], names: str
) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        if state != "unbound":
            await sock.bind(0, udp.loopback)
        if state == "connected":
            await sock.connect(sock.address)
        with pytest.raises(error, match=names) as caught:
            await call(sock)
        assert isinstance(caught.value, trio_dgram.SocketStateError)
        assert isinstance(caught.value, trio_dgram.DatagramError)
        if state == "connected":
            sock.disconnect()
        if state == "unbound":
            await sock.bind(0, udp.loopback)
        await works(sock, udp)


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ((1, 9, "udp4"), TypeError, "host must be"),
        (("", "9", "udp4"), TypeError, "port must be an integer"),
        (("", 0, "udp4"), ValueError, "port must be from 1"),
        (("", 9, "udp"), ValueError, "type must be one of"),
        (("", 9, 4), TypeError, "type must be one of"),
    ],
)
async def test_resolve_names_what_is_wrong(arguments: tuple[Any, ...], error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        await trio_dgram.resolve(*arguments)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, TypeError),
        ("127.0.0.1", TypeError),
        ((b"x", 1), TypeError),
        (("127.0.0.1",), TypeError),
        (("127.0.0.1", "1"), TypeError),
        (("127.0.0.1", 70_000), ValueError),
        (("still.a.name", 1), ValueError),
    ],
)
async def test_a_lookup_that_answers_nonsense_is_told_so(udp: Family, answer: object, error: type[Exception]) -> None:
    async def lookup(*_: object) -> Any:
        return answer

    async with trio_dgram.open_socket(udp.type, lookup=lookup, port=0, host=udp.loopback) as sock:
        with pytest.raises(error, match="lookup"):
            await sock.send(b"x", ("a.name", 9))
        await works(sock, udp)


def test_values_are_immutable_and_made_for_comparison(udp: Family) -> None:
    address = Address(udp.loopback, 1)
    datagram = Datagram(b"x", address)
    assert datagram == Datagram(data=b"x", address=address, info=None)
    with pytest.raises(AttributeError):
        datagram.data = b"y"  # type: ignore[misc]
    assert PacketInfo(ecn=1) == PacketInfo(ecn=1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        PacketInfo().ecn = 1  # type: ignore[misc]


async def test_an_unbounded_buffer_is_allowed(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        assert not sock.events(max_buffer_size=math.inf).closed


async def test_long_values_are_shown_short() -> None:
    with pytest.raises(TypeError) as caught:
        await trio_dgram.resolve(b"x" * 10_000, 1, "udp4")  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


async def test_the_short_way_of_an_answer_checks_as_well(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        await works(sock, udp)
        await sock.send(b"x", sock.address)
        datagram = await sock.receive()
        for wrong in (False, "", None):
            with pytest.raises(TypeError, match="offset"):
                await sock.send(b"y", datagram.address, offset=wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="payload"):
            await sock.send(None, datagram.address)  # type: ignore[arg-type]
        await works(sock, udp)


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 -- our own


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_errors_can_be_copied_and_pickled(again: Callable[[Any], Any]) -> None:
    to = Address("192.0.2.1", 9)
    unreachable = PeerUnreachable(
        errno.ECONNREFUSED, icmp_type=3, icmp_code=3, reason="port unreachable", offender=None, path_mtu=None
    )
    annotated(unreachable, "send", to)
    refused = annotated(OSError(errno.EACCES, "no"), "send", to)
    for error in (unreachable, SendManyError(refused, 3, 2)):
        copied = again(error)
        assert type(copied) is type(error)
        assert (copied.errno, str(copied), vars(copied)) == (error.errno, str(error), vars(error))
