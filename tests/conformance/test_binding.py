"""Binding: what the suites of other implementations check."""

from __future__ import annotations

import errno
import socket
from typing import Any, Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_dgram
from trio_dgram import Closed, DatagramNursery, Listening

from ..support.descriptors import same_descriptors
from ..support.families import Family
from .conftest import HeldLookup

REUSE_OPTIONS: Final = ("reuse_address", pytest.param("reuse_port", marks=pytest.mark.needs("reuse_port")))


async def test_bind_without_arguments_takes_the_wildcard_address_and_a_free_port(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        address = await sock.bind()
        assert address == sock.address == (udp.wildcard, address.port)
        assert address.port > 0


async def test_bind_to_an_empty_host_takes_the_wildcard_address(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        assert (await sock.bind(0, "")).host == udp.wildcard


async def test_a_socket_bound_to_loopback_has_that_address(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        assert (await sock.bind(0, udp.loopback)).host == udp.loopback
        assert sock.address.family == udp.family


async def test_bind_resolves_a_name() -> None:
    async with trio_dgram.open_socket("udp4") as sock:
        assert (await sock.bind(0, "localhost")).host == "127.0.0.1"


@pytest.mark.usefixtures("namespace")
async def test_bind_takes_the_requested_port(udp: Family) -> None:
    for host in (None, udp.loopback):
        async with trio_dgram.open_socket(udp.type) as sock:
            assert await sock.bind(4242, host) == sock.address == (host or udp.wildcard, 4242)


async def test_a_loopback_address_may_have_a_zone() -> None:
    async with trio_dgram.open_socket("udp6", host="::1%lo") as sock:
        assert sock.address.host == "::1"


async def test_binding_to_a_literal_of_the_other_family_fails() -> None:
    async with trio_dgram.open_socket("udp4") as four, trio_dgram.open_socket("udp6", ipv6_only=True) as six:
        for sock, host in ((four, "::1"), (six, "127.0.0.1")):
            with pytest.raises(socket.gaierror):
                await sock.bind(0, host)
            assert (await sock.bind()).port


async def test_an_impossible_host_name_does_not_resolve(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        for host in ("bad..host", "x" * 64, "\u2488com"):
            with pytest.raises(socket.gaierror, match="is not a valid name"):
                await sock.bind(0, host)
            with pytest.raises(socket.gaierror, match="is not a valid name"):
                await sock.send(b"x", (host, 9))
            with pytest.raises(socket.gaierror, match="is not a valid name"):
                await trio_dgram.open_listeners(0, host=host)
        await sock.bind(0, udp.loopback)


async def test_a_second_bind_is_refused_and_the_first_stays(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        address = sock.address
        for port in (0, address.port):
            with pytest.raises(trio_dgram.AlreadyBoundError):
                await sock.bind(port)
        assert sock.address == address
        await sock.send(b"works", address)
        assert (await sock.receive()).data == b"works"


async def test_a_second_bind_is_refused_while_the_first_waits_for_a_name(udp: Family, lookup: HeldLookup) -> None:
    async with trio_dgram.open_socket(udp.type, lookup=lookup) as sock:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sock.bind, 0, "a.name")
            await lookup.asked.wait()
            with pytest.raises(trio_dgram.AlreadyBoundError):
                await sock.bind()
            lookup.allowed.set()
        assert sock.address.host == udp.loopback


async def test_binding_to_a_foreign_address_raises_its_errno_and_address_without_a_port(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(OSError, match="bind") as caught:
            await sock.bind(0, udp.foreign)
        assert caught.value.errno == errno.EADDRNOTAVAIL
        assert caught.value.strerror == f"bind {udp.foreign}: Cannot assign requested address"
        assert caught.value.operation == "bind"  # type: ignore[attr-defined]
        assert caught.value.address == (udp.foreign, 0)  # type: ignore[attr-defined]
        # The socket stays unbound: the same call fails again, a right one succeeds.
        with pytest.raises(OSError, match="bind"):
            await sock.bind(0, udp.foreign)
        assert (await sock.bind(0, udp.loopback)).host == udp.loopback


async def test_a_requested_port_is_in_the_error(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        with pytest.raises(OSError, match="4242: Cannot assign"):
            await sock.bind(4242, udp.foreign)


@pytest.mark.usefixtures("namespace")  # Outside a namespace the port may be taken on IPv4.
async def test_ipv6_only_leaves_the_ipv4_wildcard_on_the_port_free() -> None:
    async with trio_dgram.open_socket("udp6", port=0, ipv6_only=True) as six:
        async with trio_dgram.open_socket("udp4", port=six.address.port) as four:
            assert four.address.port == six.address.port
            # Each receives over its own family.
            async with trio_dgram.open_socket("udp6") as sender:
                await sender.send(b"on IPv4", ("127.0.0.1", six.address.port))
                await sender.send(b"on IPv6", ("::1", six.address.port))
            assert [datagram.data for datagram in await four.receive_many()] == [b"on IPv4"]
            assert [datagram.data for datagram in await six.receive_many()] == [b"on IPv6"]
    async with trio_dgram.open_socket("udp6", port=0) as six, trio_dgram.open_socket("udp4") as four:
        with pytest.raises(OSError, match="bind") as caught:
            await four.bind(six.address.port)
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.usefixtures("namespace")
async def test_an_ipv6_only_socket_receives_nothing_over_ipv4() -> None:
    async with (
        trio_dgram.open_socket("udp6", port=4242, ipv6_only=True) as six,
        trio_dgram.open_socket("udp6") as sender,
    ):
        await sender.send(b"on IPv4", ("127.0.0.1", 4242))
        await sender.send(b"on IPv6", ("::1", 4242))
        assert [datagram.data for datagram in await six.receive_many()] == [b"on IPv6"]


@pytest.mark.parametrize("option", REUSE_OPTIONS)
async def test_two_sockets_with_a_reuse_option_bind_to_one_port(udp: Family, option: str) -> None:
    reuse: dict[str, Any] = {option: True}
    async with trio_dgram.open_socket(udp.type, host=udp.loopback, **reuse) as one:
        async with trio_dgram.open_socket(udp.type, **reuse) as two:
            assert await two.bind(one.address.port, udp.loopback) == one.address


@pytest.mark.kernel_transport("reading ahead")
@pytest.mark.needs("reuse_port")
async def test_reuse_port_balances_senders_over_the_sockets(udp: Family, nursery: DatagramNursery) -> None:
    receivers = [nursery.create_socket(udp.type, reuse_address=True, reuse_port=True) for _ in range(2)]
    address = await receivers[0].bind(0, udp.loopback)
    await receivers[1].bind(address.port, udp.loopback)
    senders = [nursery.create_socket(udp.type) for _ in range(64)]
    for sender in senders:
        await sender.send(b"hello", address)
    shares = [{datagram.address.port for datagram in await receiver.receive_many()} for receiver in receivers]
    assert all(shares)
    assert sorted(port for share in shares for port in share) == sorted(sender.address.port for sender in senders)


async def test_two_sockets_without_a_reuse_option_cannot_share_a_port(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as one,
        trio_dgram.open_socket(udp.type) as two,
    ):
        for _ in range(20):
            with pytest.raises(OSError, match="Address already in use") as caught:
                await two.bind(one.address.port, udp.loopback)
            assert caught.value.errno == errno.EADDRINUSE
        assert await two.bind(0, udp.loopback) != one.address


async def test_reuse_port_where_the_system_has_none_fails_at_bind(udp: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    async with trio_dgram.open_socket(udp.type, reuse_port=True) as sock:
        with pytest.raises(OSError, match="SO_REUSEPORT") as caught:
            await sock.bind(0)
        assert caught.value.errno == errno.ENOTSUP


@pytest.mark.parametrize("option", REUSE_OPTIONS)
async def test_exclusive_conflicts_with_a_reuse_option(udp: Family, option: str) -> None:
    async with trio_dgram.open_socket(udp.type, **{option: True}) as sock:  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="exclusive"):
            await sock.bind(0, exclusive=True)
        await sock.bind(0)


async def test_an_exclusive_bind_succeeds(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        assert (await sock.bind(0, udp.loopback, exclusive=True)).port


async def test_cancelling_a_bind_that_waits_for_a_name_binds_and_announces_nothing(
    udp: Family, lookup: HeldLookup
) -> None:
    with same_descriptors():
        async with trio_dgram.open_socket(udp.type, lookup=lookup) as sock:
            events = sock.events(Listening)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sock.bind, 0, "a.name")
                await lookup.asked.wait()
                nursery.cancel_scope.cancel()
            with pytest.raises(trio_dgram.NotBoundError):
                _ = sock.address
            # Only the bind that follows sends an event.
            address = await sock.bind()
            sock.close()
        assert [event async for event in events] == [Listening(address)]


async def test_closing_while_bind_resolves_a_name_raises_closed_resource_error(udp: Family, lookup: HeldLookup) -> None:
    lookup.error = socket.gaierror(socket.EAI_NONAME, "too late")
    with same_descriptors():
        async with trio_dgram.open_socket(udp.type, lookup=lookup) as sock:
            events = sock.events()
            async with trio.open_nursery() as nursery:

                async def bind() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await sock.bind(0, "a.name")

                nursery.start_soon(bind)
                await lookup.asked.wait()
                sock.close()
                lookup.allowed.set()
        assert [event async for event in events] == [Closed()]


async def test_a_name_that_does_not_resolve_leaves_the_socket_unbound(udp: Family, lookup: HeldLookup) -> None:
    lookup.error = error = socket.gaierror(socket.EAI_NONAME, "the resolver's own")
    lookup.allowed.set()
    async with trio_dgram.open_socket(udp.type, lookup=lookup) as sock:
        for _ in range(3):
            with pytest.raises(socket.gaierror) as caught:
                await sock.bind(0, "a.name")
            assert caught.value is error
        lookup.error = None
        assert (await sock.bind(0, "a.name")).host == udp.loopback


async def test_closing_right_after_bind_ends_another_tasks_sends(udp: Family) -> None:
    async with trio_dgram.open_nursery() as nursery:
        sock, other = nursery.create_socket(udp.type), nursery.create_socket(udp.type)
        raised = []

        async def send() -> None:
            with pytest.raises(trio.ClosedResourceError):
                while True:
                    await sock.send(b"x", other.address)
            raised.append(True)

        await other.bind(0, udp.loopback)
        await sock.bind(0, udp.loopback)
        nursery.start_soon(send)
        await trio.lowlevel.checkpoint()
        sock.close()
        await wait_all_tasks_blocked()
        assert raised == [True]
        other.close()


async def test_bind_sends_a_listening_event(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as one:
        events = one.events()
        await one.bind(0, udp.loopback)
        assert await events.receive() == Listening(one.address)
