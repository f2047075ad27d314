"""trio_dgram, in the ordinary idiom."""

from __future__ import annotations

import sys
import tracemalloc
from time import perf_counter

import trio

import trio_dgram


async def echo() -> None:
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as server:
        print(server.address.port, flush=True)
        async for datagram in server:
            await server.send(datagram.data, datagram.address)


async def batched_echo() -> None:
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as server:
        print(server.address.port, flush=True)
        while True:
            await server.send_many([datagram.reply(datagram.data) for datagram in await server.receive_many()])


async def receive(server: trio_dgram.DatagramSocket, seconds: float) -> tuple[int, float]:
    await server.receive_many()
    count, start = 0, perf_counter()
    while (elapsed := perf_counter() - start) < seconds:
        count += len(await server.receive_many())
    return count, elapsed


async def flood(warm_up: float, seconds: float) -> None:
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as server:
        print(server.address.port, flush=True)
        await receive(server, warm_up)
        print(*await receive(server, seconds), flush=True)


async def send(
    client: trio_dgram.DatagramSocket, datagrams: list[trio_dgram.Datagram], seconds: float
) -> tuple[int, float]:
    count, start = 0, perf_counter()
    while (elapsed := perf_counter() - start) < seconds:
        await client.send_many(datagrams)
        count += len(datagrams)
    return count, elapsed


async def bulk_send(port: int, warm_up: float, seconds: float) -> None:
    async with trio_dgram.open_socket("udp4") as client:
        address = await trio_dgram.resolve("127.0.0.1", port, "udp4")
        payload = bytes(1200)
        datagrams = [trio_dgram.Datagram(payload, address) for _ in range(1000)]
        await send(client, datagrams, warm_up)
        print(*await send(client, datagrams, seconds), flush=True)


async def echo_on(sockets: int) -> None:
    async def serve(server: trio_dgram.DatagramSocket) -> None:
        async for datagram in server:
            await server.send(datagram.data, datagram.address)

    async with trio_dgram.open_nursery() as nursery:
        servers = [nursery.create_socket("udp4") for _ in range(sockets)]
        for server in servers:
            await server.bind(0, "127.0.0.1")
            nursery.start_soon(serve, server)
        print(",".join(str(server.address.port) for server in servers), flush=True)


async def idle(sockets: int) -> None:
    async with trio_dgram.open_nursery() as nursery:
        tracemalloc.start()
        kept = [nursery.create_socket("udp4") for _ in range(sockets)]
        for server in kept:
            await server.bind(0, "127.0.0.1")
        print(tracemalloc.get_traced_memory()[0] / sockets, flush=True)
        nursery.cancel_scope.cancel()


match sys.argv[1:]:
    case ["echo"]:
        trio.run(echo)
    case ["batched"]:
        trio.run(batched_echo)
    case ["flood", warm_up, seconds]:
        trio.run(flood, float(warm_up), float(seconds))
    case ["bulk", port, warm_up, seconds]:
        trio.run(bulk_send, int(port), float(warm_up), float(seconds))
    case ["sockets", sockets]:
        trio.run(echo_on, int(sockets))
    case ["idle", sockets]:
        trio.run(idle, int(sockets))
    case _:
        sys.exit("which case?")
