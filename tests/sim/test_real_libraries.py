"""Libraries of other authors run on the simulated network unmodified."""

from __future__ import annotations

import socket
import time
from typing import Any

import anyio
import dns.asyncresolver
import dns.message
import dns.resolver
import dns.rrset
import pytest
import trio
import trustme
from OpenSSL import SSL

import trio_dgram
from trio_dgram import sim

from ..support.families import Family

# Issued before any test, in real time and with real randomness, because it is slow.
AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert("server")
DNS_PORT = 53
DTLS_PORT = 4433


# trio.DTLSEndpoint


def server_context() -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    CERTIFICATE.configure_cert(context)
    return context


def client_context() -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    AUTHORITY.configure_trust(context)
    return context


async def dtls_echo(*, task_status: trio.TaskStatus[None]) -> None:
    async def answer(channel: trio.DTLSChannel) -> None:
        async for data in channel:
            await channel.send(data.upper())

    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.bind(("0.0.0.0", DTLS_PORT))
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.DTLSEndpoint(sock).serve, server_context(), answer)
            task_status.started()


async def dtls_client(messages: int) -> list[bytes]:
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        endpoint = trio.DTLSEndpoint(sock)
        host, port = await trio_dgram.resolve("server", DTLS_PORT, "udp4")
        channel = endpoint.connect((host, port), client_context())
        await channel.do_handshake(initial_retransmit_timeout=1.0)
        answers = []
        for number in range(messages):
            # DTLS sends data once.
            while True:
                await channel.send(b"message %d" % number)
                with trio.move_on_after(1):
                    answers.append(await channel.receive())
                    break
        return answers


@pytest.mark.filterwarnings("ignore:unclosed DTLS endpoint:ResourceWarning")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("loss", [0, 0.3])
def test_a_dtls_endpoint_works_over_a_lossy_path(loss: float, seed: int) -> None:
    async def scenario(network: sim.Network) -> list[bytes]:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, symmetric=True, delay=0.05, loss=loss)
        async with trio.open_nursery() as nursery:
            with server.active():
                await nursery.start(dtls_echo)
            answers = await client.run(dtls_client, 3)
            nursery.cancel_scope.cancel()
        return answers

    answers = sim.run(scenario, seed=seed)
    assert {b"MESSAGE 0", b"MESSAGE 1", b"MESSAGE 2"} >= set(answers)
    assert len(answers) == 3


# dnspython


async def name_server(unanswered: int) -> None:
    """Answer every query but the first few."""
    async with trio_dgram.open_socket("udp4", port=DNS_PORT) as sock:
        async for datagram in sock:
            if unanswered:
                unanswered -= 1
                continue
            query = dns.message.from_wire(datagram.data)
            response = dns.message.make_response(query)
            name = query.question[0].name
            response.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.77"))
            await sock.send(response.to_wire(), datagram.address)


async def resolve(server: str, lifetime: float) -> list[str]:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [server]
    resolver.timeout, resolver.lifetime = 2.0, lifetime
    answer = await resolver.resolve("www.example.", "A")
    return [record.address for record in answer]


def test_dnspythons_resolver_is_answered_and_retries() -> None:
    async def scenario(network: sim.Network, unanswered: int) -> tuple[list[str], float]:
        server, client = network.host("server"), network.host("client")
        server.start_soon(name_server, unanswered)
        await trio.testing.wait_all_tasks_blocked()
        answer = await client.run(resolve, server.ipv4, 30.0)
        return answer, network.time

    answer, at_once = sim.run(scenario, 0)
    assert answer == ["192.0.2.77"]
    assert at_once == pytest.approx(0.002)
    answer, later = sim.run(scenario, 1)
    assert answer == ["192.0.2.77"]
    assert 2 < later < 4


def test_dnspythons_resolver_times_out_in_a_black_hole() -> None:
    async def scenario(network: sim.Network) -> float:
        server, client = network.host("server"), network.host("client")
        network.path(client, server, loss=1)
        with pytest.raises(dns.resolver.LifetimeTimeout):
            await client.run(resolve, server.ipv4, 300.0)
        return network.time

    began = time.perf_counter()
    assert 298 < sim.run(scenario) < 302
    assert time.perf_counter() - began < 300


# anyio


async def anyio_echo() -> None:
    async with await anyio.create_udp_socket(local_host="0.0.0.0", local_port=7) as udp:
        async for data, (host, port) in udp:
            await udp.sendto(data.upper(), host, port)


def test_anyios_sockets_send_and_receive() -> None:
    async def client() -> None:
        async with await anyio.create_udp_socket(family=socket.AF_INET) as udp:
            await udp.sendto(b"hello", "server", 7)
            data, (_, port) = await udp.receive()
            assert (data, port) == (b"HELLO", 7)
        async with await anyio.create_connected_udp_socket("server", 7, family=socket.AF_INET) as connected:
            await connected.send(b"again")
            assert await connected.receive() == b"AGAIN"

    async def scenario(network: sim.Network) -> float:
        network.host("server").start_soon(anyio_echo)
        await trio.testing.wait_all_tasks_blocked()
        await network.host("client").run(client)
        return network.time

    assert sim.run(scenario) == pytest.approx(0.004)


def test_anyios_sockets_have_their_extra_attributes() -> None:
    async def client(server: sim.Host) -> None:
        attribute = anyio.abc.SocketAttribute
        async with await anyio.create_connected_udp_socket("server", 7, family=socket.AF_INET) as udp:
            assert udp.extra(attribute.remote_address) == (server.ipv4, 7)
            assert udp.extra(attribute.remote_port) == 7
            assert udp.extra(attribute.local_address)[1] == udp.extra(attribute.local_port)
            assert udp.extra(attribute.family) == socket.AF_INET
            raw: Any = udp.extra(attribute.raw_socket)
            assert raw.getsockname() == udp.extra(attribute.local_address)

    async def scenario(network: sim.Network) -> None:
        await network.host("client").run(client, network.host("server"))

    sim.run(scenario)


def test_anyios_sockets_are_unbound_share_a_port_or_come_from_the_program(udp: Family) -> None:
    async def client() -> None:
        attribute = anyio.abc.SocketAttribute
        options: Any = {"family": udp.family, "local_host": udp.loopback}
        async with await anyio.create_udp_socket(family=options["family"]) as unbound:
            raw: Any = unbound.extra(attribute.raw_socket)
            assert unbound.extra(attribute.local_port) > 0
            assert raw.gettimeout() == 0
            with pytest.raises(anyio.TypedAttributeLookupError):
                unbound.extra(attribute.remote_port)
        async with await anyio.create_udp_socket(**options, reuse_port=True) as one:
            port = one.extra(attribute.local_port)
            async with await anyio.create_udp_socket(**options, local_port=port, reuse_port=True) as other:
                assert other.extra(attribute.local_port) == port
        with socket.socket(udp.family, socket.SOCK_DGRAM) as sock:
            sock.bind((udp.loopback, 0))
            async with await anyio.abc.UDPSocket.from_socket(sock) as wrapped:
                own: Any = wrapped.extra(attribute.local_address)
                await wrapped.sendto(b"to myself", *own)
                assert await wrapped.receive() == (b"to myself", own)

    async def scenario(network: sim.Network) -> None:
        await network.host("client").run(client)

    sim.run(scenario)


def test_anyios_receive_is_cancelled_without_a_loss_and_ended_by_closing() -> None:
    async def client() -> None:
        async with await anyio.create_udp_socket(local_host="127.0.0.1") as udp:
            with anyio.move_on_after(1) as scope:
                await udp.receive()
            assert scope.cancelled_caught
            port = udp.extra(anyio.abc.SocketAttribute.local_port)
            await udp.sendto(b"kept", "127.0.0.1", port)
            assert (await udp.receive())[0] == b"kept"

            async def receive() -> None:
                with pytest.raises(anyio.ClosedResourceError):
                    await udp.receive()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                await udp.aclose()

    async def scenario(network: sim.Network) -> None:
        await network.host("client").run(client)

    sim.run(scenario)
