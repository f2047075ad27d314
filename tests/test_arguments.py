"""Wrong arguments raise an error that names them, in every state of a socket, before anything happens.

Validation runs before the address family and the transport matter, so each method has one table: a row is a call and
the error that it raises. A failing test lists the offending rows.
"""

from __future__ import annotations

import array
import math
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import Address, Datagram, DatagramSocket, EventChannel, PacketInfo

from .support.descriptors import same_descriptors
from .support.factories import run_on_awaited_sockets
from .support.families import FAMILIES, Family
from .support.simulated import run_simulated
from .support.tables import Wrong, each_wrong, offending_rows, wrong

NOT_STRINGS: Final[tuple[object, ...]] = (0, False, 1.5, b"x", [])
NOT_INTEGERS: Final[tuple[object, ...]] = ("1", "x", 1.0, 1.5, True, None, [], b"1", math.inf)
NOT_BOOLS: Final[tuple[object, ...]] = (0, 1, 16, "yes", "on", None, [])
NOT_HOSTS: Final[tuple[object, ...]] = (0, False, [], {}, 1, True, 1.5, b"localhost", b"x")
NOT_PAIRS: Final[tuple[object, ...]] = ("x", "here", "there", 1, 5, [], ("a",), ("a", 1, 2), ["127.0.0.1", 1])
NOT_PORTS: Final[tuple[object, ...]] = ("1", "9", None, False, True)
PORTS_OUT_OF_RANGE: Final[tuple[object, ...]] = (0, -1, 65_536, 70_000, 78_960, 10**9)

TO: Final = ("", 9)
AT: Final = Address("127.0.0.1", 9)


def destination_rows(*before: Any) -> list[Wrong]:
    """Return the wrong destinations of a method whose arguments before it are right."""
    return [
        *[wrong(TypeError, r"\bto must be a .host, port. tuple", *before, value) for value in NOT_PAIRS],
        *[wrong(TypeError, "the host of to must be", *before, (host, 9)) for host in NOT_HOSTS],
        *[
            wrong(error, f"the port of to must be {words}", *before, (host, port))
            for host in ("", "127.0.0.1", "::1")
            for error, words, ports in (
                (TypeError, "an integer", NOT_PORTS),
                (ValueError, "from 1 to 65535", PORTS_OUT_OF_RANGE),
            )
            for port in ports
        ],
    ]


WRONG_INFOS: Final[list[tuple[Any, type[Exception], str]]] = [
    ("x", TypeError, "PacketInfo"),
    (PacketInfo(local_address=5), TypeError, "local_address"),  # type: ignore[arg-type]
    (PacketInfo(local_address="localhost"), ValueError, "local_address"),
    (PacketInfo(local_address=""), ValueError, "local_address"),
    (PacketInfo(interface=0), ValueError, "interface"),
    (PacketInfo(interface="lo"), TypeError, "interface"),  # type: ignore[arg-type]
    (PacketInfo(ecn=3), ValueError, "ecn"),
    (PacketInfo(ecn=True), TypeError, "ecn"),
    (PacketInfo(dscp=64), ValueError, "dscp"),
    (PacketInfo(hop_limit=0), ValueError, "hop_limit"),
    (PacketInfo(hop_limit=256), ValueError, "hop_limit"),
]

NOT_PAYLOADS: Final[tuple[object, ...]] = (True, 1, 5, None, [b"x", 5], [None], {"a": 1}, [[b"x"]], 1.5, object())

# What send() and send_nowait() have in common.
SENDING: Final = [
    *[wrong(TypeError, "payload must be bytes-like", value, TO) for value in NOT_PAYLOADS],
    *destination_rows(b"x"),
    *[
        wrong(TypeError, "the address of the datagram", Datagram(b"x", address))  # type: ignore[arg-type]
        for address in ("nowhere", 5, None)
    ],
    *[
        wrong(error, "the port of", Datagram(b"", Address("127.0.0.1", port)).reply(b"x"))
        for port, error in ((70_000, ValueError), (0, ValueError), (True, TypeError))
    ],
    wrong(TypeError, "to must be omitted", Datagram(b"x", AT), TO),
    *[wrong(error, name, Datagram(b"x", AT, info)) for info, error, name in WRONG_INFOS],
]

PAYLOADS_OF_TEN: Final = (
    b"0123456789",
    "0123456789",
    bytearray(10),
    memoryview(b"x" * 20)[::2],
    array.array("B", b"0123456789"),
    ["", b"x" * 10],
)
WRONG_PARTS: Final[list[tuple[dict[str, Any], str, type[Exception]]]] = [
    ({"offset": 11}, "offset", ValueError),
    ({"offset": -1}, "offset", ValueError),
    ({"offset": "1"}, "offset", TypeError),
    ({"offset": ""}, "offset", TypeError),
    ({"offset": None}, "offset", TypeError),
    ({"offset": False}, "offset", TypeError),
    ({"offset": 5, "length": 6}, "length", ValueError),
    ({"length": 11}, "length", ValueError),
    ({"length": -1}, "length", ValueError),
    ({"length": 1.0}, "length", TypeError),
]

METHODS: Final[dict[str, list[Wrong]]] = {
    "bind": [
        *each_wrong(TypeError, "port must be an integer", ("80", *NOT_INTEGERS)),
        *each_wrong(ValueError, "port must be from 0 to 65535", (-1, 65_536)),
        *[wrong(TypeError, "host must be", 0, value) for value in (*NOT_STRINGS, 12_345, b"::1")],
        wrong(ValueError, "host must not contain", 0, "a\0b"),
        wrong(TypeError, "exclusive must be a bool", 0, exclusive=1),
        wrong(TypeError, "positional", 0, "127.0.0.1", print),
    ],
    "connect": [
        wrong(TypeError, "to must be a .host, port. tuple", None),
        wrong(TypeError, "the host of to", (b"x", 1)),
        *destination_rows(),
    ],
    "send": [
        *SENDING,
        wrong(ValueError, "offset", b"x", TO, offset=2),
        wrong(ValueError, "length", b"x", TO, length=2),
        *[
            wrong(error, name, *arguments, **part)
            for part, name, error in WRONG_PARTS
            for arguments in (
                *[(value,) for value in PAYLOADS_OF_TEN],
                *[(value, TO) for value in PAYLOADS_OF_TEN],
                (Datagram(b"0123456789", AT),),
            )
        ],
    ],
    "send_nowait": [*SENDING, wrong(ValueError, "needs a numeric host, not 'a.name'", b"x", ("a.name", 9))],
    "send_many": [
        wrong(TypeError, "datagrams must be an iterable", None),
        wrong(TypeError, "item 0 of datagrams must be a Datagram", [b"x"]),
        wrong(TypeError, "item 1 of datagrams", [Datagram(b"x", Address("::1", 1)), 1]),
        wrong(TypeError, "the address of item 0", [Datagram(b"x", 5)]),  # type: ignore[arg-type]
        wrong(TypeError, "payload must be", [Datagram(1, Address("", 1))]),  # type: ignore[arg-type]
        *[
            wrong(error, "port", [Datagram(b"", Address("127.0.0.1", port)).reply(b"x")])
            for port, error in ((70_000, ValueError), (0, ValueError), (True, TypeError))
        ],
        *[
            wrong(error, f"{name}.* of item 1|item 1.*{name}", [Datagram(b"x", AT), Datagram(b"x", AT, info)])
            for info, error, name in WRONG_INFOS
        ],
    ],
    "receive_many": [
        *each_wrong(TypeError, "max_count", NOT_INTEGERS),
        *each_wrong(ValueError, "max_count", (0, -1)),
    ],
    "events": [
        *each_wrong(TypeError, "events takes event types", (int, "Closed")),
        wrong(ValueError, "overflow must be one of", overflow="drop"),
        wrong(TypeError, "overflow must be one of", overflow=None),
        *[wrong(TypeError, "max_buffer_size", max_buffer_size=value) for value in ("1", 1.5, True, None)],
        *[wrong(ValueError, "max_buffer_size", max_buffer_size=value) for value in (0, -1)],
    ],
    "path_mtu": [
        wrong(ValueError, "path_mtu needs a numeric host", ("localhost", 9)),
        wrong(ValueError, "the port of address", ("127.0.0.1", 0)),
        *each_wrong(TypeError, "address must be a .host, port. tuple", ("127.0.0.1", None)),
    ],
    "close": [wrong(TypeError, "positional", print)],
}


def membership_rows(family: Family) -> list[Wrong]:
    """Return the wrong arguments of add_membership() and drop_membership(), which depend on the family."""
    # A dual-stack socket can join IPv4 groups.
    other = {"udp4": ("ff15::1234", "ff02::1"), "udp6": ()}[family.type]
    right = {"group": family.group, "interface": "lo"}
    return [
        wrong(TypeError, "group"),
        *[
            wrong(ValueError, "group must be a (numeric|multicast)", **right | {"group": group})
            for group in ("256.256.256.256", "group.example", "", *other)
        ],
        *[wrong(TypeError, "group must be a numeric", **right | {"group": group}) for group in (0, None)],
        *[
            wrong(ValueError, "group must be a multicast address", **right | {"group": group})
            for group in (family.foreign, family.loopback)
        ],
        wrong(TypeError, "interface must be", **right | {"interface": 1.5}),
        *[
            wrong(ValueError, "source must be a numeric", **right, source=source)
            for source in ("0", "source.example", {"udp4": "::1", "udp6": "127.0.0.1"}[family.type])
        ],
        wrong(TypeError, "source must be a numeric", **right, source=0),
        *[
            wrong(ValueError, "source must be a unicast address", **right, source=source)
            for source in (family.group, family.wildcard)
        ],
    ]


# Option, a part of the message, values of a wrong type, values out of its domain.
OPTIONS: Final[dict[str, tuple[str, tuple[object, ...], tuple[object, ...]]]] = {
    "reuse_address": ("must be a bool", NOT_BOOLS, ()),
    "reuse_port": ("must be a bool", NOT_BOOLS, ()),
    "ipv6_only": ("must be a bool", NOT_BOOLS, ()),
    "offload": ("must be a bool", NOT_BOOLS, ()),
    "packet_info": ("must be a bool", NOT_BOOLS, ()),
    "icmp_errors": ("must be a bool", NOT_BOOLS, ()),
    "mtu_discovery": ("must be one of", (1, None, b"do"), ("", "DO", "always")),
    "broadcast": ("must be a bool", NOT_BOOLS, ()),
    "multicast_loopback": ("must be a bool", NOT_BOOLS, ()),
    "receive_buffer_size": ("must be", ("Doh!", *NOT_INTEGERS), (-1, 0, 2**31)),
    "send_buffer_size": ("must be", ("Doh!", *NOT_INTEGERS), (-1, 0, 2**31)),
    "ttl": ("must be (an integer|from 1 to 255)", NOT_INTEGERS, (0, 256, -1, 1000)),
    "dscp": ("must be (an integer|from)", NOT_INTEGERS, (-1, 64)),
    "ecn": ("must be (an integer|from)", NOT_INTEGERS, (-1, 3)),
    "multicast_ttl": ("must be (an integer|from 0 to 255)", NOT_INTEGERS, (-1, 256, 1000)),
    "multicast_interface": ("must be", (1.5, True, b"lo", []), ("", 0, -1)),
    "device": ("must", (0, 1.5, True, b"lo", []), ("", "a" * 16, "a\0b")),
    "lookup": ("must be", ("name", "lookup", "", True, False, 0, 1, math.nan, [], {}, object()), ()),
    "proxy_versions": ("must be a set of 1 and 2", (1, "12", [1, 2], None), (set(), {0}, {1, 3}, {True}, {"1"})),
    "proxy_sessions": ("must be a bool", NOT_BOOLS, ()),
    "proxy_stream_ok": ("must be a bool", NOT_BOOLS, ()),
    **dict.fromkeys(
        ("receive_block_list", "send_block_list", "proxy_protocol"),
        (
            "",
            (1, True, None, "10.0.0.0/8", b"x", [1], [1.5], [None]),
            (["nowhere"], ["no address"], ["10.0.0.0/99"]),
        ),
    ),
}


def option_rows(names: Iterable[str]) -> list[Wrong]:
    """Return the wrong values of these options."""
    return [
        wrong(error, f"{name}.*{words}", **{name: value})
        for name in names
        for words, *columns in [OPTIONS[name]]
        for error, values in zip((TypeError, ValueError), columns, strict=True)
        for value in values
    ]


PROPERTIES: Final = option_rows(name for name in OPTIONS if hasattr(DatagramSocket, name))
CREATION: Final = [
    *option_rows(OPTIONS),
    wrong(TypeError, "unknown socket option 'reuse_addr'; the socket options are", reuse_addr=True),
]
TYPES: Final = [
    *each_wrong(
        ValueError,
        "type must be one of",
        [
            "UDP",
            "udp",
            "test",
            "",
            *[form.format(type) for form in ("{}\0", " {}", "{}x") for type in ("udp4", "udp6")],
        ],
    ),
    *each_wrong(TypeError, "type must be one of", (["udp4"], {"type": "udp4"}, b"udp4", 4, True, False, None)),
]
OPENING: Final = [
    wrong(TypeError, "port", port="x"),
    wrong(ValueError, "port", port=-1),
    wrong(TypeError, "host", host=1),
    wrong(TypeError, "connect", connect="x"),
    wrong(ValueError, "connect", connect=("", 0)),
]
ADOPTING: Final = each_wrong(
    TypeError, "sock_or_fd must be a socket.socket or a descriptor", (True, False, None, "3", 3.0, b"3")
)

FUNCTIONS: Final[dict[str, list[Wrong]]] = {
    "resolve": [
        wrong(TypeError, "host must be", 1, 9, "udp4"),
        wrong(TypeError, "port must be an integer", "", "9", "udp4"),
        wrong(ValueError, "port must be from 1", "", 0, "udp4"),
        wrong(ValueError, "port must be from 1", "localhost", 0, "udp6"),
        wrong(ValueError, "type must be one of", "", 9, "udp"),
        wrong(ValueError, "type must be one of", "localhost", 9, "tcp"),
        wrong(TypeError, "type must be one of", "", 9, 4),
    ],
    "open_listeners": [
        wrong(ValueError, "max_peers", 0, max_peers=0),
        wrong(TypeError, "max_buffer_size", 0, max_buffer_size="many"),
        wrong(ValueError, "idle_timeout must be at least 0, not -1", 0, idle_timeout=-1),
        wrong(TypeError, "idle_timeout must be a number", 0, idle_timeout="1"),
        wrong(ValueError, "amplification_limit must be at least 1", 0, amplification_limit=0.5),
        wrong(TypeError, "accept_filter must be a function of a Datagram", 0, accept_filter=3),
        wrong(TypeError, "accept_filter must be a synchronous function of a Datagram", 0, accept_filter=trio.sleep),
        wrong(
            TypeError, "max_peers_per_network must be a number for IPv4 and one for IPv6", 0, max_peers_per_network=3
        ),
        wrong(ValueError, "max_peers_per_network", 0, max_peers_per_network=(1, 0)),
        wrong(TypeError, "unknown listener option 'backlog'; the listener options are accept_filter, ", 0, backlog=3),
        wrong(ValueError, "port", 70_000),
    ],
    "retry": [
        wrong(ValueError, "timeout must be at least 0", timeout=-1),
        wrong(TypeError, "timeout must be a number", timeout="1"),
        wrong(ValueError, "factor must be at least 1", factor=0.5),
        wrong(ValueError, "attempts", attempts=0),
        wrong(ValueError, "jitter must be at least 0 and finite", jitter=math.inf),
    ],
}


@attrs.frozen
class Subject:
    """A socket that a table is tried on, and a channel of its events."""

    name: str
    family: Family
    sock: DatagramSocket
    events: EventChannel[Any]

    def snapshot(self) -> object:
        """Return its state, its counts and the number of its events."""
        return repr(self.sock), self.sock.closed, self.sock.statistics(), self.events.statistics().queued

    async def works(self) -> None:
        """Send the socket a datagram of its own, and receive it; a closed one stays closed."""
        self.events.close()
        if self.sock.closed:
            return
        if self.name.startswith("unbound"):
            await self.sock.bind(0, self.family.loopback)
        await works(self.sock)


@asynccontextmanager
async def every_state() -> AsyncGenerator[list[Subject]]:
    """Open a socket of each family in each state."""
    async with AsyncExitStack() as stack:
        subjects = []
        for family in FAMILIES:
            for state in ("unbound", "bound", "connected", "closed"):
                sock = await stack.enter_async_context(trio_dgram.open_socket(family.type))
                subjects.append(Subject(f"{state} {family.type}", family, sock, sock.events()))
                if state in ("bound", "connected"):
                    await sock.bind(0, family.loopback)
                if state == "connected":
                    await sock.connect(sock.address)
                if state == "closed":
                    sock.close()
        yield subjects


def read_options(sock: DatagramSocket) -> dict[str, object]:
    """Return the values of the properties, or the errors of those which cannot be read."""
    values: dict[str, object] = {}
    for name in {name for row in PROPERTIES for name in row.keywords}:
        try:
            values[name] = getattr(sock, name)
        except (OSError, trio.ClosedResourceError) as error:
            values[name] = repr(error)
    return values


async def works(sock: DatagramSocket) -> None:
    """Send the socket a datagram of its own, and receive it."""
    before = sock.statistics()
    await sock.send_many([Datagram(b"works", sock.address)])
    assert (await sock.receive()).data == b"works"
    after = sock.statistics()
    assert (after.sent - before.sent, after.received - before.received) == (1, 1)


def assign(sock: DatagramSocket, **option: object) -> None:
    """Set a property."""
    ((name, value),) = option.items()
    setattr(sock, name, value)


Rows = Callable[[Family], list[Wrong]]
Tables = dict[str, Rows]


async def offending_calls(name: str, rows: Rows) -> list[str]:
    """Return the rows of a method that do not hold, for sockets of each family in each state."""
    lines = []
    async with every_state() as subjects:
        for subject in subjects:
            sock = subject.sock
            call = partial(assign, sock) if name == "properties" else getattr(sock, name)
            options = read_options(sock)
            found = await offending_rows(call, rows(subject.family), subject.snapshot)
            lines += [f"{subject.name}: {name}{line}" for line in found]
            assert read_options(sock) == options
            await subject.works()
    return lines


TABLES: Final[Tables] = {
    **{name: (lambda _, rows=rows: rows) for name, rows in METHODS.items()},  # type: ignore[misc]
    "add_membership": membership_rows,
    "drop_membership": membership_rows,
    "properties": lambda _: PROPERTIES,
}


def test_the_tables_have_every_option() -> None:
    assert set(OPTIONS) == set(trio_dgram.SocketOptions.__annotations__)


@pytest.mark.parametrize("name", TABLES)
async def test_wrong_arguments_raise_before_any_effect_in_every_state(name: str) -> None:
    assert await offending_calls(name, TABLES[name]) == []


async def every_table(tables: Tables) -> list[str]:
    """Return the rows that do not hold on the transport of the run."""
    lines = [line for name, rows in tables.items() for line in await offending_calls(name, rows)]
    async with trio_dgram.open_nursery() as nursery:
        for family in FAMILIES:
            lines += await offending_rows(partial(nursery.create_socket, family.type), CREATION)
        lines += await offending_rows(nursery.create_socket, TYPES)
    return lines


def test_the_tables_hold_on_a_custom_socket_factory() -> None:
    # Without synchronous calls send_nowait() raises ENOTSUP, also for a name.
    assert run_on_awaited_sockets(every_table, TABLES | {"send_nowait": lambda _: SENDING}) == []


def test_the_tables_hold_on_the_simulated_network() -> None:
    assert run_simulated(every_table, TABLES) == []


async def test_wrong_options_raise_before_a_descriptor_is_made() -> None:
    async def enter(*arguments: Any, **keywords: Any) -> None:
        async with trio_dgram.open_socket(*arguments, **keywords):
            raise AssertionError

    lines = []
    async with trio_dgram.open_nursery() as nursery:
        with same_descriptors():
            for call in (nursery.create_socket, enter):
                lines += await offending_rows(call, TYPES)
                for family in FAMILIES:
                    lines += await offending_rows(partial(call, family.type), CREATION)
                lines += await offending_rows(
                    partial(call, "udp4"), [wrong(ValueError, "ipv6_only is for udp6", ipv6_only=True)]
                )
            for family in FAMILIES:
                lines += await offending_rows(partial(enter, family.type), OPENING)
            lines += await offending_rows(nursery.adopt_socket, ADOPTING)
        assert lines == []
        for family in FAMILIES:
            assert nursery.create_socket(family.type).type == family.type


@pytest.mark.parametrize("name", FUNCTIONS)
async def test_wrong_arguments_of_functions_raise_before_any_effect(name: str) -> None:
    with same_descriptors():
        assert await offending_rows(getattr(trio_dgram, name), FUNCTIONS[name]) == []


async def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(TypeError) as caught:
        await trio_dgram.resolve(b"x" * 10_000, 1, "udp4")  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


async def test_arguments_are_checked_on_the_fast_path(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        await works(sock)
        await sock.send(b"x", sock.address)
        address = (await sock.receive()).address
        rows = [
            *[wrong(TypeError, "offset", b"y", address, offset=offset) for offset in (False, "", None)],
            wrong(TypeError, "payload", None, address),
        ]
        assert await offending_rows(sock.send, rows, sock.statistics) == []
        await sock.send(b"x", address)
        assert (await sock.receive()).data == b"x"


async def test_a_lookup_that_returns_no_address_fails_the_call(udp: Family) -> None:
    answers: list[tuple[Any, type[Exception]]] = [
        (None, TypeError),
        ("127.0.0.1", TypeError),
        ((b"x", 1), TypeError),
        (("127.0.0.1",), TypeError),
        (("127.0.0.1", "1"), TypeError),
        (("127.0.0.1", 70_000), ValueError),
        (("still.a.name", 1), ValueError),
    ]

    async def lookup(host: str, *_: object) -> Any:
        return answers[int(host.removeprefix("number."))][0]

    async with trio_dgram.open_socket(udp.type, lookup=lookup, port=0, host=udp.loopback) as sock:
        rows = [wrong(error, "lookup", b"x", (f"number.{i}", 9)) for i, (_, error) in enumerate(answers)]
        assert await offending_rows(sock.send, rows, sock.statistics) == []
        await works(sock)


async def test_a_table_lists_each_offending_row() -> None:
    def call(value: object) -> object:
        if isinstance(value, int):
            raise ValueError("value must be a string")  # noqa: TRY004 -- one row expects another error
        return value

    changes = iter(range(100))
    rows = [
        wrong(ValueError, "value must be", 1),
        wrong(TypeError, "value must be", 2),
        wrong(ValueError, "other words", 3),
        wrong(ValueError, "value must be", value="x"),
    ]
    assert [line.split()[:3] for line in await offending_rows(call, rows)] == [
        ["(2)", "raised", "ValueError('value"],
        ["(3)", "raised", "ValueError('value"],
        ["(value='x')", "returned", "'x'"],
    ]
    assert await offending_rows(call, rows[:1], lambda: next(changes)) == ["(1) changed 0 to 1"]
