"""Kernels, sandboxes and platforms that refuse optional options and calls.

Every socket works without them, and only what the program asked for by name raises ENOTSUP.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import Closed, Connected, Datagram, DatagramSocket, Listening, PacketInfo
from trio_dgram._kernel import capabilities as _capabilities
from trio_dgram._kernel.compiled_layer import native

from .support.descriptors import same_descriptors
from .support.families import Family
from .support.refusals import ALL, NAMES, REFUSALS, Refusal, lost_capabilities, refuse, refusing_socket

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="kernel: the options that are refused are Linux's"),
    pytest.mark.skipif("config.getoption('--portable')", reason="kernel: the portable path detects nothing"),
]

ROOT: Final = Path(__file__).parents[1]
BURST: Final = 40
"""Enough datagrams for receiving in batches and for sending segments."""


OF_THE_PLATFORM: Final = (
    ALL,
    "no recvmmsg",
    "no connect",
    "connect in a sandbox",
    "no recvmsg and sendmsg",
)
"""The refusals that are the same for all sockets of a process, so that detection always finds them."""
REFUSED: Final = [
    *[pytest.param(name, False, id=name) for name in NAMES],
    *[pytest.param(name, True, id=f"{name} after detection") for name in NAMES if name not in OF_THE_PLATFORM],
]


async def exercise(udp: Family, **options: Any) -> None:
    """Use every operation that works without optional options and calls."""
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, **options) as server,
        trio_dgram.open_socket(udp.type, **options) as client,
    ):
        events = client.events(Listening, Connected, Closed)
        await client.send(b"autobind", server.address)
        question = await server.receive()
        assert question.data == b"autobind"
        await server.send(question.reply(b"reply"))
        assert (await client.receive()).address == server.address
        await exchange_bursts(client, server, question)
        await client.connect(server.address)
        assert client.remote_address == server.address
        await exchange_bursts(client, server, question)
        port = client.address.port
        if trio_dgram.capabilities().disconnect:
            client.disconnect()
            assert client.address.port == port
            await client.send(b"disconnected", server.address)
            await server.send(b"to a disconnected socket", (udp.loopback, port))
            assert (await client.receive()).data == b"to a disconnected socket"
            assert (await server.receive()).data == b"disconnected"
        await multicast(udp, client, server)
        mtu = client.path_mtu(server.address)
        assert mtu is None or mtu > 1000
        statistics = server.statistics()
        assert statistics.received >= 2 * BURST
        assert statistics.dropped_by_kernel in (0, None)
        client.close()
        seen = [type(event) async for event in events]
        assert seen == [Listening, Connected, Closed]
    async with trio_dgram.open_socket(udp.type, connect=(udp.loopback, 9), **options) as unbound:
        assert unbound.address.port
    for listener in await trio_dgram.open_listeners(0):
        listener.close()


async def exchange_bursts(client: DatagramSocket, server: DatagramSocket, question: Datagram) -> None:
    """Send bursts of equal and of different sizes in both directions."""
    equal = [bytes([number]) * 100 for number in range(BURST)]
    rising = [bytes(number) for number in range(BURST)]
    for payloads in (equal, equal, rising, equal):
        await client.send_many([Datagram(payload, server.address) for payload in payloads])
        assert await receive_count(server, BURST) == payloads
        await server.send_many([question.reply(payload) for payload in payloads])
        assert await receive_count(client, BURST) == payloads


async def receive_count(sock: DatagramSocket, wanted: int) -> list[bytes]:
    received: list[bytes] = []
    while len(received) < wanted:
        received += [datagram.data for datagram in await sock.receive_many()]
    return received


async def multicast(udp: Family, client: DatagramSocket, server: DatagramSocket) -> None:
    """Join a group on loopback and leave it."""
    client.multicast_interface = "lo"
    (joined,) = server.add_membership(udp.group, "lo")
    assert joined.name == "lo"
    assert [membership.group for membership in server.memberships] == [udp.group]
    assert server.drop_membership(udp.group, "lo") == (joined,)


@pytest.mark.parametrize(("name", "after_detection"), REFUSED)
async def test_a_socket_works_without_any_optional_option_or_call(
    udp: Family, monkeypatch: pytest.MonkeyPatch, name: str, after_detection: bool
) -> None:
    refuse(monkeypatch, name, after_detection=after_detection)
    await exercise(udp)


async def test_a_socket_with_packet_info_works_without_any_optional_option_or_call(
    udp: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, ALL)
    await exercise(udp, packet_info=True)


async def test_an_adopted_socket_works_without_any_optional_option_or_call(
    udp: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, ALL)
    async with trio_dgram.open_nursery() as nursery:
        plain = socket.socket(udp.family, socket.SOCK_DGRAM)
        plain.bind((udp.loopback, 0))
        adopted = nursery.adopt_socket(plain)
        await adopted.send(b"to itself", adopted.address)
        assert (await adopted.receive()).data == b"to itself"
        assert adopted.statistics().dropped_by_kernel is None
        nursery.cancel_scope.cancel()


@pytest.mark.long
async def test_the_conformance_suite_passes_on_a_kernel_that_refuses_each_option_and_call() -> None:
    # Two processes for two processors. The tests left out measure other things, and take a third of the time.
    slow = "thousand_sockets or two_processes"
    common = ("tests/conformance", "-q", "-m", "not long", "-k", f"not ({slow})", "-p", "no:cacheprovider")
    async with trio.open_nursery() as nursery:
        for half in (NAMES[::2], NAMES[1::2]):
            command = [sys.executable, "-m", "pytest", *common, *(f"--refuse={name}" for name in half)]
            nursery.start_soon(run_child, command)


async def run_child(command: list[str]) -> None:  # pragma: no cover -- long tests run it
    done = await trio.run_process(command, cwd=ROOT, capture_stdout=True, check=False, env={**os.environ, "CI": "true"})
    assert done.returncode == 0, done.stdout.decode()[-4000:]


# What was asked for by name


async def bind_with_reuse_port(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, reuse_port=True) as sock:
        await sock.bind(0)


async def enable_icmp_errors(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, icmp_errors=True):
        raise AssertionError  # pragma: no cover -- it is refused


async def set_device(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        sock.device = "lo"


async def create_with_device(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, device="lo"):
        raise AssertionError  # pragma: no cover -- it is refused


async def read_device(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        _ = sock.device


async def set_mtu_discovery(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        sock.mtu_discovery = "do"


async def read_mtu_discovery(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        _ = sock.mtu_discovery


async def join_from_a_source(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        sock.add_membership(udp.group, "lo", source=udp.loopback)


async def join_from_a_source_everywhere(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        sock.add_membership(udp.group, source=udp.loopback)


async def send_packet_info(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        await sock.send(Datagram(b"x", trio_dgram.Address(udp.loopback, 9), PacketInfo(hop_limit=9)))


async def send_packet_info_nowait(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        sock.send_nowait(Datagram(b"x", trio_dgram.Address(udp.loopback, 9), PacketInfo(hop_limit=9)))


async def disconnect(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, connect=(udp.loopback, 9)) as sock:
        try:
            sock.disconnect()
        finally:
            assert sock.remote_address == (udp.loopback, 9)


ASKED_FOR: Final = [
    (bind_with_reuse_port, "no SO_REUSEPORT", "bind", "cannot share a port"),
    (bind_with_reuse_port, "SO_REUSEPORT", "bind", "cannot share a port"),
    (enable_icmp_errors, "IP_RECVERR", "create_socket", "no queue of ICMP errors"),
    (enable_icmp_errors, "no recvmsg and sendmsg", "create_socket", "no queue of ICMP errors"),
    (set_device, "SO_BINDTODEVICE", "set device to 'lo'", "this system"),
    (set_device, "no SO_BINDTODEVICE", "set device to 'lo'", "this system"),
    (create_with_device, "SO_BINDTODEVICE", "set device to 'lo'", "this system"),
    (create_with_device, "no SO_BINDTODEVICE", "set device to 'lo'", "this system"),
    (read_device, "SO_BINDTODEVICE", "read device", "this system"),
    (read_device, "no SO_BINDTODEVICE", "read device", "this system"),
    (set_mtu_discovery, "IP_MTU_DISCOVER", "set mtu_discovery to 'do'", "this system"),
    (read_mtu_discovery, "IP_MTU_DISCOVER", "read mtu_discovery", "this system"),
    (join_from_a_source, "MCAST_JOIN_SOURCE_GROUP", "add_membership", "this system"),
    (join_from_a_source_everywhere, "MCAST_JOIN_SOURCE_GROUP", "add_membership", "this system"),
    (send_packet_info, "packet info", "send", "cannot send a PacketInfo"),
    (send_packet_info, "no recvmsg and sendmsg", "send", "cannot send a PacketInfo"),
    (send_packet_info_nowait, "packet info", "send", "cannot send a PacketInfo"),
    (disconnect, "no connect", "disconnect", "cannot disconnect"),
]
# Sending control messages needs no option, so no refusal of one concerns it after detection.
ASKED_FOR_AFTER_DETECTION: Final = [row for row in ASKED_FOR if row[1] not in ("packet info", *OF_THE_PLATFORM)]


@pytest.mark.parametrize(
    ("use", "name", "operation", "reason", "after_detection"),
    [*[(*row, False) for row in ASKED_FOR], *[(*row, True) for row in ASKED_FOR_AFTER_DETECTION]],
)
async def test_a_requested_option_raises_enotsup(
    udp: Family,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[Family], Awaitable[None]],
    name: str,
    operation: str,
    reason: str,
    after_detection: bool,
) -> None:
    refuse(monkeypatch, name, after_detection=after_detection)
    with same_descriptors(), pytest.raises(OSError, match=reason) as caught:
        await use(udp)
    assert caught.value.errno == errno.ENOTSUP
    assert getattr(caught.value, "operation", None) == operation
    assert str(caught.value).startswith(f"[Errno {errno.ENOTSUP}] {operation}")


async def test_icmp_errors_raise_enotsup_if_ipv6_alone_lacks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "IPV6_RECVERR")
    async with trio_dgram.open_socket("udp4", icmp_errors=True):
        pass
    with same_descriptors(), pytest.raises(OSError, match="create_socket udp6: this system has no queue") as caught:
        async with trio_dgram.open_socket("udp6", icmp_errors=True):
            raise AssertionError  # pragma: no cover -- it is refused
    assert caught.value.errno == errno.ENOTSUP


async def test_reuse_port_raises_the_kernels_error_in_a_sandbox(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = attrs.evolve(REFUSALS["SO_REUSEPORT"], number=errno.EPERM)
    monkeypatch.setattr("tests.support.refusals.REFUSALS", {"SO_REUSEPORT": refusal})
    refuse(monkeypatch, "SO_REUSEPORT")
    assert not trio_dgram.capabilities().reuse_port
    with same_descriptors(), pytest.raises(PermissionError, match=f"create_socket {udp.type}"):
        async with trio_dgram.open_socket(udp.type, reuse_port=True):
            raise AssertionError  # pragma: no cover -- it is refused


@pytest.mark.parametrize("name", [None, "packet info", "SO_TIMESTAMPNS", "no recvmsg and sendmsg", ALL])
async def test_packet_info_has_none_fields_where_the_system_reports_nothing(
    udp: Family, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    if name is not None:
        refuse(monkeypatch, name)
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, packet_info=True) as sock:
        await sock.send(b"to itself", sock.address)
        info = (await sock.receive()).info
    assert info is not None
    reported = {field for field, value in attrs.asdict(info).items() if value not in (None, False)}
    assert ("hop_limit" in reported) == (name in (None, "SO_TIMESTAMPNS"))
    assert ("timestamp_ns" in reported) == (name is None)
    assert not (reported and name in (ALL, "packet info", "no recvmsg and sendmsg"))


async def test_path_mtu_is_none_where_the_system_does_not_report_it(
    udp: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "IP_MTU_DISCOVER")
    async with trio_dgram.open_socket(udp.type) as sock:
        assert sock.path_mtu((udp.loopback, 9)) is None


# Detection


@pytest.mark.parametrize("name", NAMES)
def test_exactly_the_refused_features_are_not_detected(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = _capabilities.detect()
    refuse(monkeypatch, name)
    lost = lost_capabilities(name)
    with same_descriptors():
        found = trio_dgram.capabilities()
    assert found == attrs.evolve(before, **dict.fromkeys(lost, False))


def test_every_capability_can_be_refused() -> None:
    every = set(attrs.fields_dict(_capabilities.Capabilities))
    assert lost_capabilities(ALL) == every - (set() if native is not None else {"compiled"})


def test_this_kernel_has_every_capability_that_its_version_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_capabilities, "detected", None)
    version = tuple(int(part) for part in os.uname().release.split(".")[:2])
    since = {"receive_offload": (5, 0), "send_offload": (4, 18), "drop_counter": (4, 12)}
    found = attrs.asdict(trio_dgram.capabilities())
    promised = {name: version >= since.get(name, (3, 0)) for name in found}
    promised["compiled"] = native is not None
    if not all(found[name] for name in promised if promised[name]):
        pytest.skip("kernel: a sandbox refuses some calls")  # pragma: no cover -- depends on the machine
    assert found == promised


def test_detection_runs_once_and_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[socket.socket] = []

    class Silent(socket.socket):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            created.append(self)

        def send(self, *_: object) -> int:
            raise AssertionError  # pragma: no cover -- must not be called

        sendto = sendmsg = connect = bind = send  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]

    monkeypatch.setattr(socket, "socket", Silent)
    monkeypatch.setattr(_capabilities, "detected", None)
    with same_descriptors():
        assert trio_dgram.capabilities() is trio_dgram.capabilities()
    assert len(created) == 1
    assert created[0].fileno() == -1


def test_detection_without_descriptors_raises_the_kernels_error_and_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse_all(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(_capabilities, "detected", None)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="Too many open files"):
        patched.setattr(socket, "socket", refuse_all)
        trio_dgram.capabilities()
    assert trio_dgram.capabilities() == _capabilities.detect()


async def test_a_socket_whose_kernel_refuses_recvmmsg_after_detection_continues_with_single_calls(
    udp: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "recvmmsg in a sandbox", after_detection=True)
    assert trio_dgram.capabilities().batches
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        for _ in range(3):
            await sock.send_many([Datagram(bytes([number]), sock.address) for number in range(BURST)])
            assert await receive_count(sock, BURST) == [bytes([number]) for number in range(BURST)]
        assert sock.statistics().received == 3 * BURST
        assert sock.statistics().receive_errors == 0


async def test_a_disconnect_keeps_the_ipv6_socket_that_the_kernel_does_not_exchange(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unprivileged(socket.socket):
        refused = 0

        def bind(self, _: object) -> None:
            type(self).refused += 1
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    async with (
        trio_dgram.open_socket("udp6", port=0, host="::1") as peer,
        trio_dgram.open_socket("udp6", port=0, host="::1", connect=peer.address) as sock,
    ):
        address = sock.address
        monkeypatch.setattr(socket, "socket", Unprivileged)
        with same_descriptors():
            sock.disconnect()
        assert Unprivileged.refused == 1
        assert sock.address == address
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        await sock.send(b"question", peer.address)
        await peer.send((await peer.receive()).reply(b"answer"))
        assert (await sock.receive()).data == b"answer"


async def test_a_connect_that_finds_an_option_refused_leaves_no_descriptor(
    udp: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        refusal = Refusal(options=[(socket.SOL_SOCKET, socket.SO_BROADCAST)], number=errno.EPERM)
        monkeypatch.setattr(socket, "socket", refusing_socket([refusal], sandbox=True))
        with same_descriptors(), pytest.raises(PermissionError, match="connect"):
            await sock.connect((udp.loopback, 9))
        monkeypatch.undo()
        await sock.connect((udp.loopback, 9))
