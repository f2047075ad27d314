"""Sockets of the standard library that a program brings to Trio are simulated."""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import Any

import pytest
import trio

import trio_dgram
from trio_dgram import Datagram, sim

from ..support.families import Family
from .programs import ECHO_PORT, ask


async def echo(sock: trio.socket.SocketType) -> None:
    while True:
        data, source = await sock.recvfrom(100)
        await sock.sendto(data, source)


def test_a_bound_socket_keeps_its_address_on_its_host() -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        with socket.socket(type=socket.SOCK_DGRAM) as original, socket.socket(type=socket.SOCK_DGRAM) as other:
            original.bind(("127.0.0.1", 0))
            original.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("", 0))
            port = other.getsockname()[1]
            with server.active():
                adopted = trio.socket.from_stdlib_socket(original)
                shared = trio.socket.fromfd(other.fileno(), other.family, other.type)
            assert adopted.getsockname() == original.getsockname()
            assert adopted.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
            server.start_soon(echo, shared)
            with client.active(), trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
                await sock.sendto(b"hello", ("server", port))
                assert await sock.recv(100) == b"hello"
            assert len(network.trace) == 2
            adopted.close()
            assert original.fileno() == -1
            server.kill()
            assert (shared.fileno(), other.fileno() == -1) == (-1, False)

    sim.run(scenario)


def test_an_unbound_socket_is_bound_by_the_program() -> None:
    async def scenario(network: sim.Network) -> bytes:
        server, client = network.host("server"), network.host("client")
        with server.active():
            sock = trio.socket.from_stdlib_socket(socket.socket(type=socket.SOCK_DGRAM))
            await sock.bind(("", ECHO_PORT))
            server.start_soon(echo, sock)
        answer = await client.run(ask, "udp4", b"hello")
        server.kill()
        return answer.data

    assert sim.run(scenario) == b"hello"


def test_a_socket_that_cannot_be_replaced_raises_with_host_and_call() -> None:
    async def scenario(network: sim.Network) -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as real, network.host("server").active():
            real.connect(("::1", 9))
            with pytest.raises(OSError, match=r"simulated host server: .* is connected") as caught:
                trio.socket.from_stdlib_socket(real)
            assert caught.value.errno == errno.EISCONN
        with socket.socket(type=socket.SOCK_DGRAM) as one:
            one.bind(("127.0.0.1", 0))
            with (
                trio.socket.from_stdlib_socket(one),
                pytest.raises(OSError, match="host here: Address already in use"),
            ):
                trio.socket.fromfd(one.fileno(), one.family, one.type)

    sim.run(scenario)


def test_a_socket_that_a_nursery_adopts_is_simulated(udp: Family) -> None:
    async def scenario(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        original = socket.socket(udp.family, socket.SOCK_DGRAM)
        original.bind((udp.wildcard, 0))
        port, descriptor = original.getsockname()[1], original.fileno()

        async def ask() -> Datagram:
            async with trio_dgram.open_socket(udp.type) as sock:
                await sock.send(b"hello", ("server", port))
                return await sock.receive()

        async def answer() -> None:
            async with trio_dgram.open_nursery() as nursery:
                adopted = nursery.adopt_socket(original)
                assert adopted.address.port == port
                datagram = await adopted.receive()
                await adopted.send(datagram.reply(b"adopted"))
                adopted.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)

        server.start_soon(answer)
        assert (await client.run(ask)).data == b"adopted"
        assert len(network.trace) == 2

    sim.run(scenario)


def test_a_socket_that_a_nursery_cannot_replace_stays_the_callers(udp: Family) -> None:
    async def scenario(network: sim.Network) -> None:
        with network.host("server").active(), socket.socket(udp.family, socket.SOCK_DGRAM) as sock:
            sock.connect((udp.loopback, 9))
            async with trio_dgram.open_nursery() as nursery:
                with pytest.raises(OSError, match=r"adopt_socket on the simulated host server: .* is connected"):
                    nursery.adopt_socket(sock)
            assert sock.getpeername()[1] == 9

    sim.run(scenario)


def test_an_adopted_unix_socket_is_the_programs_own() -> None:
    async def scenario(_: sim.Network) -> None:
        one, other = socket.socketpair(type=socket.SOCK_DGRAM)
        with one:
            async with trio_dgram.open_nursery() as nursery:
                adopted = nursery.adopt_socket(other)
                one.send(b"hello")
                assert (await adopted.receive()).data == b"hello"
                adopted.close()

    sim.run(scenario)


def test_stream_sockets_and_other_runs_are_unaffected() -> None:
    async def real() -> None:
        with trio.socket.from_stdlib_socket(socket.socket(type=socket.SOCK_DGRAM)) as sock:
            assert not isinstance(sock, sim.SimulatedSocket)
            with trio.socket.fromfd(sock.fileno(), sock.family, sock.type) as other:
                assert not isinstance(other, sim.SimulatedSocket)

    async def scenario(_: sim.Network) -> None:
        with socket.socket() as listener, trio.socket.fromfd(listener.fileno(), listener.family, listener.type) as sock:
            assert not isinstance(sock, sim.SimulatedSocket)
        thread = threading.Thread(target=trio.run, args=(real,))
        thread.start()
        thread.join()

    before: list[Any] = [trio.socket.from_stdlib_socket, trio.socket.fromfd]
    sim.run(scenario)
    assert [trio.socket.from_stdlib_socket, trio.socket.fromfd] == before
    trio.run(real)
