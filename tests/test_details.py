"""Details that outsiders found: descriptors of other owners, names with several addresses, rare errors."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import Datagram, Failure, UnixAddress
from trio_dgram._kernel import capabilities as _capabilities
from trio_dgram._kernel.interfaces import listing
from trio_dgram._kernel.system_socket import SystemSocket
from trio_dgram._values.addresses import unmapped
from trio_dgram._values.arguments import describe_value

from .support.families import Family


async def test_a_descriptor_closed_elsewhere_breaks_neither_its_nursery_nor_other_sockets(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        gone, other = nursery.create_socket(udp.type), nursery.create_socket(udp.type)
        for sock in (gone, other):
            await sock.bind(0, udp.loopback)
        os.close(gone.fileno())
        nursery.cancel_scope.cancel()
    assert gone.closed
    assert other.closed


async def test_closing_a_descriptor_that_was_closed_elsewhere_raises_and_closes(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        os.close(sock.fileno())
        with pytest.raises(OSError, match=r"^\[Errno 9\] close: ") as caught:
            sock.close()
        assert (caught.value.errno, vars(caught.value)["operation"]) == (errno.EBADF, "close")
        assert sock.closed


def shut_down(udp: Family) -> tuple[socket.socket, socket.socket]:
    """Return a socket, and one on the same open file description by which another owner has ended receiving."""
    ours = socket.socket(udp.family, socket.SOCK_DGRAM)
    ours.connect((udp.loopback, 9))
    theirs = ours.dup()
    theirs.shutdown(socket.SHUT_RDWR)
    return ours, theirs


async def test_receiving_from_a_socket_that_another_owner_shut_down_raises(udp: Family) -> None:
    ours, theirs = shut_down(udp)
    with theirs:
        async with trio_dgram.open_nursery() as nursery:
            sock = nursery.adopt_socket(ours)
            with trio.fail_after(5), pytest.raises(OSError, match="shutdown") as caught:
                await sock.receive()
            assert caught.value.errno == errno.ESHUTDOWN
            nursery.cancel_scope.cancel()


async def test_channels_of_a_socket_that_another_owner_shut_down_report_it_once(udp: Family) -> None:
    ours, theirs = shut_down(udp)
    with theirs:
        async with trio_dgram.open_nursery() as nursery:
            sock = nursery.adopt_socket(ours, icmp_errors=trio_dgram.capabilities().error_queue)
            channel = sock.events(Datagram, Failure)
            await wait_all_tasks_blocked(0.01)
            reported: list[int | None] = []
            with pytest.raises(trio.WouldBlock):
                while True:
                    event = channel.receive_nowait()
                    assert isinstance(event, Failure)
                    reported.append(event.error.errno)
            assert set(reported) == {errno.ESHUTDOWN}
            assert len(reported) <= 2
            nursery.cancel_scope.cancel()


class TwoAddresses(trio.abc.HostnameResolver):
    """Resolves every name to an address without a route and to loopback."""

    async def getaddrinfo(
        self, host: bytes | None, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        del type, proto, flags
        hosts = ("203.0.113.9", "127.0.0.1") if family == socket.AF_INET else ("2001:db8::9", "::1")
        in_order = hosts if host == b"name.example" else hosts[::-1]
        return [(family, socket.SOCK_DGRAM, 17, "", (each, port)) for each in in_order]

    async def getnameinfo(self, sockaddr: Sequence[Any], flags: int) -> tuple[str, str]:
        raise NotImplementedError  # pragma: no cover -- it is not asked


@pytest.mark.usefixtures("namespace")
async def test_the_addresses_of_a_name_are_tried_in_order(udp: Family) -> None:
    trio.socket.set_custom_hostname_resolver(TwoAddresses())
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as receiver,
        trio_dgram.open_socket(udp.type) as sender,
        trio_dgram.open_socket(udp.type) as client,
    ):
        to = ("name.example", receiver.address.port)
        await sender.send(b"sent", to)
        await client.connect(to)
        assert client.remote_address == receiver.address
        await client.send(b"connected")
        assert [(await receiver.receive()).data for _ in range(2)] == [b"sent", b"connected"]
        reverse = ("reverse.example", receiver.address.port)
        await sender.send(b"first", reverse)
        assert (await receiver.receive()).data == b"first"
        for name in (to, reverse):
            with pytest.raises(OSError, match="Message too long"):
                await sender.send(bytes(70_000), name)
        assert sender.statistics().sent == 2


class NoRoute(TwoAddresses):
    """Resolves every name to two addresses without a route."""

    async def getaddrinfo(
        self, host: bytes | None, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        del host, type, proto, flags
        hosts = ("203.0.113.9", "203.0.113.10") if family == socket.AF_INET else ("2001:db8::9", "2001:db8::10")
        return [(family, socket.SOCK_DGRAM, 17, "", (each, port)) for each in hosts]


@pytest.mark.usefixtures("namespace")
async def test_the_error_for_a_name_without_a_route_names_its_first_address(udp: Family) -> None:
    trio.socket.set_custom_hostname_resolver(NoRoute())
    first = re.escape("203.0.113.9:9" if udp.type == "udp4" else "[2001:db8::9]:9")
    async with trio_dgram.open_socket(udp.type) as sock:
        for call in (partial(sock.send, b"x"), sock.connect):
            with pytest.raises(OSError, match=f"{first}: ") as caught:
                await call(("name.example", 9))
            assert caught.value.errno == errno.ENETUNREACH
        assert sock.statistics().sent == 0


@pytest.mark.usefixtures("namespace")
def test_an_address_without_a_route_is_not_local() -> None:
    with SystemSocket.create(socket.AF_INET) as sock:
        assert not sock.is_local("203.0.113.9")
        assert sock.is_local("127.0.0.9")


async def test_a_forked_child_that_closes_its_copy_keeps_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio_dgram.open_socket("unix", path=tmp_path / "socket") as sock:
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: -1)
            sock.close()
        assert (tmp_path / "socket").exists()


async def test_a_unix_socket_connects_where_nothing_can_be_disconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_capabilities, "detected", attrs.evolve(_capabilities.portable(), disconnect=False))
    async with (
        trio_dgram.open_socket("unix", path=tmp_path / "peer") as peer,
        trio_dgram.open_socket("unix", connect=tmp_path / "peer") as sock,
    ):
        await sock.send(b"x")
        assert (await peer.receive()).data == b"x"


async def test_options_of_the_kernel_name_the_operation_that_failed(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(OSError, match="setsockopt: "):
            sock.setsockopt(socket.SOL_SOCKET, 9999, 1)
        with pytest.raises(OSError, match="getsockopt: "):
            sock.getsockopt(socket.SOL_SOCKET, 9999)


async def test_creating_without_descriptors_names_the_operation(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as out_of_descriptors:
        out_of_descriptors.setattr(socket, "socket", refuse)
        with pytest.raises(OSError, match=f"create_socket {udp.type}: Too many open files"):
            async with trio_dgram.open_socket(udp.type):
                raise AssertionError
    token = listing.set(refuse)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="interfaces: Too many open files"):
        trio_dgram.interfaces()
    listing.reset(token)


async def test_a_socket_is_created_in_the_thread_of_its_run_only(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        with pytest.raises(RuntimeError, match="create_socket and adopt_socket must run in the thread"):
            await trio.to_thread.run_sync(nursery.create_socket, udp.type)


@pytest.mark.usefixtures("namespace")
async def test_memberships_outlast_a_disconnect() -> None:
    async with trio_dgram.open_socket("udp6", port=0) as sock:
        sock.add_membership("ff02::1234", "lo")
        sock.add_membership("::ffff:239.1.2.3", "lo")
        await sock.connect(("::1", 9))
        sock.disconnect()
        assert [membership.group for membership in sock.memberships] == ["ff02::1234", "239.1.2.3"]
        sock.drop_membership("ff02::1234", "lo")
        sock.drop_membership("239.1.2.3", "lo")


async def test_many_datagrams_that_a_channel_queued_before_connect_are_filtered(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, receive_buffer_size=4_000_000) as sock,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as other,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as peer,
    ):
        channel = sock.events(Datagram, max_buffer_size=inf)
        for _ in range(15):
            await other.send_many(Datagram(b"old", sock.address) for _ in range(100))
            await wait_all_tasks_blocked()
        queued = channel.statistics().queued
        await sock.connect(peer.address)
        channel.close()
        # Another channel finds only filtered ones, and so does receive, which yields meanwhile.
        again = sock.events(Datagram)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        again.close()
        sock._inbox._slice = 0
        await peer.send(b"new", sock.address)
        assert (await sock.receive()).data == b"new"
        assert sock.statistics().filtered == queued


async def test_many_queued_datagrams_are_discarded_and_counted(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, receive_buffer_size=4_000_000) as sock,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as other,
    ):
        channel = sock.events(Datagram, max_buffer_size=inf)
        for _ in range(25):
            await other.send_many([Datagram(b"x", sock.address)] * 100)
            await wait_all_tasks_blocked()
        queued = channel.statistics().queued
        sock.close()
        assert channel.statistics().dropped == queued
        await wait_all_tasks_blocked()


async def test_a_part_of_a_payload_that_is_too_large_is_refused(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        for payload in (bytearray(100_000), [bytes(40_000)] * 2):
            for offset in (0, 1):
                with pytest.raises(OSError, match="Message too long"):
                    await sock.send(payload, (udp.loopback, 9), offset=offset)
        with pytest.raises(ValueError, match="at most 8192 parts, not 8193"):
            await sock.send([b""] * 8193, (udp.loopback, 9))


async def test_a_zone_beyond_every_index_is_refused() -> None:
    async with trio_dgram.open_socket("udp6") as sock:
        for zone in ("4294967297", "0", "99999999999999999999"):
            with pytest.raises(socket.gaierror, match="no interface"):
                await sock.send(b"x", (f"fe80::1%{zone}", 9))


def test_values_that_cannot_be_shown_or_read() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise ValueError

    assert describe_value(Hostile()).endswith("(Hostile)")
    assert unmapped("no:address") == "no:address"
    assert UnixAddress.parse("@name") == UnixAddress("\0name")
    assert UnixAddress.parse("/run/log") == UnixAddress("/run/log")
    with pytest.raises(TypeError, match="text must be a string"):
        UnixAddress.parse(1)  # type: ignore[arg-type]
