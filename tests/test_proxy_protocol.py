"""Sockets behind proxies: the sources of datagrams, the destinations of answers, and the counts."""

from __future__ import annotations

import copy
import logging
import pickle
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import attrs
import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import (
    Address,
    AddressBlockedError,
    AlreadyConnectedError,
    Datagram,
    DatagramSocket,
    Failure,
    ProxiedAddress,
    ProxyHeaderError,
    SendManyError,
    SocketStatistics,
    dtls,
    sim,
)
from trio_dgram._socket import proxy as _proxy

from .support.certificates import client_context, server_context
from .support.factories import run_on_awaited_sockets
from .support.families import Family
from .support.marks import needs_packet_info
from .support.proxying import LOCAL, SIGNATURE, STREAM, v1, v2

CLIENT: Final = Address("192.0.2.7", 40000)
CLIENT6: Final = Address("2001:db8::7", 40000)
OTHER: Final = Address("192.0.2.8", 40000)


@attrs.frozen
class Setup:
    """A service, and two proxies on two ports of the loopback interface."""

    service: DatagramSocket
    proxy: DatagramSocket
    other_port: DatagramSocket

    async def ask(self, data: bytes, proxy: DatagramSocket | None = None) -> Datagram:
        """Send a datagram by a proxy and return what the service receives."""
        await self.send(data, proxy)
        with trio.fail_after(5):
            return await self.service.receive()

    async def send(self, data: bytes, proxy: DatagramSocket | None = None) -> None:
        """Send a datagram by a proxy."""
        await (proxy or self.proxy).send(data, self.service.address)

    async def assert_nothing_received(self, *datagrams: bytes) -> SocketStatistics:
        """Send datagrams that must not be handed out, and return the counts of the service."""
        before = self.service.statistics().received
        for data in datagrams:
            await self.send(data)
            with pytest.raises(trio.WouldBlock):
                self.service.receive_nowait()
        assert self.service.statistics().received == before + len(datagrams)
        return self.service.statistics()


def is_from(datagram: Datagram, data: bytes, address: tuple[str, int]) -> bool:
    return tuple(datagram) == (data, address, None)


async def received(sock: DatagramSocket) -> Datagram:
    with trio.fail_after(5):
        return await sock.receive()


@asynccontextmanager
async def proxied(udp: Family, **options: Any) -> AsyncGenerator[Setup]:
    options = {"proxy_protocol": [udp.loopback], **options}
    async with AsyncExitStack() as stack:
        service, *proxies = [
            await stack.enter_async_context(trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, **each))
            for each in (options, {}, {})
        ]
        yield Setup(service, *proxies)


@asynccontextmanager
async def at(host: str) -> AsyncGenerator[DatagramSocket]:
    """Yield a proxy at another address."""
    async with trio_dgram.open_socket("udp4", port=0, host=host) as sock:
        yield sock


# Receiving


@pytest.mark.parametrize("client", [CLIENT, CLIENT6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("header", [v1, v2])
async def test_the_address_of_a_datagram_is_the_clients(udp: Family, client: Address, header: Any) -> None:
    async with proxied(udp) as setup:
        datagram = await setup.ask(header(client) + b"hello")
        assert is_from(datagram, b"hello", client)
        assert isinstance(datagram.address, ProxiedAddress)
        assert datagram.address.proxy == setup.proxy.address
        assert datagram.address.family == client.family


async def test_an_empty_payload_is_handed_out(udp: Family) -> None:
    async with proxied(udp) as setup:
        assert (await setup.ask(v2(CLIENT))).data == b""


async def test_only_one_header_is_removed(udp: Family) -> None:
    async with proxied(udp) as setup:
        assert is_from(await setup.ask(v2(CLIENT) + v2(OTHER)), v2(OTHER), CLIENT)


@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n", v2(CLIENT, command=0)], ids=["v2", "v1", "addresses"])
async def test_a_local_datagram_has_the_address_of_the_proxy(udp: Family, header: bytes) -> None:
    async with proxied(udp) as setup:
        datagram = await setup.ask(header + b"check")
        assert is_from(datagram, b"check", setup.proxy.address)
        assert not isinstance(datagram.address, ProxiedAddress)
        await setup.service.send(datagram.reply(b"up"))
        assert (await received(setup.proxy)).data == b"up"


async def test_a_header_from_an_unlisted_source_is_payload(udp: Family) -> None:
    async with proxied(udp, proxy_protocol=["203.0.113.0/24", "2001:db8::/32"]) as setup:
        for data in (v2(CLIENT) + b"x", v1(CLIENT), b"x"):
            assert is_from(await setup.ask(data), data, setup.proxy.address)


async def test_a_dual_stack_socket_matches_mapped_addresses_of_proxies() -> None:
    async with (
        trio_dgram.open_socket("udp6", port=0, proxy_protocol=["127.0.0.0/8"]) as service,
        at("127.0.0.1") as proxy,
    ):
        await proxy.send(v2(CLIENT) + b"hello", ("127.0.0.1", service.address.port))
        datagram = await received(service)
        assert is_from(datagram, b"hello", CLIENT)
        await service.send(datagram.reply(b"answer"))
        assert (await received(proxy)).data == b"answer"


async def test_a_datagram_without_a_valid_header_is_refused(udp: Family) -> None:
    async with proxied(udp) as setup:
        statistics = await setup.assert_nothing_received(b"", b"x", SIGNATURE, v2(CLIENT)[:-1], v1(CLIENT)[:-1])
        assert (statistics.received, statistics.proxy_refused, statistics.filtered) == (5, 5, 0)
        assert (await setup.ask(v2(CLIENT) + b"x")).data == b"x"


@pytest.mark.parametrize("header", [v1, v2])
async def test_clients_with_a_forbidden_source_are_filtered(udp: Family, header: Any) -> None:
    async with proxied(udp) as setup:
        clients = [("192.0.2.7", 0), ("0.0.0.0", 1), ("::", 1)]
        statistics = await setup.assert_nothing_received(*[header(client) for client in clients])
        assert (statistics.received, statistics.proxy_refused, statistics.filtered) == (3, 0, 3)


async def test_versions_and_the_transport_stream_are_accepted_according_to_the_options(udp: Family) -> None:
    stream = v2(CLIENT, transport=STREAM)
    async with proxied(udp) as setup:
        assert (await setup.assert_nothing_received(stream)).proxy_refused == 1
    async with proxied(udp, proxy_versions={2}, proxy_stream_ok=True) as setup:
        assert (await setup.assert_nothing_received(v1(CLIENT))).proxy_refused == 1
        assert (await setup.ask(stream)).address == CLIENT
    async with proxied(udp, proxy_versions=frozenset({1})) as setup:
        assert (await setup.assert_nothing_received(v2(CLIENT))).proxy_refused == 1
        assert (await setup.ask(v1(CLIENT))).address == CLIENT


async def assert_blocked(sock: DatagramSocket, address: ProxiedAddress) -> None:
    failures = sock.events(Failure)
    await sock.send(b"x", address)
    failure = failures.receive_nowait()
    assert (type(failure.error), failure.address) == (AddressBlockedError, address)


async def test_block_lists_apply_to_the_client_and_to_the_proxy(udp: Family) -> None:
    async with proxied(udp, receive_block_list=["192.0.2.0/24"], send_block_list=["192.0.2.0/24"]) as setup:
        statistics = await setup.assert_nothing_received(v2(CLIENT))
        assert (statistics.received, statistics.filtered) == (1, 1)
        datagram = await setup.ask(v2(CLIENT6) + b"x")
        await setup.service.send(datagram.reply(b"answer"))
        await assert_blocked(setup.service, ProxiedAddress(*CLIENT, setup.proxy.address))
    async with proxied(udp, receive_block_list=[udp.loopback], send_block_list=[udp.loopback]) as setup:
        statistics = await setup.assert_nothing_received(v2(CLIENT), b"x")
        assert (statistics.received, statistics.filtered, statistics.proxy_refused) == (2, 2, 0)
        await assert_blocked(setup.service, ProxiedAddress(*CLIENT, setup.proxy.address))


async def test_refused_datagrams_are_reported_at_most_once_a_second(
    udp: Family, mock_clock: trio.testing.MockClock
) -> None:
    async with proxied(udp) as setup:
        failures = setup.service.events(Failure)
        for seconds, count in ((0, 1), (0.9, 0), (0.2, 1)):
            mock_clock.jump(seconds)
            await setup.assert_nothing_received(b"x", b"y")
            reported = []
            while True:
                try:
                    reported.append(failures.receive_nowait())
                except trio.WouldBlock:
                    break
            assert len(reported) == count
            for failure in reported:
                assert isinstance(failure.error, ProxyHeaderError)
                assert isinstance(failure.error, ValueError)
                assert (failure.operation, failure.address) == ("receive", setup.proxy.address)
                assert f"receive {setup.proxy.address}: the datagram does not begin" in str(failure.error)


async def test_an_event_channel_takes_the_datagrams_of_clients(udp: Family) -> None:
    async with proxied(udp) as setup:
        channel = setup.service.events(Datagram)
        for number in range(3):
            await setup.send(v2(CLIENT) + bytes([number]))
        await setup.send(b"refused")
        with trio.fail_after(5):
            assert is_from(await channel.receive(), b"\0", CLIENT)
            await trio.testing.wait_all_tasks_blocked()
        channel.close()
        # Those that it has not delivered have no header any more.
        assert [(await received(setup.service)).data for _ in range(2)] == [b"\1", b"\2"]
        assert setup.service.statistics().proxy_refused == 1


async def test_every_segment_of_a_coalesced_batch_has_its_header(udp: Family) -> None:
    async with proxied(udp) as setup:
        clients = [Address("192.0.2.7", 1 + number % 3) for number in range(200)]
        # The socket receives coalesced datagrams after a first flood.
        for _ in range(3):
            await setup.proxy.send_many(
                Datagram(v2(client) + b"%03d" % number, setup.service.address) for number, client in enumerate(clients)
            )
            got: list[Datagram] = []
            with trio.fail_after(5):
                while len(got) < len(clients):
                    got += await setup.service.receive_many()
            assert [(datagram.address, int(datagram.data)) for datagram in got] == [
                (client, number) for number, client in enumerate(clients)
            ]
        coalesced = setup.service.statistics().coalesced_datagrams
        assert bool(coalesced) == trio_dgram.capabilities().receive_offload


@needs_packet_info
async def test_packet_info_has_the_header(udp: Family) -> None:
    async with proxied(udp, packet_info=True) as setup:
        datagram = await setup.ask(v2(CLIENT, ("203.0.113.1", 53), tlvs=[(224, b"x"), (225, b"")]) + b"x")
        assert datagram.info is not None
        header = datagram.info.proxy_header
        assert header is not None
        assert (header.command, header.source, header.destination) == ("proxy", CLIENT, ("203.0.113.1", 53))
        assert header.tlvs == ((224, b"x"), (225, b""))
        # The rest of the info is that of the proxy's datagram.
        assert datagram.info.local_address == udp.loopback
        await setup.service.send(datagram.reply(b"answer"))
        assert (await received(setup.proxy)).data == b"answer"
        local = await setup.ask(LOCAL)
        assert local.info is not None
        assert local.info.proxy_header is not None
        assert (local.info.proxy_header.command, local.info.proxy_header.source) == ("local", None)
        unproxied = await received_by_plain_socket(udp)
        assert unproxied.info is not None
        assert unproxied.info.proxy_header is None


async def received_by_plain_socket(udp: Family) -> Datagram:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, packet_info=True) as sock:
        other = socket.socket(udp.family, socket.SOCK_DGRAM)
        with other:
            other.sendto(b"x", (udp.loopback, sock.address.port))
        return await received(sock)


def test_proxied_datagrams_are_received_on_a_custom_socket_factory() -> None:
    async def main() -> None:
        async with (
            trio_dgram.open_socket("udp4", port=0, host="127.0.0.1", proxy_protocol=["127.0.0.1"]) as service,
            trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as proxy,
        ):
            await proxy.send(v2(CLIENT6) + b"hello", service.address)
            datagram = await received(service)
            assert is_from(datagram, b"hello", CLIENT6)
            await service.send(datagram.reply(b"answer"))
            assert (await received(proxy)).data == b"answer"

    run_on_awaited_sockets(main)


# Options


async def test_a_network_of_every_host_is_logged_as_a_warning(udp: Family, caplog: pytest.LogCaptureFixture) -> None:
    networks = ["0.0.0.0/0", "::/0", "::ffff:0:0/96", "127.0.0.1"]
    with caplog.at_level(logging.WARNING, "trio_dgram"):
        async with proxied(udp, proxy_protocol=networks) as setup:
            assert (await setup.ask(v2(CLIENT))).address == CLIENT
    assert [record.getMessage() for record in caplog.records] == [
        f"proxy_protocol has {network}: every host can forge the address of its datagrams"
        for network in ("0.0.0.0/0", "::/0", "0.0.0.0/0")
    ]


@pytest.mark.parametrize(
    "options", [{"proxy_protocol": ["127.0.0.1"]}, {"proxy_sessions": True}, {"proxy_versions": {1}}]
)
async def test_a_unix_socket_has_no_proxies(options: Any) -> None:
    async with trio_dgram.open_nursery() as nursery:
        with pytest.raises(ValueError, match="is for udp4 and udp6 sockets, not for unix sockets"):
            nursery.create_socket("unix", **options)


async def test_a_socket_with_proxies_cannot_be_connected(udp: Family) -> None:
    async with proxied(udp) as setup:
        with pytest.raises(ValueError, match="a socket with proxy_protocol cannot be connected"):
            await setup.service.connect(setup.proxy.address)
        with pytest.raises(ValueError, match="a socket with proxy_protocol cannot be connected"):
            async with trio_dgram.open_connection(*setup.proxy.address, proxy_protocol=[udp.loopback]):
                raise AssertionError  # pragma: no cover -- it is not entered
        assert (await setup.ask(v2(CLIENT))).address == CLIENT


async def test_an_adopted_socket_has_proxies_unless_it_is_connected(udp: Family) -> None:
    async with (
        trio_dgram.open_nursery() as nursery,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as proxy,
    ):
        sock = socket.socket(udp.family, socket.SOCK_DGRAM)
        sock.bind((udp.loopback, 0))
        adopted = nursery.adopt_socket(sock.detach(), proxy_protocol=[udp.loopback])
        await proxy.send(v2(CLIENT) + b"x", adopted.address)
        assert is_from(await received(adopted), b"x", CLIENT)
        adopted.close()
        with socket.socket(udp.family, socket.SOCK_DGRAM) as connected:
            connected.connect((udp.loopback, 9))
            with pytest.raises(ValueError, match="proxy_protocol is for sockets that are not connected"):
                nursery.adopt_socket(connected, proxy_protocol=[udp.loopback])


# ProxiedAddress


def test_a_proxied_address_equals_the_clients_whatever_its_proxy() -> None:
    address = ProxiedAddress(*CLIENT, Address("10.0.0.1", 1))
    other = ProxiedAddress(*CLIENT, ("10.0.0.2", 2))
    assert address == other == CLIENT == tuple(CLIENT)
    assert len({address, other, CLIENT, tuple(CLIENT)}) == 1
    assert other.proxy == Address("10.0.0.2", 2)
    assert isinstance(other.proxy, Address)


async def test_a_proxied_address_keeps_its_proxy_when_it_is_copied(udp: Family) -> None:
    async with proxied(udp) as setup:
        address = (await setup.ask(v2(CLIENT))).address
        for copied in (copy.copy(address), copy.deepcopy(address), pickle.loads(pickle.dumps(address))):  # noqa: S301 -- ours
            assert copied == address
            assert type(copied) is ProxiedAddress
            assert copied.proxy == setup.proxy.address
            await setup.service.send(b"x", copied)
            assert (await received(setup.proxy)).data == b"x"


def test_values_derived_from_a_proxied_address_are_plain() -> None:
    address = ProxiedAddress(*CLIENT, ("10.0.0.1", 1))
    assert type(address._replace(port=1)) is Address
    assert type(Address(*address)) is Address
    assert type(tuple(address)) is tuple
    assert (str(address), repr(address)) == (str(CLIENT), repr(CLIENT))
    with pytest.raises(AttributeError):
        address.proxy = CLIENT  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("name", 1, ("10.0.0.1", 1)), ValueError, "the client must have a numeric host"),
        (("192.0.2.7", 1, ("name", 1)), ValueError, "proxy must have a numeric host"),
        (("192.0.2.7", 70000, ("10.0.0.1", 1)), ValueError, "the port of the client"),
        (("192.0.2.7", 1, ("10.0.0.1", 0)), ValueError, "the port of proxy"),
        (("192.0.2.7", 1, "10.0.0.1"), TypeError, "proxy must be a .host, port. tuple"),
    ],
)
def test_a_proxied_address_is_checked(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ProxiedAddress(*arguments)


# Sending


async def test_answers_go_to_the_proxy_without_a_header(udp: Family) -> None:
    async with proxied(udp) as setup:
        datagram = await setup.ask(v2(CLIENT6) + b"hello")
        await setup.service.send(datagram.reply(b"reply"))
        await setup.service.send(b"send", datagram.address)
        await setup.service.send([b"parts"], datagram.address)
        setup.service.send_nowait(b"nowait", datagram.address)
        await setup.service.send_many([datagram.reply(b"many")] * 3)
        expected = [b"reply", b"send", b"parts", b"nowait", b"many", b"many", b"many"]
        assert [(await received(setup.proxy)).data for _ in expected] == expected
        assert setup.service.statistics().sent == len(expected)


async def test_an_address_in_a_set_reaches_its_client_after_the_port_of_the_proxy_changed(udp: Family) -> None:
    async with proxied(udp) as setup:
        members = set()
        for proxy in (setup.proxy, setup.other_port):
            members.add((await setup.ask(v2(CLIENT) + b"x", proxy)).address)
        (member,) = members
        for _ in range(2):
            await setup.service.send(b"x", member)
            assert (await received(setup.other_port)).data == b"x"
        with pytest.raises(trio.WouldBlock):
            setup.proxy.receive_nowait()


async def test_nothing_is_sent_to_another_proxy() -> None:
    async with (
        trio_dgram.open_socket("udp4", port=0, host="127.0.0.1", proxy_protocol=["127.0.0.0/8"]) as service,
        at("127.0.0.2") as first,
        at("127.0.0.3") as second,
    ):
        addresses = []
        for proxy in (first, second):
            await proxy.send(v2(CLIENT) + b"x", service.address)
            addresses.append((await received(service)).address)
        assert addresses[0] == addresses[1]
        for _ in range(2):
            for address, proxy, other in zip(addresses, (first, second), (second, first), strict=True):
                await service.send(b"x", address)
                assert (await received(proxy)).data == b"x"
                with pytest.raises(trio.WouldBlock):
                    other.receive_nowait()
        await service.send_many([Datagram(bytes([number]), address) for address in addresses for number in range(2)])
        for proxy in (first, second):
            assert [(await received(proxy)).data for _ in range(2)] == [b"\0", b"\1"]


async def test_a_plain_address_is_sent_to_directly(udp: Family) -> None:
    async with (
        proxied(udp) as setup,
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as direct,
    ):
        client = (await setup.ask(v2(direct.address) + b"x")).address
        assert client == direct.address
        for plain in (Address(*client), (client.host, client.port), direct.address):
            await setup.service.send(b"direct", plain)
            assert (await received(direct)).data == b"direct"


async def test_the_path_mtu_to_a_client_is_that_to_its_proxy(udp: Family) -> None:
    async with proxied(udp) as setup:
        for client in (CLIENT, CLIENT6):
            datagram = await setup.ask(v2(client))
            assert setup.service.path_mtu(datagram.address) == setup.service.path_mtu(setup.proxy.address)


async def test_a_client_that_is_not_stored_is_reached_by_the_proxy_in_its_address(
    udp: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_proxy, "_MOST_CLIENTS", 2)
    async with proxied(udp) as setup:
        addresses = [(await setup.ask(v2(("192.0.2.7", port)) + b"x")).address for port in (1, 2)]
        # The first client sends again by another port, so the second is the least recent.
        await setup.ask(v2(("192.0.2.7", 1)), setup.other_port)
        await setup.ask(v2(("192.0.2.7", 3)), setup.other_port)
        await setup.service.send(b"1", addresses[0])
        assert (await received(setup.other_port)).data == b"1"
        await setup.service.send(b"2", addresses[1])
        assert (await received(setup.proxy)).data == b"2"
        # Any socket can send to it.
        await setup.other_port.send(b"3", addresses[1])
        assert is_from(await received(setup.proxy), b"3", setup.other_port.address)


async def test_an_unbound_socket_sends_to_a_proxied_address(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as proxy,
        trio_dgram.open_socket(udp.type) as sender,
    ):
        await sender.send(b"x", ProxiedAddress(*CLIENT, proxy.address))
        assert (await received(proxy)).data == b"x"


async def test_a_connected_socket_refuses_a_client_that_equals_its_peer(udp: Family) -> None:
    async with proxied(udp) as setup:
        await setup.other_port.connect(setup.proxy.address)
        for client, proxy in ((setup.proxy.address, setup.service), (CLIENT, setup.proxy)):
            address = ProxiedAddress(*client, proxy.address)
            if proxy is setup.service:
                with pytest.raises(AlreadyConnectedError):
                    await setup.other_port.send(Datagram(b"x", address))
            else:
                await setup.other_port.send(Datagram(b"x", address))
                assert (await received(setup.proxy)).data == b"x"


async def test_an_error_that_the_address_of_a_client_causes_is_reported_and_not_raised() -> None:
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as sock:
        failures = sock.events(Failure)
        await sock.send(b"x", ProxiedAddress(*CLIENT, ("192.0.2.9", 5)))
        failure = failures.receive_nowait()
        assert failure.address == CLIENT
        with pytest.raises(SendManyError):
            await sock.send_many([Datagram(bytes(70000), ProxiedAddress(*CLIENT, ("127.0.0.1", 5)))])


@needs_packet_info
async def test_answers_of_a_socket_on_all_interfaces_leave_from_the_address_that_the_proxy_asked() -> None:
    async with (
        trio_dgram.open_socket("udp4", port=0, packet_info=True, proxy_protocol=["127.0.0.0/8"]) as service,
        at("127.0.0.1") as proxy,
    ):
        for client in (CLIENT, CLIENT6):
            await proxy.send(v2(client) + b"x", ("127.0.0.2", service.address.port))
            await service.send((await received(service)).reply(b"answer"))
            assert is_from(await received(proxy), b"answer", ("127.0.0.2", service.address.port))


async def test_a_trio_socket_answers_by_the_proxy(udp: Family) -> None:
    async with proxied(udp, packet_info=udp.type == "udp4") as setup:
        sock = trio_dgram.as_trio_socket(setup.service)
        await setup.send(v2(CLIENT6) + b"hello")
        data, source = await sock.recvfrom(100)
        assert (data, source) == (b"hello", CLIENT6)
        await sock.sendto(b"answer", source)
        assert (await received(setup.proxy)).data == b"answer"


# Sessions


async def test_a_header_opens_a_session_for_the_datagrams_that_follow(udp: Family) -> None:
    async with proxied(udp, proxy_sessions=True) as setup:
        assert is_from(await setup.ask(v1(CLIENT) + b"first"), b"first", CLIENT)
        datagram = await setup.ask(b"second")
        for data in (b"", b"PROXY is no header", SIGNATURE):
            datagram = await setup.ask(data)
            assert is_from(datagram, data, CLIENT)
            assert isinstance(datagram.address, ProxiedAddress)
        await setup.service.send(datagram.reply(b"answer"))
        assert (await received(setup.proxy)).data == b"answer"
        assert is_from(await setup.ask(v2(OTHER) + b"x", setup.other_port), b"x", OTHER)
        assert (await setup.ask(b"third")).address == CLIENT


async def test_a_header_alone_opens_a_session_and_is_not_handed_out(udp: Family) -> None:
    async with proxied(udp, proxy_sessions=True) as setup:
        statistics = await setup.assert_nothing_received(v2(CLIENT), v2(CLIENT))
        assert (statistics.received, statistics.proxy_headers, statistics.proxy_refused) == (2, 2, 0)
        assert is_from(await setup.ask(b"first"), b"first", CLIENT)


async def test_a_first_datagram_without_a_header_is_refused(udp: Family) -> None:
    async with proxied(udp, proxy_sessions=True) as setup:
        statistics = await setup.assert_nothing_received(b"x", b"")
        assert (statistics.received, statistics.proxy_refused) == (2, 2)


async def test_the_header_of_a_session_may_be_repeated(udp: Family) -> None:
    async with proxied(udp, proxy_sessions=True) as setup:
        for data in (b"first", b"second"):
            assert is_from(await setup.ask(v1(CLIENT) + data), data, CLIENT)


async def test_a_client_cannot_name_another_within_its_session(udp: Family) -> None:
    async with proxied(udp, proxy_sessions=True) as setup:
        await setup.ask(v1(CLIENT) + b"first")
        for forged in (v1(OTHER), v2(OTHER), LOCAL):
            await setup.assert_nothing_received(forged + b"forged", b"unknown whose")
            await setup.ask(v1(CLIENT) + b"again")
        statistics = setup.service.statistics()
        assert (statistics.received, statistics.proxy_refused) == (10, 6)


async def test_a_session_ends_after_a_minute_without_a_datagram(
    udp: Family, mock_clock: trio.testing.MockClock
) -> None:
    async with proxied(udp, proxy_sessions=True) as setup:
        await setup.ask(v1(CLIENT) + b"first")
        for _ in range(2):
            mock_clock.jump(59.9)
            assert (await setup.ask(b"x")).address == CLIENT
        mock_clock.jump(60)
        assert (await setup.assert_nothing_received(b"x")).proxy_refused == 1
        assert is_from(await setup.ask(v1(OTHER) + b"x"), b"x", OTHER)


async def test_the_number_of_sessions_is_bounded(
    udp: Family, monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(_proxy, "_MOST_SESSIONS", 1)
    async with proxied(udp, proxy_sessions=True) as setup:
        await setup.ask(v1(CLIENT) + b"first")
        await setup.ask(v1(OTHER) + b"first", setup.other_port)
        assert (await setup.assert_nothing_received(b"evicted")).proxy_refused == 1
        assert (await setup.ask(b"x", setup.other_port)).address == OTHER
    monkeypatch.setattr(_proxy, "_MOST_SESSIONS", 100)
    async with proxied(udp, proxy_sessions=True) as setup:
        await setup.ask(v1(CLIENT) + b"first")
        mock_clock.jump(60)
        await setup.ask(v1(OTHER) + b"first", setup.other_port)
        assert len(setup.service._proxy._sessions) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("header", [v1, v2])
async def test_the_cache_of_headers_is_bounded(udp: Family, header: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_proxy, "_MOST_HEADERS", 2)
    async with proxied(udp) as setup:
        for port in (1, 2, 3, 1, 1):
            datagram = await setup.ask(header(("192.0.2.7", port)) + b"x")
            assert (datagram.data, datagram.address) == (b"x", ("192.0.2.7", port))
            assert len(setup.service._proxy._headers) <= 2  # type: ignore[union-attr]


# Services


async def shout(peer: trio.abc.Channel[bytes]) -> None:
    async for data in peer:
        await peer.send(data.upper())


@asynccontextmanager
async def serving(**options: Any) -> AsyncGenerator[trio_dgram.DatagramListener]:
    options = {"host": "127.0.0.1", "proxy_protocol": ["127.0.0.2", "127.0.0.3"], **options}
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(
            lambda task_status: trio_dgram.serve(shout, 0, task_status=task_status, **options)
        )
        yield listener
        nursery.cancel_scope.cancel()


async def assert_shouted(proxy: DatagramSocket, data: bytes, to: tuple[str, int]) -> None:
    await proxy.send(data, to)
    assert (await received(proxy)).data == b"HELLO"


@pytest.mark.parametrize("host", ["127.0.0.1", None], ids=["one address", "all interfaces"])
async def test_a_peer_is_a_client_by_the_host_of_a_proxy(host: str | None) -> None:
    async with (
        serving(host=host, **({"ipv6_only": False} if host is None else {})) as listener,
        at("127.0.0.2") as first,
        at("127.0.0.2") as other_port,
        at("127.0.0.3") as second,
    ):
        to = ("127.0.0.1", listener.address.port)
        for proxy, peers in ((first, 1), (other_port, 1), (first, 1), (second, 2), (first, 2)):
            await assert_shouted(proxy, v2(CLIENT) + b"hello", to)
            assert listener.statistics().peers == peers
        await assert_shouted(first, v2(OTHER) + b"hello", to)
        assert listener.statistics().peers == 3
        await assert_shouted(first, LOCAL + b"hello", to)
        assert listener.statistics().peers == 4


async def test_a_direct_source_equal_to_a_client_is_a_peer_of_its_own() -> None:
    async with serving() as listener, at("127.0.0.2") as proxy, at("127.0.0.1") as direct:
        await assert_shouted(proxy, v2(direct.address) + b"hello", listener.address)
        await assert_shouted(direct, b"hello", listener.address)
        await assert_shouted(proxy, v2(direct.address) + b"hello", listener.address)
        assert listener.statistics().peers == 2


async def test_a_peer_behind_a_proxy_ends_as_any_other(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(idle_timeout=5) as listener, at("127.0.0.2") as proxy:
        await assert_shouted(proxy, v2(CLIENT) + b"hello", listener.address)
        await trio.sleep(6)
        statistics = listener.statistics()
        assert (statistics.peers, statistics.expired) == (0, 1)


async def test_limits_and_filters_of_peers_apply_to_the_client() -> None:
    seen = []

    def accept(datagram: Datagram) -> bool:
        seen.append(datagram.address)
        return datagram.address.port != 2

    async with serving(accept_filter=accept, max_peers_per_network=(1, 1)) as listener, at("127.0.0.2") as proxy:
        await assert_shouted(proxy, v2(("192.0.2.7", 1)) + b"hello", listener.address)
        await proxy.send(v2(("192.0.2.8", 1)) + b"hello", listener.address)
        await proxy.send(v2(("192.0.2.7", 2)) + b"hello", listener.address)
        await assert_shouted(proxy, v2(("198.51.100.7", 1)) + b"hello", listener.address)
        statistics = listener.statistics()
        assert (statistics.peers, statistics.refused_by_network, statistics.refused_by_filter) == (2, 1, 1)
        assert seen == [("192.0.2.7", 1), ("192.0.2.8", 1), ("192.0.2.7", 2), ("198.51.100.7", 1)]


async def test_the_amplification_limit_counts_the_payload() -> None:
    (listener,) = await trio_dgram.open_listeners(
        0, host="127.0.0.1", proxy_protocol=["127.0.0.2"], amplification_limit=3
    )
    async with listener, at("127.0.0.2") as proxy:
        await proxy.send(v2(CLIENT) + b"hello", listener.address)
        with trio.fail_after(5):
            peer = await listener.accept()
        assert peer.address == CLIENT
        await peer.send(bytes(15))
        with pytest.raises(
            trio_dgram.AmplificationLimitError, match=r"1 more bytes to 192\.0\.2\.7:40000 .* 5 received"
        ):
            await peer.send(b"x")
        peer.close()


async def test_dtls_peers_are_served_by_a_proxy() -> None:
    async with (
        trio.open_nursery() as nursery,
        trio_dgram.open_socket("udp4", port=0, host="127.0.0.2") as inside,
        trio_dgram.open_socket("udp4", port=0, host="127.0.0.3") as other_inside,
        trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as outside,
    ):
        (listener,) = await nursery.start(
            lambda task_status: dtls.serve(
                shout, 0, server_context(), host="127.0.0.1", proxy_protocol=["127.0.0.0/8"], task_status=task_status
            )
        )
        clients: list[Address] = []

        async def forward() -> None:
            async for datagram in outside:
                clients[:] = [datagram.address]
                await inside.send(v2(CLIENT) + datagram.data, listener.address)

        async def return_answers() -> None:
            async for datagram in inside:
                await outside.send(datagram.data, clients[0])

        nursery.start_soon(forward)
        nursery.start_soon(return_answers)
        with trio.fail_after(10):
            async with dtls.open_connection(
                *outside.address, client_context(), server_hostname="server.example"
            ) as peer:
                await peer.send(b"hello")
                assert await peer.receive() == b"HELLO"
                # What another proxy sends with the client's address is no datagram of this peer.
                await other_inside.send(v2(CLIENT) + bytes(100), listener.address)
                await peer.send(b"again")
                assert await peer.receive() == b"AGAIN"
                with pytest.raises(trio.WouldBlock):
                    other_inside.receive_nowait()
        nursery.cancel_scope.cancel()


# The simulated network


async def proxy_on_a_host(clients: dict[str, Address]) -> None:
    """Forward what clients send to port 53 of this host to "service"."""
    async with trio_dgram.open_socket("udp4", port=53) as outside, trio_dgram.open_socket("udp4", port=0) as inside:

        async def forward() -> None:
            async for datagram in outside:
                clients[str(datagram.address)] = datagram.address
                await inside.send(v2(datagram.address) + datagram.data, ("service", 53))

        async def return_answers() -> None:
            async for datagram in inside:
                name, _, data = datagram.data.partition(b" ")
                await outside.send(data, clients[name.decode()])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(forward)
            nursery.start_soon(return_answers)


async def test_simulated_hosts_are_proxies(autojump_clock: trio.testing.MockClock) -> None:
    async with sim.open_network(seed=1) as network:
        service, proxy, client = network.host("service"), network.host("proxy"), network.host("client")

        async def answer() -> None:
            async with trio_dgram.open_socket("udp4", port=53, proxy_protocol=["10.0.0.0/8"]) as sock:
                async for datagram in sock:
                    await sock.send(datagram.reply(f"{datagram.address} ".encode() + datagram.data.upper()))

        async def ask() -> bytes:
            async with trio_dgram.open_connection("proxy", 53) as peer:
                await peer.send(b"hello")
                return await peer.receive()

        service.start_soon(answer)
        proxy.start_soon(proxy_on_a_host, {})
        await trio.testing.wait_all_tasks_blocked()
        assert await client.run(ask) == b"HELLO"
