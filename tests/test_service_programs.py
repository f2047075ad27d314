"""Services with other programs at the other end: nc, socat, Node, uvloop and libcoap."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

import trio_dgram
from trio_dgram import DatagramChannel

from .support.families import Family
from .support.marks import needs_packet_info
from .support.programs import coap_answer, printed, started, type_in, unused_port, url_host
from .test_listener_sockets import serving
from .test_services import shout

pytestmark = pytest.mark.programs

NODE_CLIENT = """
const [host, port] = process.argv.slice(1);
const socket = require("dgram").createSocket(host.includes(":") ? "udp6" : "udp4");
socket.on("message", (data) => { console.log(String(data)); socket.close(); });
// A connected socket receives only from the address that it asks.
socket.connect(Number(port), host, () => socket.send("hello from node"));
"""

NODE_SERVER = """
const [host, port] = process.argv.slice(1);
const socket = require("dgram").createSocket(host.includes(":") ? "udp6" : "udp4");
socket.on("message", (data, { port, address }) => socket.send(String(data).toUpperCase(), port, address));
socket.bind(Number(port), host, () => console.log("listening"));
"""

UVLOOP_CLIENT = """
import asyncio, sys, uvloop

class Client(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        transport.sendto(b"hello from uvloop")

    def datagram_received(self, data, address):
        print(data.decode(), flush=True)
        answered.set_result(None)

async def main(host, port):
    global answered
    answered = asyncio.get_running_loop().create_future()
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Client, remote_addr=(host, int(port)))
    await answered
    transport.close()

uvloop.run(main(*sys.argv[1:]))
"""


async def assert_answered(
    udp: Family, name: str, arguments: Callable[[str, int], list[str]], text: bytes = b""
) -> None:
    """Serve on all interfaces, and check that a program that asks another loopback address is answered."""
    async with serving(shout, 0) as listeners:
        host = {"udp4": "127.0.0.2", "udp6": "::1"}[udp.type]
        async with started(name, *arguments(host, listeners[0].address.port)) as program:
            await type_in(program, text)
            await printed(program, b"HELLO FROM")


@needs_packet_info
async def test_nc_is_answered(udp: Family) -> None:
    await assert_answered(udp, "nc", lambda host, port: ["-u", host, str(port)], b"hello from nc\n")


@needs_packet_info
async def test_socat_is_answered(udp: Family) -> None:
    version = {"udp4": "UDP4", "udp6": "UDP6"}[udp.type]
    await assert_answered(
        udp, "socat", lambda host, port: ["-", f"{version}:{url_host(host)}:{port}"], b"hello from socat\n"
    )


@needs_packet_info
async def test_node_is_answered(udp: Family) -> None:
    await assert_answered(udp, "node", lambda host, port: ["-e", NODE_CLIENT, host, str(port)])


@needs_packet_info
async def test_uvloop_is_answered(udp: Family) -> None:
    pytest.importorskip("uvloop", reason="program: uvloop is not installed")
    await assert_answered(udp, sys.executable, lambda host, port: ["-c", UVLOOP_CLIENT, host, str(port)])


async def test_coap_client_is_answered(udp: Family) -> None:
    async def answer(peer: DatagramChannel) -> None:
        async for request in peer:
            await peer.send(coap_answer(request))

    async with serving(answer, 0) as listeners:
        url = f"coap://{url_host(udp.loopback)}:{listeners[0].address.port}/resource"
        async with started("coap-client-openssl", "-B", "10", "-m", "get", url) as client:
            await printed(client, b"hello from trio")


@pytest.mark.parametrize("name", ["node", "socat"])
async def test_a_connection_is_answered_by_another_server(udp: Family, name: str) -> None:
    port = str(unused_port(udp))
    version = {"udp4": "UDP4", "udp6": "UDP6"}[udp.type]
    arguments = {
        "node": ["-e", NODE_SERVER, udp.loopback, port],
        "socat": ["-d", "-d", f"{version}-RECVFROM:{port},fork", "SYSTEM:tr a-z A-Z"],
    }[name]
    async with started(name, *arguments) as server:
        await printed(server, {"node": b"listening", "socat": b"receiving on"}[name])
        async with trio_dgram.open_connection(udp.loopback, int(port)) as peer:
            await peer.send("hello from trio")
            assert await peer.receive() == b"HELLO FROM TRIO"
