"""A plain ``trio.socket`` program behaves on the simulated network as on the kernel's."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from trio_dgram import sim

from ..support.families import Family

Scenario = Callable[[sim.Network, Family], Awaitable[None]]


def run(scenario: Scenario, udp: Family) -> None:
    sim.run(scenario, udp)


def made(udp: Family) -> Any:
    return trio.socket.socket(udp.family, socket.SOCK_DGRAM)


async def bound(udp: Family) -> Any:
    sock = made(udp)
    await sock.bind((udp.loopback, 0))
    return sock


def test_a_wait_for_a_descriptor_ends_exactly_at_the_arrival(udp: Family) -> None:
    async def receive(times: list[float]) -> None:
        with made(udp) as sock:
            await sock.bind((udp.wildcard, 7))
            plain = sock.kernel_socket()
            while True:
                await trio.lowlevel.wait_readable(sock)
                times.append(trio.current_time())
                with pytest.raises(BlockingIOError):
                    while True:
                        plain.recv(100)

    async def scenario(network: sim.Network, udp: Family) -> None:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, delay=0.125)
        times: list[float] = []
        server.start_soon(receive, times)
        await trio.testing.wait_all_tasks_blocked()
        address = server.ipv4 if udp.type == "udp4" else server.ipv6
        with client.active(), made(udp) as sock:
            for _ in range(3):
                await sock.sendto(b"one", (address, 7))
                await sock.sendto(b"two", (address, 7))
                await trio.sleep(1)
        assert times == [record.at for record in network.trace][::2]
        assert times == pytest.approx([0.125, 1.125, 2.125], abs=1e-5)

    run(scenario, udp)


def test_every_way_to_send_and_receive(udp: Family) -> None:
    async def scenario(_: sim.Network, udp: Family) -> None:
        one, other = await bound(udp), await bound(udp)
        address = one.getsockname()
        assert await other.sendto(b"sendto", address) == 6
        assert await one.recvfrom(100) == (b"sendto", other.getsockname())
        await other.connect(address)
        assert other.getpeername() == address
        assert await other.send(b"send") == 4
        assert await one.recv(100, socket.MSG_PEEK) == b"send"
        buffer = bytearray(10)
        assert await one.recv_into(buffer) == 4
        assert buffer[:4] == b"send"
        assert await other.sendmsg([b"send", b"msg"]) == 7
        assert await one.recvfrom_into(buffer, 5) == (5, other.getsockname())
        assert await one.sendmsg([b"back"], [], 0, other.getsockname()) == 4
        parts = bytearray(2), bytearray(10)
        assert await other.recvmsg_into(parts) == (4, [], 0, address)
        assert (bytes(parts[0]), bytes(parts[1][:2])) == (b"ba", b"ck")
        await one.sendto(b"too long", other.getsockname())
        assert await other.recvmsg(3) == (b"too", [], socket.MSG_TRUNC, address)

    run(scenario, udp)


def test_ancillary_data_are_received(udp: Family) -> None:
    level, option, expected = {
        "udp4": (socket.IPPROTO_IP, (8, 12, 13), {8, 2, 1}),
        "udp6": (socket.IPPROTO_IPV6, (49, 51, 66), {50, 52, 67}),
    }[udp.type]

    async def scenario(network: sim.Network, udp: Family) -> None:
        sock = await bound(udp)
        for number in option:
            sock.setsockopt(level, number, 1)
        sock.setsockopt(socket.SOL_SOCKET, 35, 1)
        await trio.sleep(2)
        hops = {"udp4": (socket.IPPROTO_IP, 2), "udp6": (socket.IPPROTO_IPV6, 52)}[udp.type]
        await sock.sendmsg([b"x"], [(*hops, struct.pack("=i", 9))], 0, sock.getsockname())
        _, messages, _, _ = await sock.recvmsg(10, 500)
        assert {number for found, number, _ in messages if found == level} == expected
        assert dict.fromkeys([(found, number) for found, number, _ in messages])[hops] is None
        (stamp,) = [data for found, _, data in messages if found == socket.SOL_SOCKET]
        assert struct.unpack("@ll", stamp)[0] == 1_767_225_602
        assert network.time == pytest.approx(2, abs=1e-5)

    run(scenario, udp)


def test_names_are_resolved(udp: Family) -> None:
    async def scenario(network: sim.Network, udp: Family) -> None:
        host = network.host("server", names=["other.example"])
        with host.active():
            receiver = made(udp)
            await receiver.bind(("server", 7))
        sender = made(udp)
        await sender.sendto(b"by name", ("other.example", 7))
        assert (await receiver.recvfrom(10))[0] == b"by name"
        await sender.connect(("server", "7"))
        await sender.send(b"connected")
        assert (await receiver.recvfrom(10))[0] == b"connected"
        empty = made(udp)
        await empty.bind(("", 0))
        assert empty.getsockname()[0] == udp.wildcard
        with pytest.raises(socket.gaierror):
            await sender.sendto(b"x", ("nobody.example", 7))

    run(scenario, udp)


def test_broadcast_has_a_name() -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("other")
        with network.host("other").active():
            receiver = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            await receiver.bind(("", 7))
        sender = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with pytest.raises(PermissionError):
            await sender.sendto(b"x", ("<broadcast>", 7))
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        await sender.sendto(b"to all", ("<broadcast>", 7))
        assert await receiver.recv(10) == b"to all"

    sim.run(scenario)


def test_ipv6_addresses_may_have_four_parts() -> None:
    async def scenario(_: sim.Network) -> None:
        sock = trio.socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        await sock.bind(("::1", 0, 0, 0))
        assert len(sock.getsockname()) == 4
        await sock.sendto(b"x", sock.getsockname())
        await sock.sendto(b"x", ("localhost", sock.getsockname()[1], 0, 0))
        assert await sock.recv(10) == b"x"

    sim.run(scenario)


@pytest.mark.parametrize("address", ["::1", ("::1",), ("::1", 1, 2, 3, 4)])
def test_an_invalid_address_is_refused(address: Any) -> None:
    async def scenario(_: sim.Network) -> None:
        for family, words in ((socket.AF_INET, r"\(host, port\) tuple"), (socket.AF_INET6, "flowinfo")):
            with pytest.raises(ValueError, match=words):
                await trio.socket.socket(family, socket.SOCK_DGRAM).bind(address)

    sim.run(scenario)


def test_closing_ends_waiting_and_later_calls(udp: Family) -> None:
    async def scenario(_: sim.Network, udp: Family) -> None:
        sock = await bound(udp)

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await sock.recv(1)

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(sock)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            sock.close()
        sock.close()
        assert sock.fileno() == -1
        with pytest.raises(OSError, match="Bad file descriptor"):
            await sock.recv(1)
        for call in (sock.getsockname, sock.getpeername):
            with pytest.raises(OSError, match="Bad file descriptor"):
                call()

    run(scenario, udp)


def test_a_cancelled_receive_consumes_nothing(udp: Family) -> None:
    async def scenario(_: sim.Network, udp: Family) -> None:
        sock = await bound(udp)
        with trio.CancelScope() as scope:
            scope.cancel()
            await sock.recv(1)
        await sock.sendto(b"kept", sock.getsockname())
        with trio.CancelScope() as scope:
            scope.cancel()
            await sock.recv(10)
        assert await sock.recv(10) == b"kept"

    run(scenario, udp)


def test_shutdown_has_an_attribute(udp: Family) -> None:
    async def scenario(_: sim.Network, udp: Family) -> None:
        sock = await bound(udp)
        await sock.connect(sock.getsockname())
        sock.shutdown(socket.SHUT_RD)
        assert not sock.did_shutdown_SHUT_WR
        assert sock.is_readable()
        sock.shutdown(socket.SHUT_WR)
        assert sock.did_shutdown_SHUT_WR
        with pytest.raises(BrokenPipeError):
            await sock.send(b"x")

    run(scenario, udp)


def test_a_descriptor_that_others_read_from_still_mirrors(udp: Family) -> None:
    async def scenario(_: sim.Network, udp: Family) -> None:
        sock = await bound(udp)
        await sock.sendto(b"x", sock.getsockname())
        descriptor = sock.fileno()
        with socket.socket(fileno=socket.dup(descriptor)) as mirror:
            assert mirror.recv(10) == b"!"
        assert await sock.recv(10) == b"x"
        await sock.sendto(b"y", sock.getsockname())
        await trio.lowlevel.wait_readable(descriptor)
        assert await sock.recv(10) == b"y"

    run(scenario, udp)


def test_attributes_describe_the_socket_and_unsupported_calls_raise(udp: Family) -> None:
    async def scenario(_: sim.Network, udp: Family) -> None:
        sock = made(udp)
        assert issubclass(type(sock), trio.socket.SocketType)
        assert (sock.family, sock.type, sock.proto) == (udp.family, socket.SOCK_DGRAM, 0)
        assert repr(sock) == "<simulated UDP socket on here, not bound>"
        assert not sock.get_inheritable()
        sock.set_inheritable(False)
        assert not sock.is_readable()
        await sock.wait_writable()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, None, 3)
        for call in (sock.detach, sock.dup, lambda: sock.share(1), lambda: sock.set_inheritable(True)):
            with pytest.raises(OSError, match="a simulated socket cannot be") as caught:
                call()
            assert caught.value.errno == errno.ENOTSUP
        with pytest.raises(OSError, match="not supported") as caught:
            sock.listen()
        with pytest.raises(OSError, match="not supported") as caught:
            await sock.accept()

    run(scenario, udp)


def test_of_two_waiting_tasks_one_receives_and_the_other_waits_on(udp: Family) -> None:
    async def scenario(_: sim.Network, udp: Family) -> None:
        sock, got = await bound(udp), []

        async def receive() -> None:
            got.append(await sock.recv(10))

        async with trio.open_nursery() as nursery:
            for _number in range(2):
                nursery.start_soon(receive)
            for payload in (b"one", b"two"):
                await trio.testing.wait_all_tasks_blocked()
                await sock.sendto(payload, sock.getsockname())
        assert got == [b"one", b"two"]

    run(scenario, udp)
