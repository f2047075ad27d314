"""The sockets of listeners and connections: their options, existing ones, ``"unix"``, and where answers leave from."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import Address, DatagramChannel, DatagramListener, UnixAddress, sim

from .support.descriptors import same_descriptors
from .support.families import Family
from .support.faults import faulty_kernel
from .support.marks import needs_packet_info
from .support.namespaces import Machine, add_address
from .support.refusing import refusing_port
from .test_services import shout


@asynccontextmanager
async def serving(handler: Any = shout, *args: Any, **options: Any) -> AsyncGenerator[list[DatagramListener]]:
    """Serve in the block; yield the listeners."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(
            lambda task_status: trio_dgram.serve(handler, *args, task_status=task_status, **options)
        )
        nursery.cancel_scope.cancel()


async def assert_shouts(peer: DatagramChannel) -> None:
    for payload in ("hello", b"", bytearray(b"again")):
        await peer.send(payload)
        expected = payload.encode() if isinstance(payload, str) else bytes(payload)
        assert await peer.receive() == expected.upper()


# Options


async def test_the_sockets_of_a_listener_have_the_options_of_sockets(udp: Family) -> None:
    (listener,) = await trio_dgram.open_listeners(0, host=udp.loopback, max_peers=7, receive_block_list=[udp.loopback])
    async with listener, trio_dgram.open_socket(udp.type) as blocked:
        await blocked.send(b"x", listener.address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.accept)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert (listener.socket_statistics().filtered, listener.statistics().accepted) == (1, 0)
    assert listener.socket_statistics().filtered == 1


async def test_one_dual_stack_socket_serves_both_families() -> None:
    async with serving(shout, 0, ipv6_only=False) as listeners:
        assert len(listeners) == 1
        for host in ("127.0.0.1", "::1"):
            async with trio_dgram.open_connection(host, listeners[0].address.port) as peer:
                await assert_shouts(peer)


async def test_a_connection_has_the_options_of_sockets_and_a_local_address(udp: Family) -> None:
    async with serving(shout, 0, host=udp.loopback) as (listener,):
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as other:
            free = other.address
        async with trio_dgram.open_connection(udp.loopback, free.port, local=(udp.loopback, 0), dscp=46, ttl=3) as peer:
            assert peer.local_address.host == udp.loopback
        async with trio_dgram.open_connection(*listener.address, local=free) as peer:
            assert peer.local_address == free
            await assert_shouts(peer)


async def test_an_ipv4_mapped_address_is_served_and_connected_to_as_ipv4() -> None:
    async def look_up(_host: str, port: int, _family: socket.AddressFamily) -> tuple[str, int]:
        return ("::ffff:127.0.0.1", port)

    async with serving(shout, 0, host="::ffff:127.0.0.1") as (listener,):
        assert listener.address.host == "127.0.0.1"
        for host in ("::ffff:127.0.0.1", "name.example"):
            async with trio_dgram.open_connection(host, listener.address.port, lookup=look_up) as peer:
                assert peer.address == listener.address
                await assert_shouts(peer)


async def test_a_connection_asks_its_own_lookup(udp: Family) -> None:
    async def lookup(host: str, port: int, family: socket.AddressFamily) -> Address:
        if host != "somewhere.example":
            raise AssertionError
        if family != udp.family:
            raise socket.gaierror(socket.EAI_NONAME, "none of that family")
        return Address(udp.loopback, port)

    async def fail(*_: object) -> Address:
        raise socket.gaierror(socket.EAI_NONAME, "none at all")

    async with serving(shout, 0, host=udp.loopback) as (listener,):
        async with trio_dgram.open_connection("somewhere.example", listener.address.port, lookup=lookup) as peer:
            await assert_shouts(peer)
    with pytest.raises(socket.gaierror, match="none at all"):
        async with trio_dgram.open_connection("somewhere.example", 9, lookup=fail):
            raise AssertionError


async def test_a_wrong_option_is_refused_with_those_that_exist() -> None:
    unknown: Any = {"max_piers": 1}
    for call in (
        partial(trio_dgram.open_listeners, 0, **unknown),
        partial(trio_dgram.serve, shout, 0, **unknown),
    ):
        with pytest.raises(TypeError, match=r"max_piers.*max_peers.*ttl"):
            await call()
    with pytest.raises(TypeError, match=r"max_peers.*ttl"):
        trio_dgram.open_connection("localhost", 9, max_peers=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="ttl must be"):
        await trio_dgram.open_listeners(0, ttl=0)
    with pytest.raises(ValueError, match="ttl must be"):
        trio_dgram.open_connection("localhost", 9, ttl=0)


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((), {}, "needs host and port"),
        (("localhost",), {}, "needs host and port"),
        (("localhost", 9), {"path": "x"}, "not both"),
        ((7, 9), {}, "host must be"),
        (("localhost", 0), {}, "port must be"),
        (("localhost", 9), {"local": "here"}, "local must be"),
        (("localhost", 9), {"local": ("127.0.0.1",)}, "local address"),
        ((), {"path": ""}, "path"),
        ((), {"path": "x", "local": ("127.0.0.1", 0)}, "local must be"),
        ((), {"path": "x", "ttl": 5}, "ttl is for udp4 and udp6"),
    ],
)
def test_a_wrong_argument_of_a_connection_is_refused(arguments: Any, options: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        trio_dgram.open_connection(*arguments, **options)


async def test_a_wrong_argument_of_a_server_is_refused() -> None:
    def unread() -> Any:
        raise AssertionError

    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ((shout,), {}, "port is needed"),
        ((shout, 0), {"path": "x"}, "not both"),
        ((shout, 0), {"listeners": []}, "pass listeners alone"),
        ((shout,), {"listeners": [], "ttl": 5}, "pass listeners alone"),
        ((shout,), {"listeners": []}, "at least one"),
        ((shout,), {"listeners": 7}, "iterable of DatagramListener"),
        ((shout,), {"listeners": [7]}, "only DatagramListener"),
        ((7, 0), {}, "handler must be"),
        ((shout, 0), {"handler_errors": "ignore"}, '"log" or "raise"'),
        ((shout, 0), {"handler_nursery": 7}, "handler_nursery must be a nursery"),
    ]
    for arguments, options, error in wrong:
        with pytest.raises((TypeError, ValueError), match=error):
            await trio_dgram.serve(*arguments, **options)


# Existing sockets


async def test_a_listener_accepts_an_existing_socket(udp: Family) -> None:
    system = socket.socket(udp.family, socket.SOCK_DGRAM)
    system.bind((udp.loopback, 0))
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.adopt_socket(system)
        listener = DatagramListener(sock, max_peers=3)
        assert listener.address == sock.address
        async with serving(listeners=[listener]) as listeners:
            assert listeners == [listener]
            async with trio_dgram.open_connection(*listener.address) as peer:
                await assert_shouts(peer)
        assert sock.closed


async def test_a_listener_refuses_unsuitable_sockets(udp: Family) -> None:
    with pytest.raises(TypeError, match="socket must be a DatagramSocket"):
        DatagramListener(7)  # type: ignore[arg-type]
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(trio_dgram.NotBoundError):
            DatagramListener(sock)
        await sock.bind(0, udp.loopback)
        with pytest.raises(TypeError, match=r"max_piers.*max_peers"):
            DatagramListener(sock, max_piers=1)  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="max_peers must be"):
            DatagramListener(sock, max_peers=0)
        await sock.connect(sock.address)
        with pytest.raises(trio_dgram.AlreadyConnectedError):
            DatagramListener(sock)
    with pytest.raises(trio.ClosedResourceError):
        DatagramListener(sock)


async def test_unix_sockets_are_served_and_connected_to(tmp_path: Path) -> None:
    for path in (str(tmp_path / "server"), f"\0trio_dgram {tmp_path}"):
        async with serving(path=path) as (listener,):
            assert listener.address == UnixAddress(path)
            async with trio_dgram.open_connection(path=path) as peer:
                assert peer.address == UnixAddress(path)
                await assert_shouts(peer)
            async with trio_dgram.open_connection(path=path, local=str(tmp_path / "client")) as peer:
                await assert_shouts(peer)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        async with trio_dgram.open_connection(path=str(tmp_path / "server")):
            raise AssertionError


async def test_the_peers_of_a_unix_socket_have_no_networks_to_limit(tmp_path: Path) -> None:
    path = str(tmp_path / "server")
    message = "max_peers_per_network is for udp4 and udp6 sockets, not for unix sockets"
    with pytest.raises(ValueError, match=message):
        await trio_dgram.open_listeners(path=path, max_peers_per_network=(1, 1))
    async with trio_dgram.open_socket("unix", path=path) as sock:
        with pytest.raises(ValueError, match=message):
            DatagramListener(sock, max_peers_per_network=(1, 1))


async def test_a_path_that_cannot_be_bound_leaves_nothing_open(tmp_path: Path) -> None:
    with same_descriptors():
        with pytest.raises(FileNotFoundError):
            await trio_dgram.open_listeners(path=str(tmp_path / "missing" / "server"))


async def test_the_path_of_a_unix_peer_cannot_add_lines_to_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: DatagramChannel) -> None:
        raise ValueError

    async with serving(fail, path=str(tmp_path / "server")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.bind(b"\0name %d\nforged \x1b \xff" % id(caplog))
            peer.sendto(b"x", str(tmp_path / "server"))
            await trio.testing.wait_all_tasks_blocked(0.01)
    (record,) = caplog.records
    assert record.getMessage() == rf"the handler of '@name {id(caplog)}\nforged \x1b \udcff' failed"


async def test_datagrams_of_unnamed_unix_peers_are_received_and_not_answered(tmp_path: Path) -> None:
    path = str(tmp_path / "server")
    (listener,) = await trio_dgram.open_listeners(path=path)
    async with listener:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unnamed:
            unnamed.sendto(b"one way", path)
            channel = await listener.accept()
            assert await channel.receive() == b"one way"
            with pytest.raises(OSError, match=r"no name|unnamed") as caught:
                await channel.send(b"answer")
            assert caught.value.errno == errno.EDESTADDRREQ
        channel.close()


# The next address of a name


def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    async def getaddrinfo(_host: object, port: int, *_: object, **__: object) -> Any:
        return [
            (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM, 17, "", (host, port))
            for host in hosts
        ]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)


async def test_a_name_without_an_address_is_an_error_of_the_resolver(
    monkeypatch: pytest.MonkeyPatch, udp: Family
) -> None:
    resolve_to(monkeypatch)
    with pytest.raises(socket.gaierror, match=r"'none\.example' has no address"):
        async with trio_dgram.open_connection("none.example", 9):
            raise AssertionError
    with pytest.raises(socket.gaierror, match=r"'none\.example' has no address"):
        await trio_dgram.open_listeners(0, host="none.example")
    with pytest.raises(socket.gaierror, match=r"'none\.example' has no address"):
        await trio_dgram.resolve("none.example", 9, udp.type)


async def test_an_address_that_refuses_is_left_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for refusing, host in (("::1", "127.0.0.1"), ("127.0.0.1", "::1")):
        async with serving(shout, 0, host=host) as (listener,):
            resolve_to(monkeypatch, refusing, host)
            async with trio_dgram.open_connection("two.example", listener.address.port) as peer:
                assert peer.address.host == refusing
                async for attempt in trio_dgram.retry(timeout=0.1, factor=1, attempts=100):
                    with attempt:
                        await peer.send("hello")
                        assert await peer.receive() == b"HELLO"
                assert peer.address == listener.address
                assert peer.local_address.host == host
                await assert_shouts(peer)


async def receive_nothing(peer: DatagramChannel) -> None:
    """Receive until nothing more happens: a refusal that was queued has moved the channel on."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.receive)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_the_refusal_of_the_last_address_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2", "255.255.255.255")
    with refusing_port("127.0.0.1", "127.0.0.2") as port:
        async with trio_dgram.open_connection("three.example", port) as peer:
            await peer.send(b"to the first")
            await receive_nothing(peer)
            assert peer.address.host == "127.0.0.2"
            await peer.send(b"to the second")
            # The third has no route without broadcast=True.
            with pytest.raises(ConnectionRefusedError):
                await peer.receive()


async def test_a_peer_that_has_answered_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer_once(peer: DatagramChannel) -> None:
        await peer.send(await peer.receive())

    async with serving(shout, 0, host="127.0.0.2") as (other,):
        port = other.address.port
        resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
        async with trio_dgram.open_connection("two.example", port) as peer:
            async with serving(answer_once, port, host="127.0.0.1"):
                await peer.send(b"hello")
                assert await peer.receive() == b"hello"
            await peer.send(b"again")
            with pytest.raises(ConnectionRefusedError):
                await peer.receive()


async def test_a_connection_closes_every_socket_that_it_has_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    resolve_to(monkeypatch, *hosts)
    with refusing_port(*hosts) as port, same_descriptors():
        for close_early in (False, True):
            async with trio_dgram.open_connection("three.example", port) as peer, trio.open_nursery() as nursery:
                for _ in range(2):
                    await peer.send(b"x")
                    await receive_nothing(peer)
                if close_early:
                    nursery.start_soon(peer.aclose)
                    with pytest.raises((trio.ClosedResourceError, ConnectionRefusedError)):
                        await peer.receive()


async def test_a_send_that_waits_while_the_connection_moves_on_is_lost_and_one_on_a_closed_socket_raises() -> None:
    async with trio_dgram.open_connection("127.0.0.1", 9) as peer:
        table: Any = peer._table
        used = table.socket

        class MovesOn:
            async def send(self, _: bytes) -> None:
                table.socket = used
                await trio.lowlevel.checkpoint()
                raise trio.ClosedResourceError

        table.socket = MovesOn()
        await peer.send(b"lost")
        used.close()
        with pytest.raises(trio.ClosedResourceError):
            await peer.send(b"x")


async def test_a_connection_closed_while_it_tries_the_next_address_keeps_no_socket() -> None:
    async with trio_dgram.open_connection("127.0.0.1", 9) as peer, trio_dgram.open_socket("udp4") as other:
        await peer.aclose()
        peer._table.replace_socket(other, peer)
        assert other.closed


async def test_an_error_of_receiving_is_raised_by_accept(udp: Family) -> None:
    with faulty_kernel() as faults:
        (listener,) = await trio_dgram.open_listeners(0, host=udp.loopback)
    async with listener:
        for call in ("recvfrom", "recvmsg", "recvmmsg"):
            faults.set(call, errno.ENOMEM)
        async with trio_dgram.open_socket(udp.type) as client:
            await client.send(b"x", listener.address)
            with pytest.raises(OSError, match="memory"):
                await listener.accept()


# Answers leave from the address that was asked

ASKED: Final = [("127.0.0.1", {}), ("127.0.0.2", {}), ("::1", {}), ("127.0.0.2", {"ipv6_only": False})]


@needs_packet_info
@pytest.mark.parametrize(("host", "options"), ASKED)
async def test_a_server_on_the_wildcard_address_answers_from_the_address_of_the_request(
    host: str, options: dict[str, Any]
) -> None:
    local: list[Address] = []

    async def handler(peer: DatagramChannel) -> None:
        async for data in peer:
            await peer.send(data.upper())
            local.append(peer.local_address)

    async with serving(handler, 0, **options) as listeners:
        to = Address(host, listeners[0].address.port)
        # A connected socket receives from that address alone.
        async with trio_dgram.open_connection(*to) as peer:
            await assert_shouts(peer)
        assert {address.host.removeprefix("::ffff:") for address in local} == {host}
        assert {address.port for address in local} == {to.port}


@needs_packet_info
async def test_one_peer_is_answered_from_each_address_that_it_asks() -> None:
    async with serving(shout, 0) as listeners, trio_dgram.open_socket("udp4") as client:
        for number in (1, 2, 1, 3):
            to = Address(f"127.0.0.{number}", listeners[0].address.port)
            await client.send(b"hello", to)
            assert await client.receive() == (b"HELLO", to, None)
        assert listeners[-1].statistics().accepted == 1


@needs_packet_info
async def test_two_addresses_of_an_interface_and_a_link_local_one_answer(udp: Family, machine: Machine) -> None:
    link = machine.link()
    second = link.add_second_address(udp.type)
    hosts = [second, link.here[udp.type]]
    if udp.type == "udp6":
        add_address("fe80::1/64", link.name)
        hosts.append(f"fe80::1%{link.peer_name}")
    async with serving(shout, 0) as listeners:
        for host in hosts:
            with machine.active():
                connection = trio_dgram.open_connection(host, listeners[0].address.port)
                async with connection as peer:
                    await assert_shouts(peer)


@pytest.mark.parametrize("on_all", [False, pytest.param(True, marks=needs_packet_info)])
async def test_a_server_on_a_link_local_address_answers(machine: Machine, on_all: bool) -> None:
    link = machine.link()
    add_address("fe80::1/64", link.name)
    async with serving(shout, 0, host=None if on_all else f"fe80::1%{link.name}") as listeners:
        with machine.active():
            connection = trio_dgram.open_connection(f"fe80::1%{link.peer_name}", listeners[0].address.port)
            async with connection as peer:
                await assert_shouts(peer)


def test_a_simulated_server_answers_from_the_address_of_the_request(udp: Family) -> None:
    addresses = {"udp4": ["10.0.0.1", "10.0.0.2"], "udp6": ["2001:db8::1", "2001:db8::2"]}[udp.type]

    async def scenario(network: sim.Network) -> None:
        server = network.host("server", addresses=addresses)
        async with trio.open_nursery() as nursery:
            with server.active():
                listeners = await nursery.start(trio_dgram.serve, shout, 7)
            for host in addresses:
                async with trio_dgram.open_connection(host, listeners[0].address.port) as peer:
                    await assert_shouts(peer)
            nursery.cancel_scope.cancel()

    sim.run(scenario)


async def test_on_a_specific_address_packet_info_is_not_enabled(udp: Family) -> None:
    async with serving(shout, 0, host=udp.loopback) as (listener,):
        option = (
            (socket.IPPROTO_IP, 8)
            if udp.type == "udp4"
            else (socket.IPPROTO_IPV6, getattr(socket, "IPV6_RECVPKTINFO", 49))
        )
        assert listener._table.socket.getsockopt(*option) == 0
