"""ICMP errors about earlier datagrams: reported with destination, reason and offender, never raised by another send."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import Address, Datagram, DatagramSocket, EventChannel, Failure, PeerUnreachable
from trio_dgram._codecs.families import SocketType
from trio_dgram._kernel import descriptor as _kernel
from trio_dgram._kernel.system_socket import SystemSocket

from .support.families import Family
from .support.faults import FaultySocket, faulty_kernel
from .support.namespaces import Machine, another_machine, entered, ip, run, sysctl

pytestmark = pytest.mark.skipif("config.getoption('--portable')", reason="kernel: the portable path has no error queue")

PEERS: Final[list[tuple[SocketType, str]]] = [("udp4", "127.0.0.1"), ("udp6", "::1"), ("udp6", "127.0.0.1")]
"""The type of a socket and the loopback address of its peer; the last is IPv4-mapped on the socket."""
TIMEOUT: Final = 20
"""How long an event that must happen may take, in seconds."""


def closed_port(host: str) -> Address:
    """Return an address that no socket is bound to."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind((host, 0))
        return Address(host, closed.getsockname()[1])


def as_seen(type_: SocketType, host: str) -> str:
    return f"::ffff:{host}" if type_ == "udp6" and ":" not in host else host


async def next_error(failures: EventChannel[Failure]) -> PeerUnreachable:
    with trio.fail_after(TIMEOUT):
        failure = await failures.receive()
    assert isinstance(failure.error, PeerUnreachable)
    assert (failure.operation, failure.address) == (failure.error.operation, failure.error.address)
    return failure.error


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize(("type_", "host"), PEERS)
async def test_a_closed_port_is_reported_while_no_task_receives(type_: SocketType, host: str, connected: bool) -> None:
    to = closed_port(host)
    async with trio_dgram.open_socket(type_, icmp_errors=True) as sock:
        failures = sock.events(Failure)
        if connected:
            await sock.connect(to)
        for count in range(1, 4):
            await sock.send(b"x", None if connected else to)
            error = await next_error(failures)
            assert isinstance(error, OSError)
            assert error.errno == errno.ECONNREFUSED
            assert error.address == (as_seen(type_, host), to.port)
            assert (error.icmp_type, error.icmp_code) == ((1, 4) if ":" in host else (3, 3))
            assert (error.reason, error.offender, error.path_mtu) == ("port unreachable", as_seen(type_, host), None)
            assert str(to.port) in str(error)
            assert "port unreachable" in str(error)
            assert (sock.statistics().sent, sock.statistics().receive_errors) == (count, count)
        with pytest.raises(trio.WouldBlock):
            failures.receive_nowait()


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize(("type_", "host"), PEERS)
async def test_icmp_errors_are_reported_and_receiving_continues(type_: SocketType, host: str, listening: bool) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket(type_, icmp_errors=True)
        failures = sock.events(Failure)
        to = (host, (await sock.bind()).port)
        datagrams = sock.events(Datagram) if listening else sock
        got = list[bytes]()

        async def receive() -> None:
            async for datagram in datagrams:  # pragma: no branch -- the last datagram ends it
                got.append(datagram.data)
                if datagram.data == b"last":
                    sock.close()
                    break

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(5):
            await sock.send(b"lost", closed_port(host))
            await next_error(failures)
            await sock.send(bytes([number]), to)
        await sock.send(b"last", to)
    assert got == [*(bytes([number]) for number in range(5)), b"last"]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("icmp_errors", [False, True])
@pytest.mark.parametrize(("type_", "host"), PEERS)
async def test_a_send_after_another_peers_error_is_sent_exactly_once(
    type_: SocketType, host: str, icmp_errors: bool, many: bool
) -> None:
    async with (
        trio_dgram.open_socket("udp6" if ":" in host else "udp4", port=0, host=host) as healthy,
        trio_dgram.open_socket(type_, icmp_errors=icmp_errors) as sock,
    ):
        wanted = [bytes([number]) for number in range(20)]
        for data in wanted:
            if many:
                await sock.send_many([Datagram(b"lost", closed_port(host)), Datagram(data, healthy.address)])
            else:
                await sock.send(b"lost", closed_port(host))
                await sock.send(data, healthy.address)
        assert [(await healthy.receive()).data for _ in wanted] == wanted
        with pytest.raises(trio.WouldBlock):
            healthy.receive_nowait()
        statistics = sock.statistics()
        assert (statistics.sent, statistics.send_errors) == (40, 0)


async def test_an_idle_socket_with_queued_errors_does_not_busy_loop(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        socks = [nursery.create_socket(udp.type, icmp_errors=True) for _ in range(3)]
        for sock in socks:
            await sock.bind(0, udp.loopback)
        receiving, watching, unattended = socks
        nursery.start_soon(receiving.receive)
        failures = watching.events(Failure)
        for sock in socks:
            for _ in range(50):
                sock.send_nowait(b"x", closed_port(udp.loopback))
        assert unattended.statistics().sent == 50
        # It returns once no task has run for 0.05 s, which a busy loop would prevent.
        with trio.fail_after(TIMEOUT):
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert failures.statistics().failures_dropped == 0
        assert watching.statistics().receive_errors == receiving.statistics().receive_errors == 50
        nursery.cancel_scope.cancel()


async def test_queued_errors_do_not_use_up_the_receive_buffer(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, icmp_errors=True) as sock:
        for _ in range(600):
            await sock.send(b"x", closed_port(udp.loopback))
        sent = [bytes([number]) for number in range(100)]
        for data in sent:
            await sock.send(data, sock.address)
        assert [(await sock.receive()).data for _ in sent] == sent
        assert sock.statistics().dropped_by_kernel == 0


@pytest.mark.parametrize("icmp_errors", [False, True])
@pytest.mark.parametrize(("type_", "host"), PEERS)
async def test_a_connected_socket_raises_a_pending_error_from_the_next_receive_once(
    type_: SocketType, host: str, icmp_errors: bool
) -> None:
    to = closed_port(host)
    async with (
        trio_dgram.open_socket(type_, connect=to, icmp_errors=icmp_errors) as sock,
        trio_dgram.open_nursery() as nursery,
    ):
        for _ in range(10):
            await sock.send(b"lost")
        peer = nursery.create_socket("udp6" if ":" in host else "udp4")
        await peer.bind(to.port, host)
        sent = [bytes([number]) for number in range(10)]
        for data in sent:
            await sock.send(data)
        assert [(await peer.receive()).data for _ in sent] == sent
        with pytest.raises(OSError, match=str(to.port)) as caught:
            await sock.receive()
        assert caught.value.errno == errno.ECONNREFUSED
        assert isinstance(caught.value, PeerUnreachable) == icmp_errors
        await peer.send(b"answer", (host, sock.address.port))
        assert (await sock.receive()).data == b"answer"
        assert sock.statistics().sent == 20
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("type_", "host"), PEERS)
async def test_an_error_of_an_earlier_destination_is_not_raised_for_the_peer(type_: SocketType, host: str) -> None:
    async with (
        trio_dgram.open_socket("udp6" if ":" in host else "udp4", port=0, host=host) as peer,
        trio_dgram.open_socket(type_, icmp_errors=True) as sock,
    ):
        await sock.send(b"lost", closed_port(host))
        await sock.connect(peer.address)
        await sock.send(b"question")
        await peer.send((await peer.receive()).reply(b"answer"))
        assert (await sock.receive()).data == b"answer"
        assert sock.statistics().receive_errors == 1


@pytest.mark.parametrize("icmp_errors", [False, True])
@pytest.mark.parametrize(("type_", "host"), PEERS)
async def test_an_error_of_a_former_peer_is_reported_for_that_peer_only(
    type_: SocketType, host: str, icmp_errors: bool
) -> None:
    gone = [closed_port(host), closed_port(host)]
    async with (
        trio_dgram.open_socket("udp6" if ":" in host else "udp4", port=0, host=host) as peer,
        trio_dgram.open_socket(type_, icmp_errors=icmp_errors) as sock,
    ):
        for to in gone:
            await sock.connect(to)
            await sock.send(b"lost")
            sock.disconnect()
        await sock.connect(peer.address)
        with pytest.raises(trio.WouldBlock):
            sock.receive_nowait()
        assert sock.statistics().receive_errors == 2
        sock.disconnect()
        failures = sock.events(Failure)
        await sock.connect(gone[0])
        await sock.send(b"lost")
        sock.disconnect()
        assert (await failures.receive()).address == (as_seen(type_, host), gone[0].port)


@contextmanager
def narrow_path(machine: Machine) -> Generator[dict[str, str]]:
    """Route by ``machine``, over a second link with an MTU of 1300 bytes, to a third one; yield its addresses."""
    near = machine.link(1)
    with another_machine(machine.namespace) as far:
        second = far.link(2, mtu=1300)
        ip(
            f"route add 198.18.2.0/24 via {near.there['udp4']}",
            f"route add 2001:db8:2::/64 via {near.there['udp6']}",
        )
        with machine.active():
            sysctl("net.ipv4.ip_forward", 1)
            sysctl("net.ipv6.conf.all.forwarding", 1)
        with far.active():
            ip(f"route add default via {second.here['udp4']}", f"route add default via {second.here['udp6']}")
        yield second.there


@pytest.mark.parametrize("icmp_errors", [False, True])
async def test_a_pending_emsgsize_loses_no_later_datagram(udp: Family, machine: Machine, icmp_errors: bool) -> None:
    with narrow_path(machine) as there:
        async with trio_dgram.open_socket(udp.type, icmp_errors=icmp_errors, mtu_discovery="do") as sock:
            to = (there[udp.type], 9)
            assert sock.path_mtu(to) == 1500
            await sock.connect(to)
            failures = sock.events(Failure)
            await sock.send(b"x" * 1400)
            # Wait for the ICMP error of the router before the next send.
            sent = 1
            with trio.fail_after(TIMEOUT):
                while sock.path_mtu(to) == 1500:
                    await trio.lowlevel.checkpoint()  # pragma: no cover -- it has usually arrived
            await sock.send(b"y")
            sent += 1
            failure = await failures.receive()
            assert failure.error.errno == errno.EMSGSIZE
            assert isinstance(failure.error, PeerUnreachable) == icmp_errors
            if isinstance(failure.error, PeerUnreachable):
                assert (failure.error.reason, failure.error.path_mtu) == ("packet too big", 1300)
                assert failure.error.offender == machine_address(udp)
            with pytest.raises(OSError, match="1300") as caught:
                await sock.send(b"x" * 1400)
            assert (caught.value.errno, vars(caught.value)["path_mtu"]) == (errno.EMSGSIZE, 1300)
            await sock.send(b"z")
            assert (sock.statistics().sent, sock.statistics().send_errors) == (sent + 1, 1)
            await trio.testing.wait_all_tasks_blocked()


def machine_address(udp: Family) -> str:
    return {"udp4": "198.18.1.2", "udp6": "2001:db8:1::2"}[udp.type]


async def test_an_exceeded_hop_limit_names_the_router(udp: Family, machine: Machine) -> None:
    with narrow_path(machine) as there:
        async with trio_dgram.open_socket(udp.type, icmp_errors=True, ttl=1) as sock:
            failures = sock.events(Failure)
            await sock.send(b"x", (there[udp.type], 9))
            error = await next_error(failures)
            assert (error.reason, error.offender) == ("hop limit exceeded", machine_address(udp))
            assert error.errno == errno.EHOSTUNREACH
            assert error.address == (there[udp.type], 9)


async def test_an_error_that_the_queue_lacks_is_reported_by_its_errno(udp: Family) -> None:
    with faulty_kernel() as faults:
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, icmp_errors=True) as sock:
            failures = sock.events(Failure)
            # Reading the queue finds it empty twice.
            faults.set("recvmsg", errno.EAGAIN, errno.EAGAIN)
            await sock.send(b"x", closed_port(udp.loopback))
            with trio.fail_after(TIMEOUT):
                reported = await failures.receive()
                assert reported.error.errno == errno.ECONNREFUSED
                assert not isinstance(reported.error, PeerUnreachable)
                assert isinstance((await failures.receive()).error, PeerUnreachable)


async def test_watching_ends_with_the_last_failure_channel_and_with_the_socket(udp: Family) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, icmp_errors=True) as sock:
        before = descriptors()
        channels: list[EventChannel[Any]] = [sock.events(Failure), sock.events()]
        await trio.testing.wait_all_tasks_blocked()
        assert descriptors() == before + 1
        channels[0].close()
        await trio.testing.wait_all_tasks_blocked()
        assert descriptors() == before + 1
        channels[1].close()
        await trio.testing.wait_all_tasks_blocked()
        assert descriptors() == before
        sock.events(Failure)
        await trio.testing.wait_all_tasks_blocked()
        sock.close()
        await trio.testing.wait_all_tasks_blocked()
        assert descriptors() == before - 1


async def test_an_error_in_another_namespace_is_reported_by_the_sending_socket_only(
    udp: Family, machine: Machine
) -> None:
    link = machine.link()
    socks: list[DatagramSocket] = []
    async with trio_dgram.open_nursery() as nursery:
        with entered(machine.home):
            socks += [nursery.create_socket(udp.type, icmp_errors=True) for _ in range(2)]
        first, second = (sock.events(Failure) for sock in socks)
        await socks[0].send(b"x", (link.there[udp.type], 9))
        await socks[1].bind()
        assert (await next_error(first)).offender == link.there[udp.type]
        with pytest.raises(trio.WouldBlock):
            second.receive_nowait()
        nursery.cancel_scope.cancel()


async def test_more_errors_than_one_read_returns_are_all_reported(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kernel, "_MOST_ERRORS", 2)
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, icmp_errors=True) as sock:
        for _ in range(7):
            sock.send_nowait(b"x", closed_port(udp.loopback))
        failures = sock.events(Failure)
        assert failures.statistics().failures_dropped == 0
        await trio.testing.wait_all_tasks_blocked()
        assert sock.statistics().receive_errors == 7


async def test_queue_records_without_an_error_are_skipped(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutRecords(FaultySocket):
        def recvmsg(self, *arguments: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
            data, ancillary, flags, source = super().recvmsg(*arguments)
            return data, [] if len(arguments) == 3 else ancillary, flags, source

    monkeypatch.setattr("tests.support.faults.FaultySocket", WithoutRecords)
    with faulty_kernel():
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, icmp_errors=True) as sock:
            await sock.send(b"lost", closed_port(udp.loopback))
            await sock.send(b"x", sock.address)
            assert (await sock.receive()).data == b"x"
            assert sock.statistics().send_errors == 0


async def test_transmit_timestamps_in_the_queue_are_skipped(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, icmp_errors=True) as sock:
        # SO_TIMESTAMPING without the payload: the kernel queues a transmit timestamp of each datagram there.
        sock.setsockopt(socket.SOL_SOCKET, 37, 1 << 1 | 1 << 4 | 1 << 11)
        await sock.send(b"x", sock.address)
        assert (await sock.receive()).data == b"x"
        await sock.send(b"lost", closed_port(udp.loopback))
        await sock.send(b"y", sock.address)
        assert (await sock.receive()).data == b"y"
        assert sock.statistics().receive_errors == 1


async def test_undrained_errors_do_not_make_a_waiting_send_busy_loop(udp: Family, machine: Machine) -> None:
    link = machine.link(mtu=1300)
    # At this rate datagrams stay in the send buffer.
    run("tc", "qdisc", "add", "dev", link.name, "root", "tbf", "rate", "1kbit", "burst", "1500", "limit", "1m")
    async with trio_dgram.open_nursery() as nursery:
        with machine.active():
            port = (await nursery.create_socket(udp.type).bind()).port
        sock = nursery.create_socket(udp.type, icmp_errors=True, mtu_discovery="do", send_buffer_size=1)
        to = Address(link.there[udp.type], port)
        with pytest.raises(trio.WouldBlock):
            while True:
                sock.send_nowait(b"x" * 1000, to)
        with pytest.raises(OSError, match="too long"):
            sock.send_nowait(b"x" * 2000, to)
        sent = sock.statistics().sent
        nursery.start_soon(sock.send, b"x" * 1000, to)
        with trio.fail_after(TIMEOUT):
            await trio.testing.wait_all_tasks_blocked()
        assert sock.statistics().sent == sent
        nursery.cancel_scope.cancel()


async def test_closing_before_errors_are_watched_ends_the_channel(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock = nursery.create_socket(udp.type, icmp_errors=True)
        failures = sock.events(Failure)
        sock.send_nowait(b"x", closed_port(udp.loopback))
        sock.close()
        assert [event async for event in failures] == []
        await trio.testing.wait_all_tasks_blocked()


async def test_a_failed_watch_is_reported_and_retried_by_the_next_channel(
    udp: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(sock: SystemSocket) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, icmp_errors=True) as sock:
        with monkeypatch.context() as patch:
            patch.setattr(SystemSocket, "watch_errors", full)
            failures = sock.events(Failure)
            assert (await failures.receive()).error.errno == errno.EMFILE
        # The next channel retries.
        others = sock.events(Failure)
        to = closed_port(udp.loopback)
        await sock.send(b"x", to)
        for channel in (failures, others):
            assert (await next_error(channel)).address == to
