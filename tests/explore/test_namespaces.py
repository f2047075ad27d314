"""Hosts on the real kernel: namespaces, and a network between them that drops and delays as a tape says."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pytest
import trio

from trio_dgram import Address, open_nursery, open_socket, sim
from trio_dgram._kernel.c_library import c_function
from trio_dgram._values.test_runs import TestRun, running_test
from trio_dgram.sim._namespaces import namespace as namespaces
from trio_dgram.sim._namespaces.hosts import Namespaces
from trio_dgram.sim._namespaces.namespace import Namespace, NotTriedError, check_namespaces
from trio_dgram.sim._namespaces.packets import FragmentError, parse_complaint, parse_packet
from trio_dgram.sim._trace.report import FailureReport
from trio_dgram.sim._trace.trace import Trace
from trio_dgram.sim._values.choices import Replay
from trio_dgram.sim._values.encoding import encode
from trio_dgram.sim._values.records import Packet, Report
from trio_dgram.sim._values.tape import Choice, Tape

InternetType = Literal["udp4", "udp6"]
Scenario = Callable[[sim.Network], Awaitable[None]]
FAMILIES = pytest.mark.parametrize("type_", ["udp4", "udp6"])


@pytest.fixture
def on_kernel(namespace: int) -> Callable[..., Trace]:
    """Runs a scenario on namespaces, with the choices of a tape; returns the trace."""
    try:
        Namespace([]).close()
    except OSError as error:  # pragma: no cover -- depends on the kernel
        pytest.skip(f"kernel: {error}")

    def run(scenario: Scenario, *choices: Choice) -> Trace:
        async def main() -> None:
            async with sim.open_network() as network:
                await scenario(network)

        underlay = Namespaces()
        test_run = TestRun(0, Replay(Tape(choices)), underlay)
        with running_test(test_run):
            try:
                trio.run(main, clock=underlay.clock)
            finally:
                underlay.check()
        (report,) = test_run.reports
        assert isinstance(report, FailureReport)
        return report.trace

    return run


@pytest.mark.usefixtures("on_kernel")
def test_an_address_is_reachable_as_soon_as_its_host_is_made() -> None:
    for _ in range(20):
        made = Namespace(["2001:db8::1"])
        with closing(made), made.entered(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("2001:db8::1", 0))
            sock.sendto(b"x", sock.getsockname())
            sock.settimeout(0)
            assert sock.recv(1) == b"x"


def fates(trace: Trace) -> list[tuple[bytes, str, str]]:
    return [(record.packet.payload, record.fate, record.reason) for record in trace.records]


async def answer(type_: InternetType) -> None:
    async with open_socket(type_, port=5005) as sock:
        async for datagram in sock:
            await sock.send(datagram.data.upper(), datagram.address)


async def ask(type_: InternetType, answers: list[bytes], count: int, *questions: str) -> None:
    """Ask questions, and append as many answers."""
    async with open_socket(type_) as sock:
        await sock.connect(("server", 5005))
        for question in questions:
            await sock.send(question)
        for _ in range(count):
            answers.append((await sock.receive()).data)


@FAMILIES
def test_datagrams_have_the_fates_of_the_tape(on_kernel: Callable[..., Trace], type_: InternetType) -> None:
    answers: list[bytes] = []

    async def exchange(network: sim.Network) -> None:
        network.defaults(delay=0.001, jitter=0.0001, loss=0.1, duplicate=0.1, keep_order=False)
        network.host("server").start_soon(answer, type_)
        await trio.testing.wait_all_tasks_blocked()
        await network.host("client").run(ask, type_, answers, 3, "lost", "late", "twice")

    trace = on_kernel(
        exchange,
        Choice("client -> server: loss", 1, value=True),
        Choice("client -> server: delay", 2, 0.1),
        Choice("server -> client: duplicate", 1, value=True),
    )
    assert answers == [b"TWICE", b"TWICE", b"LATE"]
    assert [fate for payload, fate, _ in fates(trace) if payload == b"lost"] == ["dropped"]


def test_datagrams_of_several_hosts_arrive_in_the_order_of_sending(on_kernel: Callable[..., Trace]) -> None:
    sent: list[bytes] = []

    async def send(name: str, begin: float) -> None:
        async with open_socket("udp4") as sock:
            await sock.connect(("server", 5005))
            for number in range(20):
                await trio.sleep_until(begin + number * 0.002)
                sent.append(f"{name} {number}".encode())
                sock.send_nowait(sent[-1])

    async def scenario(network: sim.Network) -> None:
        network.host("server")
        begin = trio.current_time() + 0.02
        async with trio.open_nursery() as nursery:
            for name in ("one", "two", "three"):
                with network.host(name).active():
                    nursery.start_soon(send, name, begin)

    trace = on_kernel(scenario)
    numbers = {record.packet.payload: record.packet.number for record in trace.records if record.packet.payload}
    assert len(numbers) > 20
    assert sorted(numbers, key=lambda payload: numbers[payload]) == [payload for payload in sent if payload in numbers]


@FAMILIES
def test_a_closed_port_refuses_with_icmp(on_kernel: Callable[..., Trace], type_: InternetType) -> None:
    async def refused(network: sim.Network) -> None:
        network.host("server")
        with pytest.raises(ConnectionRefusedError):
            await network.host("client").run(ask, type_, [], 1, "anybody?")

    trace = on_kernel(refused)
    assert [record.packet.report is not None for record in trace.records] == [False, True]


def test_an_unknown_host_is_unreachable(on_kernel: Callable[..., Trace]) -> None:
    async def send() -> None:
        async with open_socket("udp4", icmp_errors=True) as sock:
            await sock.connect(("10.9.9.9", 5005))
            await sock.send("anybody?")
            await sock.receive()

    async def unreachable(network: sim.Network) -> None:
        with pytest.raises(OSError, match=r"[Nn]o route|[Uu]nreachable"):
            await network.host("client").run(send)

    on_kernel(unreachable)


def test_a_crash_closes_the_sockets_of_a_host_until_it_is_rebooted(on_kernel: Callable[..., Trace]) -> None:
    answers: list[bytes] = []

    async def crash(network: sim.Network) -> None:
        server, client = network.host("server"), network.host("client")
        server.start_soon(answer, "udp4")
        await trio.testing.wait_all_tasks_blocked()
        assert len(network.open_sockets()) == 1
        assert "5005" in server.sockets()
        server.crash()
        await client.run(ask, "udp4", answers, 0, "while it is down")
        await trio.sleep(0.02)
        assert answers == []
        server.reboot()
        await trio.testing.wait_all_tasks_blocked()
        await client.run(ask, "udp4", answers, 1, "again")

    trace = on_kernel(crash)
    assert answers == [b"AGAIN"]
    assert (b"while it is down", "dropped", "the host is down") in fates(trace)


def test_a_datagram_with_a_wrong_checksum_is_dropped_by_the_kernel(on_kernel: Callable[..., Trace]) -> None:
    answers: list[bytes] = []

    async def corrupt(network: sim.Network) -> None:
        network.defaults(corrupt=0.1, corrupt_undetected=0.1)
        network.host("server").start_soon(answer, "udp4")
        await trio.testing.wait_all_tasks_blocked()
        await network.host("client").run(ask, "udp4", answers, 1, "broken", "aa")

    on_kernel(
        corrupt,
        Choice("client -> server: corrupt", 1, value=True),
        Choice("client -> server: corrupt_undetected", 2, 8),
    )
    assert answers == [b"\xe1A"]


def test_sockets_disconnect_and_have_local_addresses_in_their_namespace(on_kernel: Callable[..., Trace]) -> None:
    async def use(network: sim.Network) -> None:
        host = network.host("client")
        peer = network.host("server").ipv6
        with host.active():
            async with open_socket("udp6") as sock:
                await sock.connect((peer, 5005))
                assert sock.address.host == host.ipv6
                sock.disconnect()
                await sock.send("datagram", Address(peer, 5005))
            async with open_socket("udp4", port=5006) as sock, open_socket("udp4") as other:
                await other.send("to itself", Address(host.ipv4, 5006))
                assert (await sock.receive()).data == b"to itself"
                assert sock.path_mtu(Address(network.host("server").ipv4, 5005)) == 1500
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
                await plain.bind((host.ipv4, 5007))
                made: Any = plain
                assert made.kernel_socket().is_local(host.ipv4)

    on_kernel(use)


async def multicast(network: sim.Network) -> None:
    with network.host("client").active():
        async with open_socket("udp4") as sock:
            await sock.send("everybody", Address("224.0.0.251", 5353))
            await trio.sleep(1)


async def fragmented(network: sim.Network) -> None:
    server = network.host("server")
    with network.host("client").active():
        async with open_socket("udp4") as sock:
            await sock.send(bytes(4000), Address(server.ipv4, 5005))
            await trio.sleep(1)


async def paused(network: sim.Network) -> None:
    network.host("client").pause()


async def skewed(network: sim.Network) -> None:
    network.host("client").clock_skew(1.0)


async def stream(network: sim.Network) -> None:
    network.host("client")
    # The test suppresses the error, and the run does not count nevertheless.
    with pytest.raises(NotTriedError):
        trio.socket.socket()


async def adopted(network: sim.Network) -> None:
    async with open_nursery() as nursery:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            nursery.adopt_socket(sock)


async def twice(network: sim.Network) -> None:
    async with sim.open_network():
        raise AssertionError


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        (multicast, "multicast"),
        (fragmented, "fragmented"),
        (paused, "paused or frozen"),
        (skewed, "one clock"),
        (stream, "other sockets"),
        (adopted, "adopts"),
        (twice, "several networks"),
    ],
)
def test_a_run_that_is_different_on_the_kernel_does_not_count(
    on_kernel: Callable[..., Trace], scenario: Scenario, reason: str
) -> None:
    with pytest.raises(NotTriedError, match=reason):
        on_kernel(scenario)


def test_a_run_in_virtual_time_does_not_count(namespace: int) -> None:
    underlay = Namespaces()

    async def scenario(network: sim.Network) -> None:
        raise AssertionError

    with running_test(TestRun(0, None, underlay)), pytest.raises(BaseException):  # noqa: B017, PT011
        sim.run(scenario)
    with pytest.raises(NotTriedError, match="virtual"):
        underlay.check()


def test_a_run_without_a_namespace_for_a_host_does_not_count(
    on_kernel: Callable[..., Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(network: sim.Network) -> None:
        network.host("client")

    monkeypatch.setattr(namespaces, "_TUN", Path(os.devnull))
    with pytest.raises(NotTriedError, match="the host client has no namespace"):
        on_kernel(scenario)


def test_an_address_that_the_kernel_refuses_is_an_error(on_kernel: Callable[..., Trace]) -> None:
    with pytest.raises(OSError, match="ip: "):
        Namespace(["no address"])


def test_missing_requirements_are_named(namespace: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        with pytest.raises(NotTriedError, match="iproute2"):
            check_namespaces()
    with monkeypatch.context() as patch:
        patch.setattr(namespaces, "c_function", lambda name: (lambda _: -1) if name == "unshare" else c_function(name))
        with pytest.raises(NotTriedError, match="unshare"):
            check_namespaces()
    for device in (tmp_path / "tun", Path(os.devnull)):
        monkeypatch.setattr(namespaces, "_TUN", device)
        with pytest.raises(NotTriedError, match=r"it needs .* user namespaces"):
            check_namespaces()


# Packets as bytes


def packet(version: int, payload: bytes = b"payload", **fields: Any) -> Packet:
    hosts = ("10.0.1.1", "10.0.1.2") if version == 4 else ("fd00::1", "fd00::2")
    source, destination = Address(hosts[0], 1024), Address(hosts[1], 53)
    return Packet(1, source, destination, payload, "one", 0.0, **fields)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("payload", [b"", b"odd", b"even"])
def test_a_datagram_survives_its_conversion(version: int, payload: bytes) -> None:
    sent = packet(version, payload, hop_limit=9, traffic_class=0xB9, dont_fragment=True)
    parsed = parse_packet(encode(sent))
    assert parsed.is_datagram
    assert (parsed.source, parsed.destination, parsed.data) == (sent.source, sent.destination, payload)
    assert (parsed.hop_limit, parsed.traffic_class, parsed.dont_fragment) == (9, 0xB9, True)


@pytest.mark.parametrize(("version", "kind"), [(4, 3), (6, 1)])
def test_an_icmp_error_survives_its_conversion(version: int, kind: int) -> None:
    about = packet(version)
    report = Report(kind, 4, 1400, about)
    parsed = parse_packet(encode(packet(version, b"", report=report)))
    complaint = parse_complaint(parsed)
    assert complaint is not None
    assert (complaint.type, complaint.code, complaint.mtu) == (kind, 4, 1400)
    assert (complaint.about.source, complaint.about.destination) == (about.source, about.destination)
    # An echo request is about no packet.
    assert parse_complaint(parsed._replace(data=b"\x80" + parsed.data[1:])) is None


@pytest.mark.parametrize("version", [4, 6])
def test_a_fragment_is_recognized(version: int) -> None:
    data = bytearray(encode(packet(version)))
    data[6] = 0x20 if version == 4 else 44
    with pytest.raises(FragmentError):
        parse_packet(bytes(data))


@pytest.mark.parametrize("payload", [b"payload", b"\xa9\xd9"])
def test_a_broken_datagram_has_another_checksum(payload: bytes) -> None:
    whole, broken = encode(packet(4, payload)), encode(packet(4, payload, broken=True))
    assert whole != broken
    assert broken[26:28] != b"\0\0"
