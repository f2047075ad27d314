"""AF_UNIX sockets: the behaviour that they share with UDP sockets, and paths, credentials and full receivers."""

from __future__ import annotations

import copy
import errno
import math
import os
import pickle
import socket
import struct
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_dgram
from trio_dgram import (
    Address,
    AlreadyBoundError,
    AlreadyConnectedError,
    Closed,
    Connected,
    Credentials,
    Datagram,
    DatagramSocket,
    Failure,
    Listening,
    NotBoundError,
    PacketInfo,
    SendManyError,
    UnixAddress,
)
from trio_dgram._codecs.ancillary import decode_packet_info
from trio_dgram._codecs.families import SocketType
from trio_dgram._kernel import capabilities as _capabilities
from trio_dgram._kernel import unix_paths as _unix_paths

from .support.descriptors import same_descriptors
from .support.faults import faulty_kernel
from .support.tables import each_wrong, offending_rows, wrong

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="kernel: no AF_UNIX")
needs_credentials = pytest.mark.skipif(
    "config.getoption('--portable')", reason="kernel: the portable calls report no credentials"
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A path at which no file exists."""
    return str(tmp_path / "sock")


@asynccontextmanager
async def pair(path: str, **options: Any) -> AsyncGenerator[tuple[DatagramSocket, DatagramSocket]]:
    async with (
        trio_dgram.open_socket("unix", path=path, **options) as server,
        trio_dgram.open_socket("unix", path=f"{path}.client", **options) as client,
    ):
        yield server, client


def send_unnamed(to: str, data: bytes) -> None:
    """Send ``data`` from an unnamed socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(data, to)


def fill(sender: DatagramSocket, to: str | None) -> int:
    """Send until the receiver is full, and return how many datagrams were sent."""
    count = 0
    while True:
        try:
            sender.send_nowait(b"%d" % count, to)
        except trio.WouldBlock:
            return count
        count += 1


# Addresses


def test_an_address_is_a_value() -> None:
    address = UnixAddress("/run/log")
    assert address == UnixAddress(b"/run/log") == UnixAddress(Path("/run/log")) == ("/run/log", 0)
    assert address != UnixAddress("/run/other")
    assert len({address, UnixAddress(b"/run/log")}) == 1
    assert (address.path, address.host, address.port) == ("/run/log", "/run/log", 0)
    assert address.family == socket.AF_UNIX
    assert repr(address) == "UnixAddress('/run/log')"
    assert repr(UnixAddress(b"\0log")) == r"UnixAddress('\x00log')"


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda address: pickle.loads(pickle.dumps(address))])  # noqa: S301 -- our own
@pytest.mark.parametrize("name", ["/run/log", b"\0log\xff", ""])
def test_copying_and_pickling_keep_an_address_and_its_type(make: Callable[[Any], Any], name: str | bytes) -> None:
    address = UnixAddress(name)
    for original in (address, Datagram(b"", address).reply(b"").address):
        assert make(original) == original
        assert type(make(original)) is type(original)


def test_an_address_matches_class_patterns() -> None:
    def of(address: Address) -> str:
        match address:
            case UnixAddress(path="/run/log"):
                return "log"
            case UnixAddress(path):
                return path
            case _:
                return f"{address.host}:{address.port}"

    assert of(UnixAddress("/run/log")) == "log"
    assert of(UnixAddress("/run/other")) == "/run/other"
    assert of(Address("127.0.0.1", 53)) == "127.0.0.1:53"


async def test_an_address_must_be_a_path() -> None:
    rows = each_wrong(
        TypeError, r"path must be a path \(str, bytes or os.PathLike\)", (None, 5, ("/run/log", 0), ["/run/log"])
    )
    assert await offending_rows(UnixAddress, rows) == []


# Binding


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
async def test_bind_accepts_every_kind_of_path(path: str, kind: Callable[[str], Any]) -> None:
    async with trio_dgram.open_socket("unix") as sock:
        assert await sock.bind(kind(path)) == UnixAddress(path)
        assert type(sock.address) is UnixAddress
        assert repr(sock) == f"<trio_dgram.DatagramSocket unix, bound to {path}>"
        assert Path(path).is_socket()
        send_unnamed(path, b"x")
        assert await sock.receive() == (b"x", UnixAddress(""), None)
    assert not Path(path).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="kernel: abstract names exist on Linux only")
@pytest.mark.parametrize("name", ["\0trio_dgram test", b"\0trio_dgram\0\xff"])
async def test_bind_accepts_abstract_names(name: str | bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with trio_dgram.open_socket("unix", path=name) as sock:
        assert sock.address == UnixAddress(name)
        assert "bound to @trio_dgram" in repr(sock)
        await sock.send(b"x", name)
        assert await sock.receive() == (b"x", UnixAddress(name), None)
        async with trio_dgram.open_socket("unix") as other:
            with pytest.raises(OSError, match=r"bind @trio_dgram.*in use \(another socket has that name\)"):
                await other.bind(name)
    assert not list(tmp_path.iterdir())


async def test_a_path_that_is_not_utf_8_is_kept_unchanged(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path / "sock") + b"\xff"
    async with trio_dgram.open_socket("unix", path=name) as sock:
        await sock.send(b"x", sock.address)
        assert os.fsencode((await sock.receive()).address.host) == name
    assert not list(tmp_path.iterdir())


WRONG_PATHS: Final = [
    ("", "path must be a path or an abstract name, not an empty one"),
    ("/run/a\0b", "path must not contain a null character"),
    ("/" * 108, "path must be at most 107 bytes long"),
    ("\N{EURO SIGN}" * 36, "path must be at most 107 bytes long"),
    ("\0" * 109, "path must be at most 108 bytes long"),
]


async def open_unix(**options: Any) -> None:
    """Open a socket with ``options``, which must raise."""
    async with trio_dgram.open_socket("unix", **options):
        raise AssertionError


@pytest.mark.skipif(sys.platform != "linux", reason="kernel: other limits than on Linux")
async def test_a_wrong_path_raises_before_any_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with same_descriptors():
        rows = [wrong(ValueError, message, path=path) for path, message in WRONG_PATHS]
        rows += [
            wrong(ValueError, message.replace("path", "connect", 1), connect=path) for path, message in WRONG_PATHS
        ]
        assert await offending_rows(open_unix, rows) == []
    rows = [wrong(ValueError, message.replace("path", "(path|to)", 1), path) for path, message in WRONG_PATHS]
    async with trio_dgram.open_socket("unix") as sock:
        for call in (sock.bind, sock.connect, partial(sock.send, b"x")):
            assert await offending_rows(call, rows) == []
        with pytest.raises(NotBoundError):
            _ = sock.address
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="kernel: other limits than on Linux")
async def test_the_longest_path_and_the_longest_name_can_be_bound_and_sent_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x" * 107, "\0" + "x" * 107):
        async with trio_dgram.open_socket("unix", path=name) as sock:
            await sock.send(b"x", sock.address)
            assert (await sock.receive()).address == UnixAddress(name)
    assert not list(tmp_path.iterdir())


async def test_a_path_of_a_wrong_type_is_rejected() -> None:
    values = (None, True, False, 5, 5.0, ["/run/x"], ("/run/x", 0))
    async with trio_dgram.open_socket("unix") as sock:
        assert await offending_rows(sock.bind, each_wrong(TypeError, "path must be a path", values)) == []
        assert await offending_rows(sock.connect, each_wrong(TypeError, "to must be a path", values)) == []


async def test_unix_sockets_reject_hosts_and_ports_and_udp_sockets_reject_paths(path: str) -> None:
    with same_descriptors():
        for arguments in ({"path": path, "host": "localhost"}, {"host": "localhost"}, {"port": 0, "host": ""}):
            with pytest.raises(ValueError, match="bound to a path, without a host"):
                async with trio_dgram.open_socket("unix", **arguments):
                    raise AssertionError
        cases: list[tuple[SocketType, int | None]] = [("udp4", None), ("unix", 0), ("unix", 5)]
        for type, port in cases:
            with pytest.raises(ValueError, match="path is for unix sockets"):
                async with trio_dgram.open_socket(type, path=path, port=port):
                    raise AssertionError
        with pytest.raises(TypeError, match="path must be a path"):
            async with trio_dgram.open_socket("unix", port=5):
                raise AssertionError
    async with trio_dgram.open_socket("unix") as sock, trio_dgram.open_socket("udp4") as other:
        with pytest.raises(ValueError, match="bound to a path, without a host, not to host 'localhost'"):
            await sock.bind(path, "localhost")
        for address in (UnixAddress(path), Datagram(b"", UnixAddress(path)).reply(b"").address):
            with pytest.raises(ValueError, match="the port of to"):
                await other.send(b"x", address)
        with pytest.raises(ValueError, match="'udp4' or 'udp6'"):
            await trio_dgram.resolve("localhost", 53, "unix")
    assert not Path(path).exists()


async def test_binding_twice_fails(path: str) -> None:
    async with trio_dgram.open_socket("unix", path=path) as sock:
        with pytest.raises(AlreadyBoundError):
            await sock.bind(f"{path}.other")
        assert sock.address == UnixAddress(path)
    assert not Path(f"{path}.other").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="kernel: only Linux autobinds")
async def test_sending_autobinds_to_an_abstract_name_that_can_be_answered(path: str) -> None:
    async with trio_dgram.open_socket("unix", path=path) as server, trio_dgram.open_socket("unix") as client:
        with pytest.raises(NotBoundError):
            await client.receive()
        await client.send(b"question", path)
        question = await server.receive()
        assert question.address == client.address
        assert client.address.host.startswith("\0")
        await server.send(b"answer", question.address)
        assert await client.receive() == (b"answer", server.address, None)


@pytest.mark.skipif(sys.platform != "linux", reason="kernel: only Linux autobinds")
async def test_binding_without_a_path_autobinds_to_an_abstract_name() -> None:
    async with trio_dgram.open_socket("unix", port=0) as one, trio_dgram.open_socket("unix") as other:
        assert await other.bind() != one.address
        await one.send(b"x", other.address)
        assert (await other.receive()).address == one.address


# The file


async def test_closing_removes_the_file_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    async with trio_dgram.open_socket("unix", path="sock") as sock:
        monkeypatch.chdir(tmp_path / "elsewhere")
        Path("sock").touch()
        assert sock.address == UnixAddress("sock")
    assert not (tmp_path / "sock").exists()
    assert (tmp_path / "elsewhere" / "sock").exists()


async def test_cancelling_the_nursery_removes_the_file(path: str) -> None:
    async with trio_dgram.open_nursery() as nursery:
        await nursery.create_socket("unix").bind(path)
        nursery.cancel_scope.cancel()
    assert not Path(path).exists()


async def test_closing_twice_removes_only_its_own_file(path: str) -> None:
    async with trio_dgram.open_socket("unix", path=path) as sock:
        sock.close()
        assert not Path(path).exists()
        Path(path).touch()
        sock.close()
    assert Path(path).exists()


async def test_closing_keeps_a_file_that_has_replaced_its_own(path: str) -> None:
    async with trio_dgram.open_socket("unix", path=path) as one:
        # Renamed, not removed: the kernel could reuse its inode for the new file.
        Path(path).rename(f"{path}.old")
        async with trio_dgram.open_socket("unix", path=path) as other:
            await one.aclose()
            await other.send(b"x", path)
            assert (await other.receive()).data == b"x"


async def test_closing_ignores_a_missing_file(path: str) -> None:
    async with trio_dgram.open_socket("unix", path=path):
        Path(path).unlink()


def test_a_file_that_is_removed_right_after_binding_is_not_owned(path: str) -> None:
    assert _unix_paths.bound_path(path) is None


# Errors of the kernel


async def fails(call: Any, kind: type[OSError], number: int, text: str) -> OSError:
    """Check that ``call`` raises an OSError of this class, errno and text, and return it."""
    with pytest.raises(kind, match=text) as caught:
        await call
    assert caught.value.errno == number
    return caught.value


def leave_stale(path: str) -> None:
    """Leave the file of a closed socket at ``path``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)


async def test_a_failed_bind_names_the_reason(path: str) -> None:
    async with trio_dgram.open_socket("unix") as sock:
        leave_stale(path)
        error = await fails(
            sock.bind(path),
            OSError,
            errno.EADDRINUSE,
            rf"^\[Errno \d+\] bind {path}: .*no process has open any more exists there: remove it first",
        )
        assert (error.operation, error.address) == ("bind", UnixAddress(path))  # type: ignore[attr-defined]
        Path(path).unlink()
        Path(path).touch()
        await fails(sock.bind(path), OSError, errno.EADDRINUSE, r"\(a file that is not a socket exists there\)")
        Path(path).unlink()
        await fails(
            sock.bind(f"{path}/sock"), FileNotFoundError, errno.ENOENT, r"/sock: .*\(the directory does not exist\)"
        )
        async with trio_dgram.open_socket("unix", path=path):
            await fails(sock.bind(path), OSError, errno.EADDRINUSE, r"\(another socket has that name\)")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.bind(path)
            stream.listen()
            await fails(sock.bind(path), OSError, errno.EADDRINUSE, r"\(another socket has that name\)")
        Path(path).unlink()
        Path(path).touch()
        await fails(sock.bind(f"{path}/sock"), NotADirectoryError, errno.ENOTDIR, "Not a directory$")
        Path(path).unlink()
        assert await sock.bind(path) == UnixAddress(path)


@pytest.mark.parametrize("options", [{}, {"packet_info": True}], ids=str)
async def test_a_failed_connect_or_send_names_the_reason(path: str, options: Any) -> None:
    async with trio_dgram.open_socket("unix", **options) as sock:

        async def unreachable(kind: type[OSError], number: int, text: str) -> None:
            error = await fails(sock.connect(path), kind, number, rf"connect {path}: .*\({text}\)")
            assert (error.operation, error.address) == ("connect", UnixAddress(path))  # type: ignore[attr-defined]
            async with trio_dgram.open_socket("unix", **options) as other:
                await fails(other.send(b"x", path), kind, number, rf"send {path}: .*\({text}\)")
                with pytest.raises(SendManyError, match=text) as caught:
                    await other.send_many([Datagram(b"x", UnixAddress(path))])
                assert (caught.value.errno, caught.value.sent) == (number, 0)
                assert other.statistics().send_errors == 2

        await unreachable(FileNotFoundError, errno.ENOENT, "no socket has that name")
        leave_stale(path)
        await unreachable(ConnectionRefusedError, errno.ECONNREFUSED, "no process has that socket open any more")
        Path(path).unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.bind(path)
            stream.listen()
            await unreachable(OSError, errno.EPROTOTYPE, "it is not a datagram socket")
        Path(path).unlink()
        async with trio_dgram.open_socket("unix", path=path) as taken:
            await taken.connect(path)
            await unreachable(PermissionError, errno.EPERM, "that socket is connected to another one")
        # The failed connects have left it unbound.
        assert await sock.bind(path) == UnixAddress(path)


# Options

IP_OPTIONS: Final[dict[str, Any]] = {
    "broadcast": False,
    "ttl": 9,
    "dscp": 0,
    "ecn": 0,
    "multicast_ttl": 0,
    "multicast_loopback": False,
    "multicast_interface": None,
    "device": None,
    "mtu_discovery": "do",
}


async def test_an_ip_option_is_rejected_by_name() -> None:
    with same_descriptors():
        rows = [
            wrong(ValueError, f"^{name} is for udp4 and udp6 sockets, not for unix", **{name: value})
            for name, value in IP_OPTIONS.items()
        ]
        assert await offending_rows(open_unix, rows) == []
    async with trio_dgram.open_socket("unix") as sock:
        for name, value in IP_OPTIONS.items():
            for use in (partial(getattr, sock, name), partial(setattr, sock, name, value)):
                with pytest.raises(OSError, match=f"a unix socket has no {name}") as caught:
                    use()
                assert (name, caught.value.errno) == (name, errno.ENOTSUP)


async def lookup(*_: object) -> Address:
    raise AssertionError


async def test_other_ip_options_are_rejected_unless_they_have_their_default() -> None:
    options: list[tuple[str, Any, Any]] = [
        ("reuse_address", True, False),
        ("reuse_port", True, False),
        ("icmp_errors", True, False),
        ("ipv6_only", True, False),
        ("lookup", lookup, None),
        ("receive_block_list", ["10.0.0.0/8"], ()),
        ("send_block_list", ["10.0.0.0/8"], ()),
    ]
    with same_descriptors():
        rows = [wrong(ValueError, f"^{name} is for", **{name: value}) for name, value, _ in options]
        assert await offending_rows(open_unix, rows) == []
    for name, _, default in options:
        defaults: dict[str, Any] = {name: default}
        async with trio_dgram.open_socket("unix", offload=False, **defaults) as sock:
            assert sock.type == "unix"


async def test_memberships_path_mtu_and_sent_packet_info_need_an_internet_socket(path: str) -> None:
    async with trio_dgram.open_socket("unix", path=path) as sock:
        for use in (
            lambda: sock.add_membership("239.1.2.3"),
            lambda: sock.drop_membership("239.1.2.3"),
            lambda: sock.path_mtu(UnixAddress(path)),
        ):
            with pytest.raises(OSError, match="a unix socket has no") as caught:
                use()
            assert caught.value.errno == errno.ENOTSUP
        assert sock.memberships == ()
        info = PacketInfo(hop_limit=9)
        with pytest.raises(OSError, match="a unix socket cannot send a PacketInfo") as caught:
            await sock.send(Datagram(b"x", UnixAddress(path), info))
        assert caught.value.errno == errno.ENOTSUP
        assert sock.statistics().sent == 0


async def test_buffer_sizes_can_be_set_and_limit_a_datagram(path: str) -> None:
    async with trio_dgram.open_socket("unix", path=path, receive_buffer_size=9000, send_buffer_size=9000) as sock:
        assert sock.receive_buffer_size in {9000, 18000}
        sock.send_buffer_size = 12000
        assert sock.send_buffer_size in {12000, 24000}
        with pytest.raises(OSError, match=f"send {path}") as caught:
            await sock.send(bytes(30000), path)
        assert caught.value.errno == errno.EMSGSIZE
        await sock.send(b"x", path)
        assert (await sock.receive()).data == b"x"


# Sending and receiving


async def test_datagrams_in_both_directions_are_counted(path: str) -> None:
    async with pair(path) as (server, client):
        await client.send(["one ", b"question"], path)
        question = await server.receive()
        assert question == Datagram(b"one question", client.address)
        await server.send(question.reply(b"answer"))
        await server.send(b"more", question.address)
        server.send_nowait(b"and more", os.fsencode(client.address.host))
        assert [datagram.data for datagram in await client.receive_many()] == [b"answer", b"more", b"and more"]
        with pytest.raises(trio.WouldBlock):
            client.receive_nowait()
        statistics = server.statistics()
        assert (statistics.sent, statistics.received, statistics.filtered) == (3, 1, 0)
        await server.send_many([Datagram(b"%d" % number, client.address) for number in range(5)])
        received = []
        async for datagram in client:  # pragma: no branch -- a socket does not end by itself
            assert datagram.address == server.address
            received.append(datagram.data)
            if len(received) == 5:
                break
        assert received == [b"0", b"1", b"2", b"3", b"4"]


async def test_an_empty_datagram_is_data(path: str) -> None:
    async with pair(path) as (server, client):
        await client.send(b"", path)
        await client.send(b"x", path)
        assert [datagram.data for datagram in await server.receive_many()] == [b"", b"x"]


async def test_a_datagram_of_200000_bytes_is_received_whole(path: str) -> None:
    async with pair(path, send_buffer_size=250_000) as (server, client):
        payload = os.urandom(200_000)
        await client.send(payload, path)
        assert (await server.receive()).data == payload
        assert server.statistics().truncated == 0


async def test_a_datagram_larger_than_the_buffer_is_truncated_and_counted(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_dgram._kernel.python_calls._LARGEST_UNIX_PAYLOAD", 100)
    async with pair(path, packet_info=True) as (server, client):
        await client.send(bytes(101), path)
        datagram = await server.receive()
        assert len(datagram.data) == 100
        assert datagram.info is not None
        assert datagram.info.truncated
        assert server.statistics().truncated == 1


async def test_a_connected_socket_has_one_peer(path: str) -> None:
    async with pair(path) as (server, client), trio_dgram.open_socket("unix", path=f"{path}.3") as third:
        await third.send(b"from before", client.address)
        await client.connect(path)
        assert client.remote_address == server.address
        assert f"bound to {path}.client, connected to {path}" in repr(client)
        with pytest.raises(AlreadyConnectedError):
            await client.connect(path)
        with pytest.raises(AlreadyConnectedError):
            await client.send(b"x", third.address)
        await client.send(b"x")
        await client.send(Datagram(b"y", server.address))
        assert [datagram.data for datagram in await server.receive_many()] == [b"x", b"y"]
        await server.send(b"answer", client.address)
        assert (await client.receive()).data == b"answer"
        assert client.statistics().filtered == 1
        client.disconnect()
        assert client.address == UnixAddress(f"{path}.client")
        await third.send(b"again", client.address)
        assert (await client.receive()).address == third.address


@pytest.mark.skipif(sys.platform != "linux", reason="kernel: only Linux autobinds")
async def test_connecting_autobinds_and_disconnecting_keeps_the_name(path: str) -> None:
    async with trio_dgram.open_socket("unix", path=path) as server:
        async with trio_dgram.open_socket("unix", connect=path) as client:
            name = client.address
            await client.send(b"x")
            assert (await server.receive()).address == name
            client.disconnect()
            await server.send(b"y", name)
            assert await client.receive() == (b"y", server.address, None)


async def test_disconnecting_keeps_queued_datagrams(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel queues fewer than one batch here.
    monkeypatch.setattr("trio_dgram._socket.inbox._EMPTYING_BATCH", 2)
    async with pair(path) as (server, client):
        client._inbox._slice = math.inf
        await client.connect(path)
        await server.send_many([Datagram(b"%d" % number, client.address) for number in range(3)])
        client.disconnect()
        assert [datagram.data for datagram in await client.receive_many()] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("listening", [True, False])
async def test_disconnecting_wakes_a_task_that_waits_for_queued_datagrams(path: str, listening: bool) -> None:
    async with pair(path) as (server, client), trio.open_nursery() as nursery:
        await client.connect(path)

        async def receive() -> None:
            assert (await receiver.receive()).data == b"x"

        receiver = client.events(Datagram) if listening else client
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        server.send_nowait(b"x", client.address)
        client.disconnect()


async def test_a_closed_peer_refuses_datagrams_until_the_socket_is_reconnected(path: str) -> None:
    async with trio_dgram.open_socket("unix", path=f"{path}.client") as client:
        async with trio_dgram.open_socket("unix", path=path):
            await client.connect(path)
        await fails(client.send(b"x"), ConnectionRefusedError, errno.ECONNREFUSED, rf"send {path}: .*no process has")
        async with trio_dgram.open_socket("unix", path=path) as server:
            await fails(client.send(b"x"), OSError, errno.ENOTCONN, "disconnect, and connect again")
            assert (client.statistics().send_errors, client.statistics().receive_errors) == (2, 0)
            client.disconnect()
            await client.connect(path)
            await client.send(b"x")
            assert (await server.receive()).data == b"x"


async def test_the_error_of_a_peer_that_reconnects_elsewhere_is_raised_by_receive_and_not_by_send(path: str) -> None:
    async with trio_dgram.open_socket("unix", path=path) as sock:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
        ):
            peer.bind(f"{path}.peer")
            other.bind(f"{path}.other")
            await sock.connect(f"{path}.peer")
            peer.connect(path)
            await sock.send(b"lost")
            peer.connect(f"{path}.other")
            await fails(sock.send(b"x"), PermissionError, errno.EPERM, "connected to another one")
            with pytest.raises(ConnectionResetError):
                await sock.receive()
        statistics = sock.statistics()
        assert (statistics.sent, statistics.send_errors, statistics.receive_errors) == (1, 1, 1)


async def test_event_channels_report_bind_connect_datagram_and_close(path: str) -> None:
    async with trio_dgram.open_socket("unix") as sock, trio_dgram.open_socket("unix", path=f"{path}.peer") as peer:
        events = sock.events()
        await sock.bind(path)
        await peer.send(b"x", path)
        await sock.connect(peer.address)
        assert await events.receive() == Listening(UnixAddress(path))
        assert {await events.receive(), await events.receive()} == {
            Connected(peer.address),
            Datagram(b"x", peer.address),
        }
        sock.close()
        assert [event async for event in events] == [Closed()]


async def test_a_reply_to_a_closed_peer_is_reported_and_not_raised(path: str) -> None:
    async with trio_dgram.open_socket("unix", path=path) as server:
        events = server.events(Failure)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.bind(f"{path}.client")
            client.sendto(b"x", path)
        question = await server.receive()
        refused = [errno.ECONNREFUSED]
        await server.send(b"y", question.address)
        Path(f"{path}.client").unlink()
        refused += [errno.ENOENT, errno.ENOENT]
        await server.send(question.reply(b"y"))
        await server.send_many([question.reply(b"y")])
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.bind(f"{path}.client")
            refused.append(errno.EPROTOTYPE)
            await server.send(b"y", question.address)
            with pytest.raises(OSError, match="it is not a datagram socket"):
                await server.send(b"y", UnixAddress(f"{path}.client"))
        for number in refused:
            failure = await events.receive()
            assert (failure.operation, failure.address) == ("send", UnixAddress(f"{path}.client"))
            assert isinstance(failure.error, OSError)
            assert failure.error.errno == number
        assert server.statistics().send_errors == len(refused) + 1


async def test_a_reply_to_an_unnamed_socket_is_reported_and_loses_no_datagram(path: str) -> None:
    async with trio_dgram.open_socket("unix", path=path) as server:
        events = server.events(Failure)
        send_unnamed(path, b"x")
        send_unnamed(path, b"y")
        question = await server.receive()
        assert question == Datagram(b"x", UnixAddress(""))
        await server.send(b"answer", question.address)
        await server.send(question.reply(b"answer"))
        server.send_nowait(question.reply(b"answer"))
        for _ in range(3):
            failure = await events.receive()
            text = r"send an unnamed socket: .*\(an unnamed socket cannot be answered\)"
            with pytest.raises(OSError, match=text):
                raise failure.error
        assert (server.statistics().send_errors, server.statistics().sent) == (3, 0)
        assert (await server.receive()).data == b"y"
        for call in (server.send(b"x", UnixAddress("")), server.connect(UnixAddress(""))):
            with pytest.raises(ValueError, match="to must be a path or an abstract name, not an empty one"):
                await call
        async with trio_dgram.open_socket("unix") as other:
            with pytest.raises(ValueError, match="path must be a path or an abstract name, not an empty one"):
                await other.bind(question.address)
            await fails(other.connect(question.address), OSError, errno.EINVAL, "cannot be answered")


@pytest.mark.parametrize("options", [{}, {"packet_info": True}], ids=str)
async def test_passed_descriptors_are_not_kept(path: str, options: Any) -> None:
    async with trio_dgram.open_socket("unix", path=path, **options) as server:
        with same_descriptors():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                client.connect(path)
                for _ in range(3):
                    socket.send_fds(client, [b"x"], [0, 1, 2])
            assert [datagram.data for datagram in await server.receive_many()] == [b"x"] * 3


def test_close_descriptors_closes_those_in_control_messages() -> None:
    one, other = os.pipe()
    _unix_paths.close_descriptors([(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=ii", one, other) + b"\0\0")])
    for descriptor in (one, other):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


# Full receivers


async def test_a_send_to_a_full_receiver_waits_without_busy_looping(path: str, autojump_clock: MockClock) -> None:
    with faulty_kernel() as faults:
        async with pair(path) as (server, client), trio.open_nursery() as nursery:
            count = fill(client, path)
            before = faults.calls["sendto"]
            nursery.start_soon(client.send, b"last", path)
            await trio.sleep(10)
            assert 100 < faults.calls["sendto"] - before < 300
            assert (await server.receive()).data == b"0"
            # A send is retried 20 times a second.
            await trio.sleep(0.051)
            assert client.statistics().sent == count + 1
            received = await server.receive_many()
            assert [datagram.data for datagram in received] == [*(b"%d" % each for each in range(1, count)), b"last"]


async def test_a_waiting_send_that_is_cancelled_has_sent_nothing(path: str, autojump_clock: MockClock) -> None:
    async with pair(path) as (server, client):
        count = fill(client, path)
        for call in (client.send(b"x", path), client.send_many([Datagram(b"x", server.address)])):
            with trio.move_on_after(5) as scope:
                await call
            assert scope.cancelled_caught
        assert client.statistics().sent == count
        assert len(await server.receive_many()) == count
        with pytest.raises(trio.WouldBlock):
            server.receive_nowait()


async def test_a_waiting_send_ends_when_either_socket_is_closed(path: str, autojump_clock: MockClock) -> None:
    async with pair(path) as (server, client), trio_dgram.open_socket("unix", path=f"{path}.3") as third:
        fill(client, path)
        async with trio.open_nursery() as nursery:

            async def send(sock: DatagramSocket, error: type[Exception]) -> None:
                with pytest.raises(error):
                    await sock.send(b"x", path)

            nursery.start_soon(send, client, trio.ClosedResourceError)
            nursery.start_soon(send, third, FileNotFoundError)
            await trio.sleep(1)
            client.close()
            await trio.sleep(1)
            server.close()


async def test_a_full_receiver_does_not_delay_datagrams_to_another(path: str, autojump_clock: MockClock) -> None:
    async with pair(path) as (server, client), trio_dgram.open_socket("unix", path=f"{path}.3") as slow:
        fill(client, slow.address.host)
        count = fill(client, path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, b"never", slow.address)
            await wait_all_tasks_blocked()
            nursery.start_soon(client.send, b"soon", path)
            await wait_all_tasks_blocked()
            assert len(await server.receive_many()) == count
            with trio.fail_after(1):
                assert (await server.receive()).data == b"soon"
            nursery.cancel_scope.cancel()


async def test_a_connected_sender_waits_for_writability(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = 0
    wait_writable = trio.lowlevel.wait_writable

    async def count_waits(descriptor: int) -> None:
        nonlocal waits
        waits += 1
        await wait_writable(descriptor)

    monkeypatch.setattr(trio.lowlevel, "wait_writable", count_waits)
    async with pair(path) as (server, client), trio.open_nursery() as nursery:
        await client.connect(path)
        count = fill(client, None)
        nursery.start_soon(client.send, b"last")
        await wait_all_tasks_blocked()
        assert client.statistics().sent == count
        with pytest.raises(trio.TooSlowError), trio.fail_after(0):
            await client.send(b"x")
        received = 0
        while received <= count:
            received += len(await server.receive_many())
        assert client.statistics().sent == count + 1
        assert waits < 5


# Credentials


@needs_credentials
async def test_packet_info_reports_credentials(path: str) -> None:
    mine = Credentials(os.getpid(), os.geteuid(), os.getegid())
    async with trio_dgram.open_socket("unix", path=path, packet_info=True) as server:
        send_unnamed(path, b"x")
        datagram = await server.receive()
        assert datagram.info is not None
        assert datagram.info.credentials == mine
        assert datagram.info.timestamp_ns is not None
        assert (datagram.info.local_address, datagram.info.hop_limit, datagram.info.truncated) == (None, None, False)
        async with trio_dgram.open_socket("unix", path=f"{path}.client") as client:
            await client.send(b"question", path)
            await server.send((await server.receive()).reply(b"answer"))
            assert (await client.receive()).info is None


SEND: Final = """
import socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    sock.sendto(b"from the child", sys.argv[1])
"""


@needs_credentials
async def test_each_datagram_has_the_credentials_of_its_sender(path: str) -> None:
    async with trio_dgram.open_socket("unix", path=path, packet_info=True) as server:
        send_unnamed(path, b"from here")
        async with trio.open_nursery() as nursery:
            child = await nursery.start(trio.run_process, [sys.executable, "-c", SEND, path])
        send_unnamed(path, b"from here again")
        pids = [info.credentials.pid for _, _, info in await server.receive_many() if info and info.credentials]
        assert pids == [os.getpid(), child.pid, os.getpid()]


async def test_unknown_credentials_are_none() -> None:
    unknown = struct.pack("=iII", 0, 65534, 65534)
    assert decode_packet_info([(socket.SOL_SOCKET, 2, unknown)]).credentials is None
    other = struct.pack("=iII", 0, 0, 0)
    assert decode_packet_info([(socket.SOL_SOCKET, 2, other)]).credentials == Credentials(0, 0, 0)


async def test_packet_info_without_the_capability_is_empty(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_capabilities, "detected", _capabilities.portable())
    async with trio_dgram.open_socket("unix", path=path, packet_info=True) as server:
        send_unnamed(path, b"x")
        datagram = await server.receive()
        assert datagram.info is not None
        assert datagram.info.credentials is None
