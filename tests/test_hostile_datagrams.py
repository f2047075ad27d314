"""Hostile datagrams: none of them ends a server, and each is accounted for."""

from __future__ import annotations

import errno
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing
from typing import Final, Literal, TypeAlias

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import Address, Datagram, DatagramSocket, Failure

from .support.examples import EXAMPLES
from .support.forging import Endpoint, Forger, open_forger, udp_packets
from .support.namespaces import Link, Machine, program

pytestmark = pytest.mark.usefixtures("reading")

ECHO: Final = EXAMPLES / "echo.py"
TYPES: Final[dict[int, trio_dgram.SocketType]] = {4: "udp4", 6: "udp6"}
PORT: Final = 41234
"""The port of the example, on machines of our own."""
LARGEST: Final = bytes(65507)

Count: TypeAlias = Literal["filtered", "dropped_by_kernel", "send_errors"]


@attrs.frozen(kw_only=True)
class Hostile:
    """A forged datagram, and what becomes of it."""

    name: str
    source: dict[int, str]
    """The claimed source, by the version of IP."""
    count: Count
    """The statistic that counts it."""
    answer: int | None = None
    """The errno of its answer."""
    port: int = 9
    payload: bytes = b"hostile"
    checksum_error: int = 0


LINK: Final = Link(1)
PEER: Final = {4: LINK.host(4, 2), 6: LINK.host(6, 2)}
EVERYBODY: Final = {4: LINK.host(4, 255)}
NOWHERE: Final = {4: "203.0.113.9", 6: "2001:db8:ffff::9"}
"""Hosts that no route leads to."""

HOSTILE: Final = (
    Hostile(name="source port 0", source=PEER, port=0, count="filtered"),
    Hostile(name="nothing from source port 0", source=PEER, port=0, payload=b"", count="filtered"),
    Hostile(name="the unspecified address as source", source={6: "::"}, count="filtered"),
    Hostile(name="a broadcast address as source", source=EVERYBODY, count="send_errors", answer=errno.EACCES),
    Hostile(name="a source without a route", source=NOWHERE, count="send_errors", answer=errno.ENETUNREACH),
    Hostile(
        name="nothing, from such a source", source=NOWHERE, payload=b"", count="send_errors", answer=errno.ENETUNREACH
    ),
    Hostile(
        name="65,507 bytes in fragments",
        source=NOWHERE,
        payload=LARGEST,
        count="send_errors",
        answer=errno.ENETUNREACH,
    ),
    # The kernel checks the checksum of a short one before it looks up the socket, so no socket would count it.
    Hostile(name="a wrong checksum", source=PEER, payload=bytes(100), checksum_error=1, count="dropped_by_kernel"),
)


@attrs.frozen
class Attacker:
    """A sender on the machine at the other end of the link."""

    forger: Forger

    def send(self, each: Hostile, version: int) -> None:
        """Send a hostile datagram in a version of IP."""
        self.send_udp(each.source[version], each.port, each.payload, each.checksum_error)

    def send_udp(self, host: str, port: int, payload: bytes, checksum_error: int = 0) -> None:
        """Send any datagram to the server."""
        source = Endpoint(host, port)
        to = Endpoint(LINK.host(source.host.version, 1), PORT)
        for packet in udp_packets(source, to, payload, checksum_error=checksum_error):
            self.forger.send(packet)


@pytest.fixture
def attacker(machine: Machine, veth: Link) -> Generator[Attacker]:
    with machine.active():
        opened = open_forger(veth.peer_name, veth.mac)
    with closing(opened):
        yield Attacker(opened)


async def exchange(client: DatagramSocket, server: Address) -> None:
    """Send as honest people do, and have it answered."""
    with trio.fail_after(20):
        await client.send(b"honest", server)
        assert await client.receive() == (b"honest", server, None)


async def test_the_echo_example_continues_to_answer(machine: Machine, attacker: Attacker) -> None:
    server = Address(LINK.host(4, 1), PORT)
    with program(sys.executable, str(ECHO)) as echo:
        assert echo.read_line().startswith(b"listening on")
        async with trio_dgram.open_nursery() as nursery:
            with machine.active():
                client = nursery.create_socket("udp4")
            for each in [each for each in HOSTILE if 4 in each.source]:
                attacker.send(each, 4)
                await exchange(client, server)
                assert echo.running, each.name
            client.close()


async def by_address(server: DatagramSocket) -> None:
    async for datagram in server:
        await server.send(datagram.data, datagram.address)


async def by_reply(server: DatagramSocket) -> None:
    async for datagram in server:
        await server.send(datagram.reply(datagram.data))


async def at_once(server: DatagramSocket) -> None:
    async for datagram in server:
        server.send_nowait(datagram.data, datagram.address)


async def in_batches(server: DatagramSocket) -> None:
    while True:
        await server.send_many([datagram.reply(datagram.data) for datagram in await server.receive_many()])


async def by_channel(server: DatagramSocket) -> None:
    async with server.events(Datagram) as channel:
        async for datagram in channel:
            await server.send(datagram.data, datagram.address)


@pytest.mark.parametrize("answering", [by_address, by_reply, at_once, in_batches, by_channel])
@pytest.mark.parametrize(
    ("type", "version"),
    [pytest.param("udp4", 4, id="udp4"), pytest.param("udp6", 6, id="udp6"), pytest.param("udp6", 4, id="dual stack")],
)
async def test_each_is_counted_and_its_answers_failure_reported(
    machine: Machine,
    attacker: Attacker,
    type: trio_dgram.SocketType,
    version: int,
    answering: Callable[[DatagramSocket], Awaitable[None]],
) -> None:
    exchanges = 0
    arrived = 0
    server_address = Address(LINK.host(version, 1), PORT)
    async with trio_dgram.open_socket(type, port=PORT) as server, trio_dgram.open_nursery() as nursery:
        with machine.active():
            client = nursery.create_socket(TYPES[version])
        failures = server.events(Failure)
        nursery.start_soon(answering, server)
        for each in [each for each in HOSTILE if version in each.source]:
            before = getattr(server.statistics(), each.count)
            # A platform may not report the drops of the kernel.
            after = None if before is None else before + 1
            attacker.send(each, version)
            # It has arrived before a later datagram, or arrives soon.
            with trio.fail_after(20):
                while getattr(server.statistics(), each.count) != after:
                    await exchange(client, server_address)
                    exchanges += 1
            if each.answer is not None:
                failure = failures.receive_nowait()
                assert (failure.error.errno, failure.operation) == (each.answer, "send"), each.name
                source = each.source[version]
                expected = Address(source if type == f"udp{version}" else f"::ffff:{source}", each.port)
                assert failure.address == expected
            with pytest.raises(trio.WouldBlock):
                failures.receive_nowait()
            arrived += each.count != "dropped_by_kernel"
        nursery.cancel_scope.cancel()
    statistics = server.statistics()
    assert statistics.sent == exchanges
    assert statistics.received == exchanges + arrived
    assert statistics.truncated == statistics.receive_errors == statistics.discarded_at_close == 0


@pytest.mark.parametrize("version", [4, 6])
async def test_a_batch_of_answers_is_sent_except_those_that_cannot_be(
    machine: Machine, attacker: Attacker, version: int
) -> None:
    async with trio_dgram.open_socket(TYPES[version], port=PORT) as server, trio_dgram.open_nursery() as nursery:
        failures = server.events(Failure)
        with machine.active():
            client = nursery.create_socket(TYPES[version])
            await client.bind(0, PEER[version])
        # Of one size, so that the kernel could be asked to send several in one call.
        for number in range(9):
            host, port = client.address if number in (0, 4, 5, 8) else (NOWHERE[version], 9)
            attacker.send_udp(host, port, bytes([number]))
        got: list[Datagram] = []
        while len(got) < 9:
            got += await server.receive_many()
        await server.send_many([datagram.reply(datagram.data) for datagram in got])
        assert [(await client.receive()).data for _ in range(4)] == [b"\x00", b"\x04", b"\x05", b"\x08"]
        assert [failures.receive_nowait().error.errno for _ in range(5)] == [errno.ENETUNREACH] * 5
        assert (server.statistics().sent, server.statistics().send_errors) == (4, 5)
        client.close()
