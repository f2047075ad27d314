"""as_trio_socket: a DatagramSocket behaves as a Trio socket does, on the kernel and on a simulated network.

The tests of ``alike`` run the same program on both: what Trio's own socket does is the expected result.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import as_trio_socket, sim
from trio_dgram._socket import trio_socket as _trio_socket

from .support.factories import awaited_sockets
from .support.families import Family
from .support.marks import needs_packet_info
from .support.namespaces import Machine

Make = Callable[[], Any]
Program = Callable[[Make, Family], Awaitable[None]]


async def run_on(kind: str, program: Program, udp: Family) -> None:
    """Run a program with the sockets of one kind; it closes them."""
    if kind == "Trio's":
        await program(lambda: trio.socket.socket(udp.family, socket.SOCK_DGRAM), udp)
        return
    async with trio_dgram.open_nursery() as nursery:
        await program(lambda: as_trio_socket(nursery.create_socket(udp.type)), udp)
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["Trio's", "ours", "ours, simulated"])
def alike(request: pytest.FixtureRequest, udp: Family) -> Callable[[Program], None]:
    """Run a program with Trio's own sockets and with ours."""
    kind, _, simulated = request.param.partition(", ")

    def run(program: Program) -> None:
        if simulated:
            sim.run(lambda _: run_on(kind, program, udp))
        else:
            trio.run(run_on, kind, program, udp)

    return run


async def bound(make: Make, udp: Family) -> Any:
    sock = make()
    await sock.bind((udp.loopback, 0))
    return sock


def test_it_is_a_trio_socket(alike: Callable[[Program], None]) -> None:
    async def program(make: Make, udp: Family) -> None:
        with make() as sock:
            assert isinstance(sock, trio.socket.SocketType)
            assert (sock.family, sock.type, sock.proto) == (udp.family, socket.SOCK_DGRAM, 0)
            assert sock.fileno() >= 0
            assert not sock.did_shutdown_SHUT_WR
            assert not sock.get_inheritable()
            sock.set_inheritable(False)
            await trio.lowlevel.checkpoint()
        assert sock.fileno() == -1

    alike(program)


def test_it_has_every_method_of_a_trio_socket() -> None:
    names = {name for name in dir(trio.socket.SocketType) if not name.startswith("_")}
    if not hasattr(socket.socket, "share"):  # pragma: no branch -- Windows alone has it
        names.discard("share")
    assert names <= {name for name in vars(_trio_socket.TrioSocket) if not name.startswith("_")}


def test_each_method_that_sends_or_receives(alike: Callable[[Program], None]) -> None:
    async def program(make: Make, udp: Family) -> None:
        one, other = await bound(make, udp), await bound(make, udp)
        with one, other:
            address, source = one.getsockname(), other.getsockname()
            assert len(address) == {"udp4": 2, "udp6": 4}[udp.type]
            assert await other.sendto(b"sendto", address) == 6
            assert await one.recvfrom(100) == (b"sendto", source)
            assert await other.sendto(bytearray(b"flags"), 0, address[:2]) == 5
            assert await one.recv(3) == b"fla"
            await other.connect(address)
            assert other.getpeername() == address
            assert await other.send(memoryview(b"send")) == 4
            buffer = bytearray(10)
            assert await one.recv_into(buffer) == 4
            assert buffer[:4] == b"send"
            assert await other.sendmsg([b"send", b"msg"]) == 7
            assert await one.recvfrom_into(buffer, 5) == (5, source)
            assert await one.sendmsg([b"back"], [], 0, source) == 4
            parts = bytearray(2), bytearray(10)
            assert await other.recvmsg_into(parts) == (4, [], 0, address)
            assert (bytes(parts[0]), bytes(parts[1][:2])) == (b"ba", b"ck")
            await one.sendto(b"too long", source)
            assert await other.recvmsg(3) == (b"too", [], socket.MSG_TRUNC, address)
            await one.sendto(b"", source)
            assert await other.recvfrom(3) == (b"", address)

    alike(program)


def test_names_and_names_of_services_are_resolved(alike: Callable[[Program], None]) -> None:
    async def program(make: Make, udp: Family) -> None:
        with make() as one, make() as other:
            # A name may have an IPv4 address only, which is mapped on IPv6.
            await one.bind((udp.wildcard, 0))
            port = one.getsockname()[1]
            await other.sendto(b"by name", ("localhost", port))
            assert (await one.recvfrom(10))[0] == b"by name"
            await other.connect(("localhost", str(port)))
            await other.send(b"connected")
            assert (await one.recvfrom(10))[0] == b"connected"
        with make() as everywhere:
            await everywhere.bind(("", 0))
            assert everywhere.getsockname()[0] == udp.wildcard

    alike(program)


def test_errors_are_those_of_the_kernel(alike: Callable[[Program], None]) -> None:
    async def program(make: Make, udp: Family) -> None:
        async def expect(number: int, call: Awaitable[object]) -> None:
            with pytest.raises(OSError, match=r".") as caught:
                await call
            assert caught.value.errno == number

        with await bound(make, udp) as sock, make() as fresh:
            await expect(errno.EINVAL, sock.bind((udp.loopback, 0)))
            await expect(errno.EDESTADDRREQ, fresh.send(b"no peer"))
            await expect(errno.EOPNOTSUPP, sock.accept())
            with pytest.raises(OSError, match=r".") as caught:
                sock.getpeername()
            assert caught.value.errno == errno.ENOTCONN
            for wrong in [udp.loopback, (udp.loopback,), (udp.loopback, 1, 2, 3, 4)]:
                with pytest.raises((TypeError, ValueError)):
                    await sock.sendto(b"x", wrong)
            with pytest.raises(TypeError):
                await sock.sendto("text", sock.getsockname())
            for arguments in [(b"x",), (b"x", 0, 0, sock.getsockname())]:
                with pytest.raises((TypeError, ValueError)):
                    await sock.sendto(*arguments)
            with pytest.raises(ValueError, match="negative"):
                await sock.recvfrom(-1)
            with pytest.raises(ValueError, match="buffer"):
                await sock.recvfrom_into(bytearray(3), 4)
        await expect(errno.EBADF, sock.recvfrom(10))
        await expect(errno.EBADF, sock.sendto(b"x", (udp.loopback, 9)))
        with pytest.raises(OSError, match=r".") as closed:
            sock.getsockname()
        assert closed.value.errno == errno.EBADF

    alike(program)


def test_closing_it_ends_a_receive(alike: Callable[[Program], None]) -> None:
    async def program(make: Make, udp: Family) -> None:
        async def receive(sock: Any) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await sock.recvfrom(10)

        sock = await bound(make, udp)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, sock)
            await trio.testing.wait_all_tasks_blocked()
            sock.close()

    alike(program)


def test_a_receive_that_began_before_the_first_send_gets_the_reply(alike: Callable[[Program], None]) -> None:
    async def program(make: Make, udp: Family) -> None:
        async def receive(sock: Any, received: list[bytes]) -> None:
            received.append(await sock.recv(10))

        received: list[bytes] = []
        with await bound(make, udp) as server, make() as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, client, received)
                await trio.testing.wait_all_tasks_blocked()
                await client.sendto(b"ask", server.getsockname())
                _, source = await server.recvfrom(10)
                await server.sendto(b"answer", source)
        assert received == [b"answer"]

    alike(program)


def test_a_cancelled_call_neither_sends_nor_consumes(alike: Callable[[Program], None]) -> None:
    async def program(make: Make, udp: Family) -> None:
        with await bound(make, udp) as one, await bound(make, udp) as other:
            with trio.CancelScope() as scope:
                scope.cancel()
                await other.sendto(b"cancelled", one.getsockname())
            assert scope.cancelled_caught
            await other.sendto(b"sent", one.getsockname())
            with trio.CancelScope() as scope:
                scope.cancel()
                await one.recvfrom(10)
            assert scope.cancelled_caught
            assert await one.recv(10) == b"sent"

    alike(program)


def test_it_is_readable_when_something_is_queued(alike: Callable[[Program], None]) -> None:
    async def program(make: Make, udp: Family) -> None:
        with await bound(make, udp) as sock:
            assert not sock.is_readable()
            for _ in range(3):
                await sock.sendto(b"x", sock.getsockname())
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                assert sock.is_readable()
                await sock.recv(10)
            assert not sock.is_readable()

    alike(program)


def test_options_are_read_and_set(alike: Callable[[Program], None]) -> None:
    async def program(make: Make, udp: Family) -> None:
        with make() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 4) == (1).to_bytes(4, "little")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, bytes(4))
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 0
            await trio.lowlevel.checkpoint()

    alike(program)


@pytest.mark.skipif(not hasattr(socket, "SO_BINDTODEVICE"), reason="platform: the option is Linux's")
async def test_an_option_may_have_a_length_and_no_value(udp: Family) -> None:
    async with ours(udp.type) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, None, 0)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16) == b""


# What differs


@asynccontextmanager
async def ours(type_: Any, **options: Any) -> AsyncGenerator[Any]:
    async with trio_dgram.open_socket(type_, **options) as sock:
        yield as_trio_socket(sock)


UNSUPPORTED: Final[dict[str, Callable[[Any], Any]]] = {
    "flags of recvfrom": lambda sock: sock.recvfrom(10, socket.MSG_PEEK),
    "flags of sendto": lambda sock: sock.sendto(b"x", 1, ("127.0.0.1", 9)),
    "ancillary data of recvmsg": lambda sock: sock.recvmsg(10, 100),
    "ancillary data of sendmsg": lambda sock: sock.sendmsg([b"x"], [(0, 0, b"x")], 0, ("127.0.0.1", 9)),
    "wait_writable": lambda sock: sock.wait_writable(),
    "dup": lambda sock: sock.dup(),
    "detach": lambda sock: sock.detach(),
    "share": lambda sock: sock.share(1),
    "shutdown": lambda sock: sock.shutdown(socket.SHUT_RD),
    "set_inheritable": lambda sock: sock.set_inheritable(True),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
async def test_an_unsupported_operation_is_refused_and_changes_nothing(name: str) -> None:
    async with ours("udp4", port=0, host="127.0.0.1") as sock:
        with pytest.raises(OSError, match="a Trio socket over a DatagramSocket cannot ") as caught:
            # Those that are not awaited raise before.
            await UNSUPPORTED[name](sock)
        assert caught.value.errno == errno.ENOTSUP
        await sock.sendto(b"x", sock.getsockname())
        assert await sock.recv(10) == b"x"


async def test_a_datagram_socket_never_listens() -> None:
    async with ours("udp4", port=0) as sock:
        with pytest.raises(OSError, match="not supported") as caught:
            sock.listen()
        assert caught.value.errno == errno.EOPNOTSUPP


async def test_a_connected_socket_refuses_another_peer(udp: Family) -> None:
    async with ours(udp.type, connect=(udp.loopback, 9)) as sock:
        for call in (partial(sock.sendto, b"x", (udp.loopback, 10)), partial(sock.connect, (udp.loopback, 10))):
            with pytest.raises(OSError, match="connected") as caught:
                await call()
            assert caught.value.errno == errno.EISCONN


async def test_only_a_datagram_socket_can_be_adapted() -> None:
    wrong: Any = 3
    with pytest.raises(TypeError, match="socket must be a DatagramSocket, not 3"):
        as_trio_socket(wrong)


async def test_datagrams_are_counted_as_those_of_the_socket(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        adapted = as_trio_socket(sock)
        assert "over <trio_dgram.DatagramSocket" in repr(adapted)
        await adapted.sendto(b"x", adapted.getsockname())
        await adapted.recvfrom(10)
        assert (sock.statistics().sent, sock.statistics().received) == (1, 1)


async def test_a_pending_error_is_raised_by_receiving_only(udp: Family) -> None:
    with socket.socket(udp.family, socket.SOCK_DGRAM) as closed:
        closed.bind((udp.loopback, 0))
        peer = closed.getsockname()[:2]
    async with ours(udp.type, connect=peer) as sock:
        await sock.send(b"refused")
        await sock.send(b"refused")
        with pytest.raises(ConnectionRefusedError):
            await sock.recv(10)


async def test_it_works_on_a_socket_factory_of_awaited_calls(udp: Family) -> None:
    with awaited_sockets():
        async with ours(udp.type, port=0, host=udp.loopback) as sock:
            await sock.sendto(b"x", sock.getsockname())
            assert await sock.recvfrom(10) == (b"x", sock.getsockname())
            assert not sock.is_readable()


# Addresses


async def link_local_pair(
    machine: Machine, nursery: trio_dgram.DatagramNursery, **options: Any
) -> tuple[Any, Any, Any]:
    """Return a socket on all interfaces, one on another machine, and where the latter reaches the former."""
    link = machine.link()
    server = nursery.create_socket("udp6", **options)
    port = (await server.bind()).port
    here = next(host for host in trio_dgram.interfaces()[-1].addresses if host.startswith("fe80:")).partition("%")[0]
    with machine.active():
        client = nursery.create_socket("udp6")
        await client.bind()
        return as_trio_socket(server), as_trio_socket(client), (here, port, 0, socket.if_nametoindex(link.peer_name))


@pytest.mark.parametrize("options", [{}, {"packet_info": True}], ids=["plain", "packet_info"])
async def test_a_link_local_address_has_its_scope(machine: Machine, options: dict[str, Any]) -> None:
    async with trio_dgram.open_nursery() as nursery:
        server, client, to = await link_local_pair(machine, nursery, **options)
        with machine.active():
            await client.sendto(b"question", to)
        data, source = await server.recvfrom(100)
        assert data == b"question"
        assert source[0].startswith("fe80:")
        assert "%" not in source[0]
        assert source[2:] == (0, trio_dgram.interfaces()[-1].index)
        await server.sendto(b"answer", source)
        with machine.active():
            assert await client.recvfrom(100) == (b"answer", to)
        nursery.cancel_scope.cancel()


async def test_an_ipv4_peer_of_a_dual_stack_socket_has_a_mapped_address() -> None:
    async with ours("udp6", port=0) as server, ours("udp4", port=0, host="127.0.0.1") as client:
        await client.sendto(b"x", ("127.0.0.1", server.getsockname()[1]))
        data, source = await server.recvfrom(10)
        assert (data, source) == (b"x", ("::ffff:127.0.0.1", client.getsockname()[1], 0, 0))
        await server.sendto(b"y", source)
        assert await client.recv(10) == b"y"


async def test_unix_sockets_have_paths_and_abstract_names(tmp_path: Path) -> None:
    path = str(tmp_path / "server")
    async with ours("unix") as server, ours("unix") as client, ours("unix") as autobound:
        await server.bind(path)
        await client.bind(b"\0trio_dgram.%d" % os.getpid())
        assert (server.family, server.getsockname()) == (socket.AF_UNIX, path)
        await client.sendto(b"x", path)
        data, source = await server.recvfrom(10)
        assert (data, source) == (b"x", client.getsockname()) == (b"x", b"\0trio_dgram.%d" % os.getpid())
        await server.sendto(b"y", source)
        assert await client.recv(10) == b"y"
        await autobound.connect(path)
        assert autobound.getpeername() == path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unnamed:
            unnamed.sendto(b"z", path)
        assert await server.recvfrom(10) == (b"z", None)


# Replies leave from the address that was asked


@needs_packet_info
@pytest.mark.parametrize(("type_", "asked"), [("udp4", "127.0.0.2"), ("udp6", "127.0.0.2")])
async def test_a_reply_leaves_from_the_address_that_was_asked(type_: Any, asked: str) -> None:
    async with ours(type_, port=0, packet_info=True) as server:
        to = (asked, server.getsockname()[1])
        async with ours("udp4", connect=to) as one, ours("udp4", connect=("127.0.0.1", to[1])) as other:
            for client, name in ((one, b"one"), (other, b"other")) * 2:
                await client.send(name)
            sources = [(await server.recvfrom(10))[1] for _ in range(4)]
            for source in sources:
                # Without what is zero, too.
                await server.sendto(b"reply", source[:2])
            assert await one.recv(10) == await other.recv(10) == b"reply"


@needs_packet_info
async def test_the_number_of_remembered_peers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trio_socket, "_MOST_PEERS", 2)
    async with trio_dgram.open_socket("udp4", port=0, packet_info=True) as socket_:
        server = as_trio_socket(socket_)
        port = socket_.address.port
        async with trio_dgram.open_nursery() as nursery:
            clients = [nursery.create_socket("udp4") for _ in range(3)]
            for client in clients:
                await client.connect(("127.0.0.2", port))
                await client.send(b"x")
            sources = [(await server.recvfrom(10))[1] for _ in clients]
            for source in sources:
                await server.sendto(b"reply", source)
            # The first peer is forgotten, so the kernel chooses the source of its reply.
            for client in clients[1:]:
                assert (await client.receive()).data == b"reply"
            with pytest.raises(trio.WouldBlock):
                clients[0].receive_nowait()
            nursery.cancel_scope.cancel()


async def test_a_peer_is_forgotten_when_its_latest_datagram_has_no_local_address(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, packet_info=True) as sock:
        adapted = _trio_socket.TrioSocket(sock)
        adapted._remember("peer", trio_dgram.PacketInfo(local_address=udp.loopback))
        adapted._remember("peer", None)
        adapted._remember("peer", None)
        assert not adapted._replies
