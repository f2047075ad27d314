"""Sockets that systemd or a supervisor passed to this process: finding, binding and releasing them."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import stat
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import trio_dgram
from trio_dgram import Address, sim, workers
from trio_dgram._codecs.ancillary import UDP_GRO, UDP_SEGMENT
from trio_dgram._kernel import passed_sockets
from trio_dgram._kernel.capabilities import capabilities
from trio_dgram._kernel.system_socket import SharedSocket
from trio_dgram._services.worker_process import process

from .support.examples import EXAMPLES
from .support.families import FAMILIES, Family
from .support.namespaces import program
from .support.passing import FIRST, Pass, bound
from .support.programs import find_program, unused_port
from .support.socket_factory import sockets_from
from .test_listener_sockets import assert_shouts, serving
from .test_services import shout

ROOT: Final = EXAMPLES.parent
UDP4: Final = FAMILIES[0]
UDP6: Final = FAMILIES[1]

pytestmark = pytest.mark.skipif(not hasattr(socket, "MSG_DONTWAIT"), reason="kernel: no MSG_DONTWAIT")


def inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino


def send_to(target: socket.socket, *payloads: bytes) -> None:
    with socket.socket(target.family, socket.SOCK_DGRAM) as client:
        for payload in payloads:
            client.sendto(payload, target.getsockname())


# Taking


async def test_bind_takes_the_passed_socket_of_its_address(udp: Family, pass_sockets: Pass) -> None:
    with bound(udp) as passed:
        send_to(passed, b"queued before")
        assert pass_sockets(passed)
        host, port = passed.getsockname()[:2]
        async with trio_dgram.open_nursery() as nursery:
            sock = nursery.create_socket(udp.type)
            number = sock.fileno()
            assert await sock.bind(port, host) == (host, port)
            assert sock.fileno() == number
            assert inode(number) == inode(passed.fileno())
            assert repr(sock) == f"<trio_dgram.DatagramSocket {udp.type}, bound to {Address(host, port)}, passed>"
            datagram = await sock.receive()
            assert datagram.data == b"queued before"
            # Other processes share the open file description, so it stays blocking.
            assert os.get_blocking(passed.fileno())
            with pytest.raises(trio.WouldBlock):
                sock.receive_nowait()
            send_to(passed, b"later")
            assert (await sock.receive()).data == b"later"
            await sock.send(b"answer", datagram.address)
            sock.close()


async def test_a_unix_socket_is_found_by_its_path_which_stays(tmp_path: Path, pass_sockets: Pass) -> None:
    path = tmp_path / "service"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as passed:
        passed.bind(str(path))
        pass_sockets(passed, LISTEN_FDNAMES="control")
        assert workers.passed_sockets() == [("control", trio_dgram.UnixAddress(str(path)))]
        async with trio_dgram.open_nursery() as nursery:
            sock = nursery.create_socket("unix")
            await sock.bind(path)
            assert "passed" in repr(sock)
            sock.close()
        assert path.exists()


@pytest.mark.parametrize("spelling", ["::ffff:127.0.0.1", "0::1", "::1"])
async def test_another_spelling_of_the_address_finds_it(spelling: str, pass_sockets: Pass) -> None:
    with bound(UDP6, spelling, v6only=0) as passed:
        pass_sockets(passed)
        async with trio_dgram.open_socket("udp6", port=passed.getsockname()[1], host=spelling) as sock:
            assert "passed" in repr(sock)


@pytest.mark.parametrize("differing", ["port", "host", "port 0"])
async def test_bind_to_another_address_takes_none(differing: str, pass_sockets: Pass) -> None:
    with bound(UDP4) as passed:
        pass_sockets(passed)
        port = passed.getsockname()[1]
        local = {"port": (unused_port(UDP4), "127.0.0.1"), "host": (port, "127.0.0.2"), "port 0": (0, "127.0.0.1")}
        async with trio_dgram.open_socket("udp4", port=local[differing][0], host=local[differing][1]) as sock:
            assert "passed" not in repr(sock)
            # A socket of this process is like any other.
            await sock.connect(("127.0.0.1", 9))
            sock.disconnect()


async def test_a_client_socket_of_the_process_can_be_disconnected_and_still_receives(
    udp: Family, pass_sockets: Pass
) -> None:
    with bound(udp) as passed:
        pass_sockets(passed)
        async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as client:
            await client.connect((udp.loopback, 9))
            client.disconnect()
            async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as other:
                await other.send(b"hello", client.address)
                assert (await client.receive()).data == b"hello"


async def test_exclusive_takes_no_passed_socket(pass_sockets: Pass) -> None:
    with bound(UDP4) as passed:
        pass_sockets(passed)
        async with trio_dgram.open_nursery() as nursery:
            sock = nursery.create_socket("udp4")
            with pytest.raises(OSError, match=r"bind 127\.0\.0\.1") as refused:
                await sock.bind(passed.getsockname()[:2], exclusive=True)
            assert refused.value.errno == errno.EADDRINUSE
            await sock.bind(passed.getsockname()[:2])
            assert "passed" in repr(sock)
            sock.close()


@pytest.mark.parametrize("options", [{}, {"reuse_port": True}], ids=["alone", "reuse_port"])
@pytest.mark.parametrize("exclusive", [False, True])
async def test_a_taken_socket_is_in_use_until_it_is_closed(options: Any, exclusive: bool, pass_sockets: Pass) -> None:
    if exclusive and options:
        return
    with bound(UDP4, reuse_port=1) as passed:
        pass_sockets(passed)
        local = passed.getsockname()[:2]
        async with trio_dgram.open_nursery() as nursery:
            first, second = nursery.create_socket("udp4"), nursery.create_socket("udp4", **options)
            await first.bind(local)
            with pytest.raises(OSError, match=r"is passed to this process and in use by <trio_dgram.*passed>") as used:
                await second.bind(local, exclusive=exclusive)
            assert used.value.errno == errno.EADDRINUSE
            first.close()
            await second.bind(local)
            assert inode(second.fileno()) == inode(passed.fileno())
            second.close()


async def test_two_passed_sockets_of_one_address_are_taken_one_after_the_other(pass_sockets: Pass) -> None:
    with bound(UDP4, reuse_port=1) as one, bound(UDP4, port=one.getsockname()[1], reuse_port=1) as two:
        pass_sockets(one, two)
        local = one.getsockname()
        async with trio_dgram.open_socket("udp4", port=local[1], host=local[0]) as first:
            async with trio_dgram.open_socket("udp4", port=local[1], host=local[0]) as second:
                taken = [inode(first.fileno()), inode(second.fileno())]
                assert taken == [inode(one.fileno()), inode(two.fileno())]


async def test_options_of_creation_properties_and_setsockopt_apply_to_the_passed_socket(
    udp: Family, pass_sockets: Pass
) -> None:
    with bound(udp) as passed:
        pass_sockets(passed)
        async with trio_dgram.open_nursery() as nursery:
            sock = nursery.create_socket(udp.type, dscp=46, packet_info=True)
            sock.ttl = 9
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 3)
            await sock.bind(passed.getsockname()[:2])
            assert (sock.dscp, sock.ttl) == (46, 9)
            assert passed.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 3
            send_to(passed, b"hello")
            if capabilities().packet_info:  # pragma: no branch -- not on the portable path
                assert (await sock.receive()).info is not None
            sock.close()


async def test_a_refused_option_leaves_the_socket_unbound(pass_sockets: Pass) -> None:
    with bound(UDP4) as passed:
        pass_sockets(passed)
        async with trio_dgram.open_nursery() as nursery:
            sock = nursery.create_socket("udp4")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock._descriptor._socket.remember(socket.IPPROTO_IP, 9999, 1)
            with pytest.raises(OSError, match=r"bind 127\.0\.0\.1"):
                await sock.bind(passed.getsockname()[:2])
            with pytest.raises(trio_dgram.NotBoundError):
                _ = sock.address


@pytest.mark.parametrize("v6only", [False, True])
async def test_ipv6_only_must_not_contradict_the_passed_socket(v6only: bool, pass_sockets: Pass) -> None:
    with bound(UDP6, "::", v6only=v6only) as passed:
        pass_sockets(passed)
        port = passed.getsockname()[1]
        async with trio_dgram.open_nursery() as nursery:
            wrong = nursery.create_socket("udp6", ipv6_only=not v6only)
            with pytest.raises(ValueError, match=f"ipv6_only must be {v6only}, as on the socket that is passed"):
                await wrong.bind(port)
            unspecified = nursery.create_socket("udp6")
            await unspecified.bind(port)
            if v6only:
                with pytest.raises(socket.gaierror):
                    await unspecified.send(b"hello", ("127.0.0.1", 9))
            else:
                await unspecified.send(b"hello", ("127.0.0.1", port))
                assert (await unspecified.receive()).address == ("::ffff:127.0.0.1", port)
            unspecified.close()


async def test_a_passed_socket_cannot_be_connected(udp: Family, pass_sockets: Pass) -> None:
    with bound(udp) as passed:
        pass_sockets(passed)
        async with trio_dgram.open_socket(udp.type, port=passed.getsockname()[1], host=udp.loopback) as sock:
            with pytest.raises(ValueError, match="passed to this process must not be connected"):
                await sock.connect((udp.loopback, 9))


@pytest.mark.skipif("config.getoption('--portable')", reason="kernel: the portable path has no offload")
async def test_coalesced_datagrams_are_split(pass_sockets: Pass) -> None:
    with bound(UDP4) as passed, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        passed.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
        client.sendto(bytes(300), passed.getsockname())
        pass_sockets(passed)
        async with trio_dgram.open_socket("udp4", port=passed.getsockname()[1], host="127.0.0.1") as sock:
            assert [len((await sock.receive()).data) for _ in range(3)] == [100, 100, 100]


# What a former process left


async def test_a_group_that_a_former_process_joined_can_be_joined_again(pass_sockets: Pass) -> None:
    with bound(UDP4, "0.0.0.0") as passed:
        group = socket.inet_aton("239.1.2.3")
        lo = struct.pack("@i", socket.if_nametoindex("lo"))
        passed.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + bytes(4) + lo)
        pass_sockets(passed)
        async with trio_dgram.open_socket("udp4", port=passed.getsockname()[1]) as sock:
            sock.add_membership("239.1.2.3", "lo")
            assert [each.group for each in sock.memberships] == ["239.1.2.3"]
            with pytest.raises(OSError, match="add_membership") as twice:
                sock.add_membership("239.1.2.3", "lo")
            assert twice.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("named", [True, False], ids=["named port", "automatic port"])
async def test_a_connection_that_a_former_process_left_is_dissolved(named: bool, pass_sockets: Pass) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as automatic, bound(UDP4, "0.0.0.0") as with_name:
        automatic.bind(("0.0.0.0", 0))
        passed = with_name if named else automatic
        port = passed.getsockname()[1]
        passed.connect(("127.0.0.1", 9))
        pass_sockets(passed)
        assert workers.passed_sockets() == [("unknown", ("0.0.0.0", port))]
        async with trio_dgram.open_socket("udp4", port=port) as sock:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"another peer", ("127.0.0.1", port))
            assert (await sock.receive()).data == b"another peer"


async def test_an_ipv6_socket_that_stays_deaf_is_reported(
    pass_sockets: Pass, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bound(UDP6) as passed:
        passed.connect(("::1", 9))
        pass_sockets(passed)
        assert "leaves it deaf to all other IPv6 hosts" in caplog.text
        caplog.clear()
        passed.connect(("::1", 9))
        monkeypatch.setattr(SharedSocket, "disconnect", refuse)
        pass_sockets(passed)
        assert "stays connected" in caplog.text


def refuse(_: object) -> None:
    raise OSError(errno.ENOTSUP, "refused")


# Services


@pytest.mark.parametrize("families", [["udp4"], ["udp6"], ["udp4", "udp6"]], ids="+".join)
async def test_listeners_without_a_host_use_the_passed_sockets_of_the_port(
    families: list[str], pass_sockets: Pass
) -> None:
    port = unused_port(UDP6)
    socks = [bound(family, family.wildcard, port) for family in FAMILIES if family.type in families]
    try:
        pass_sockets(*socks)
        async with serving(shout, port) as listeners:
            assert [listener.address for listener in listeners] == [sock.getsockname()[:2] for sock in socks]
            for family in FAMILIES:
                if family.type in families:
                    async with trio_dgram.open_connection(family.loopback, port) as peer:
                        await assert_shouts(peer)
    finally:
        for sock in socks:
            sock.close()


async def test_a_passed_dual_stack_socket_serves_both_families(pass_sockets: Pass) -> None:
    with bound(UDP6, "::", v6only=0) as passed:
        pass_sockets(passed)
        port = passed.getsockname()[1]
        for host in (None, "::"):
            async with serving(shout, port, **({"host": host} if host else {})) as listeners:
                assert [listener.address for listener in listeners] == [("::", port)]
                for client in ("127.0.0.1", "::1"):
                    async with trio_dgram.open_connection(client, port) as peer:
                        await assert_shouts(peer)


async def test_listeners_with_a_contradicting_option_leave_every_passed_socket_untaken(pass_sockets: Pass) -> None:
    port = unused_port(UDP6)
    with bound(UDP4, "0.0.0.0", port) as four, bound(UDP6, "::", port, v6only=1) as six:
        pass_sockets(four, six)
        with pytest.raises(ValueError, match="ipv6_only must be True"):
            await trio_dgram.open_listeners(port, ipv6_only=False)
        for listener in await trio_dgram.open_listeners(port):
            listener.close()


async def test_listeners_on_another_port_bind_as_usual(pass_sockets: Pass) -> None:
    with bound(UDP4) as passed:
        pass_sockets(passed)
        for listener in await trio_dgram.open_listeners(0):
            assert listener.address.port != passed.getsockname()[1]
            listener.close()


# Which processes and which sockets


def test_a_simulated_host_takes_none(pass_sockets: Pass) -> None:
    with bound(UDP4, "0.0.0.0") as passed:
        pass_sockets(passed)
        port = passed.getsockname()[1]

        async def main() -> None:
            async with sim.open_network(seed=1):
                async with trio_dgram.open_socket("udp4", port=port) as sock:
                    assert "passed" not in repr(sock)
                assert len(await trio_dgram.open_listeners(port)) == 2

        trio.run(main)


async def test_a_socket_of_a_custom_factory_takes_none(pass_sockets: Pass) -> None:
    with bound(UDP4) as passed:
        pass_sockets(passed)
        with sockets_from(lambda *arguments: trio.socket.from_stdlib_socket(socket.socket(*arguments))):
            async with trio_dgram.open_nursery() as nursery:
                sock = nursery.create_socket("udp4")
                with pytest.raises(OSError, match="in use") as refused:
                    await sock.bind(passed.getsockname()[:2])
                assert refused.value.errno == errno.EADDRINUSE


async def test_another_process_than_the_one_that_was_passed_them_takes_none(
    pass_sockets: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bound(UDP4) as passed:
        pass_sockets(passed, TRIO_DGRAM_WORKER="2")
        assert workers.index() == 2
        port = passed.getsockname()[1]
        async with trio_dgram.open_nursery() as nursery:
            before = nursery.create_socket("udp4")
            monkeypatch.setattr(passed_sockets.registry, "_process", -1)
            monkeypatch.setattr("trio_dgram._services.worker_process.process._process", -1)
            assert (workers.passed_sockets(), workers.index()) == ([], None)
            for sock in (before, nursery.create_socket("udp4")):
                with pytest.raises(OSError, match=r"bind 127\.0\.0\.1"):
                    await sock.bind(port, "127.0.0.1")


async def test_a_descriptor_that_the_program_has_closed_or_adopted_is_not_taken(pass_sockets: Pass) -> None:
    with bound(UDP4) as passed, bound(UDP4) as other:
        pass_sockets(passed)
        local = passed.getsockname()[:2]
        async with trio_dgram.open_nursery() as nursery:
            for change in (os.close, partial(os.dup2, other.fileno())):
                change(FIRST)
                with pytest.raises(OSError, match="bind"):
                    await nursery.create_socket("udp4").bind(local)


def test_sockets_that_are_no_bound_datagram_sockets_stay_untouched(pass_sockets: Pass) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as stream,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unbound,
        Path(os.devnull).open("rb") as file,
        bound(UDP4) as passed,
    ):
        pass_sockets(stream, unbound, file, passed, LISTEN_FDNAMES="a:b:c:d")
        assert workers.passed_sockets() == [("d", passed.getsockname())]
        assert stat.S_ISSOCK(os.fstat(FIRST).st_mode)
        assert not any(map(os.get_inheritable, range(FIRST, FIRST + 4)))


def test_fewer_open_descriptors_than_announced_are_an_error_of_the_list_alone(pass_sockets: Pass) -> None:
    with bound(UDP4) as one, bound(UDP4) as two:
        assert pass_sockets(one, two, LISTEN_FDS="5")
        with pytest.raises(OSError, match="LISTEN_FDS announces 5 descriptors, but only 2 are open") as missing:
            workers.passed_sockets()
        assert missing.value.errno == errno.EBADF
        assert len(passed_sockets.registry.untaken()) == 2


@pytest.mark.parametrize("count", ["-1", "1025", "many", "", "1_0", " 1", "9" * 5000])
def test_an_invalid_count_is_ignored_with_one_warning(
    count: str, pass_sockets: Pass, caplog: pytest.LogCaptureFixture
) -> None:
    with bound(UDP4) as passed:
        assert not pass_sockets(passed, LISTEN_FDS=count)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "LISTEN_FDS must be a number from 0 to 1024" in caplog.text


@pytest.mark.parametrize("pid", ["1", "", "x", str(os.getppid())])
def test_variables_for_another_process_mean_no_sockets(pid: str, pass_sockets: Pass) -> None:
    with bound(UDP4) as passed:
        assert not pass_sockets(passed, LISTEN_PID=pid)
        assert workers.passed_sockets() == []


def test_a_number_of_a_pidfd_must_be_that_of_this_process(pass_sockets: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    own = passed_sockets._own_pidfd_id()
    if own is None:
        pytest.skip("kernel: no pidfs")  # pragma: no cover -- depends on the kernel
    with bound(UDP4) as passed, select.epoll() as epoll:
        assert pass_sockets(passed, LISTEN_PIDFDID=str(own))
        monkeypatch.setattr(passed_sockets.registry, "_sockets", [])
        assert not pass_sockets(passed, LISTEN_PIDFDID=str(own + 1))
        for replaced in (lambda _: os.dup(epoll.fileno()), refuse):
            # Without pidfs the number means nothing.
            monkeypatch.setattr(os, "pidfd_open", replaced)
            assert pass_sockets(passed, LISTEN_PIDFDID=str(own + 1))
            monkeypatch.setattr(passed_sockets.registry, "_sockets", [])


@pytest.mark.parametrize("size", [0, 32])
def test_the_secret_of_a_worker_is_read_once_and_its_descriptor_closed(size: int, pass_sockets: Pass) -> None:
    reading, writing = os.pipe()
    os.write(writing, bytes(size))
    os.close(writing)
    with bound(UDP4) as passed:
        pass_sockets(passed, TRIO_DGRAM_QUIC_SECRET_FD=str(reading))
        assert process.secret == (bytes(32) if size else None)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(reading)
        pass_sockets(passed, TRIO_DGRAM_QUIC_SECRET_FD=str(reading))
        assert process.secret is None


@pytest.mark.parametrize("text", ["1", "3", "x", "-1", "9" * 5000, "999999999"])
def test_variables_that_name_no_worker_and_no_secret_are_ignored(text: str, pass_sockets: Pass) -> None:
    with bound(UDP4) as passed:
        assert pass_sockets(passed, TRIO_DGRAM_QUIC_SECRET_FD=text, TRIO_DGRAM_WORKER="9" * 5000)
        assert (process.secret, workers.index()) == (None, None)
        for descriptor in (1, FIRST):
            os.fstat(descriptor)


# Readiness


async def test_readiness_is_reported_once_every_passed_socket_was_taken(pass_sockets: Pass, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, bound(UDP4) as one, bound(UDP4) as two:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0)
        pass_sockets(one, two, NOTIFY_SOCKET=str(tmp_path / "notify"))
        ports = [one.getsockname()[1], two.getsockname()[1]]
        async with trio_dgram.open_socket("udp4", port=ports[0], host="127.0.0.1"):
            assert manager.recv(1000) == f"STATUS=not bound yet: 127.0.0.1:{ports[1]}".encode()
            async with trio_dgram.open_socket("udp4", port=ports[1], host="127.0.0.1"):
                assert manager.recv(1000) == b"READY=1"
            async with trio_dgram.open_socket("udp4", port=ports[1], host="127.0.0.1"):
                pass
            with pytest.raises(BlockingIOError):
                manager.recv(1000)


async def test_readiness_without_a_receiver_is_no_error(pass_sockets: Pass) -> None:
    with bound(UDP4) as passed:
        pass_sockets(passed, NOTIFY_SOCKET="@no-receiver")
        async with trio_dgram.open_socket("udp4", port=passed.getsockname()[1], host="127.0.0.1") as sock:
            assert "passed" in repr(sock)


# Real programs


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("dual_stack", [False, True], ids=["ListenDatagram=HOST:PORT", "ListenDatagram=PORT"])
def test_systemd_starts_the_echo_example_unchanged(dual_stack: bool) -> None:
    port = unused_port(UDP6)
    activate = [find_program("systemd-socket-activate"), "-d", "-l", f"{'' if dual_stack else '127.0.0.1:'}{port}"]
    echo = [sys.executable, str(EXAMPLES / "echo.py"), "--port", str(port)]
    echo += ["--type", "udp6"] if dual_stack else ["--host", "127.0.0.1"]
    with program(*activate, "--fdname=udp", "--setenv=PYTHONPATH", *echo) as server:
        assert b"Listening on" in server.read_line()
        clients = [socket.socket(family.family, socket.SOCK_DGRAM) for family in FAMILIES]
        for client, family in list(zip(clients, FAMILIES, strict=True))[: 1 + dual_stack]:
            client.settimeout(20)
            client.sendto(b"hello", (family.loopback, port))
            assert client.recv(100) == b"hello"
        for client in clients:
            client.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", port))


FORKING: Final = """
import os, sys, trio, trio_dgram
from trio_dgram import workers

async def bind():
    async with trio_dgram.open_socket("udp4", port=int(sys.argv[1]), host="127.0.0.1") as sock:
        print("passed" in repr(sock), flush=True)

print(len(workers.passed_sockets()), "LISTEN_FDS" in os.environ, flush=True)
if os.fork() == 0:
    try:
        trio.run(bind)
    except OSError as error:
        print(error.errno, flush=True)
    os._exit(0)
os.wait()
trio.run(bind)
"""


@pytest.mark.usefixtures("importable")
def test_a_forked_child_takes_none_and_its_parent_does() -> None:
    with bound(UDP4) as passed:
        shim = 'exec 3<&0; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
        command = ["/bin/sh", "-c", shim, "sh", sys.executable, "-c", FORKING, str(passed.getsockname()[1])]
        output = run_with_stdin(passed, command)
    assert output.split() == ["1", "False", str(errno.EADDRINUSE), "True"]


def run_with_stdin(sock: socket.socket, command: list[str]) -> str:
    done = subprocess.run(command, stdin=sock.fileno(), capture_output=True, text=True, check=False, timeout=60)
    assert not done.returncode, done.stderr
    return done.stdout
