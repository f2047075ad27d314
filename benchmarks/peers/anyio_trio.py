"""anyio's UDP socket on its Trio backend."""

from __future__ import annotations

import sys
from time import perf_counter

import anyio
from anyio.abc import SocketAttribute, UDPSocket


async def bound() -> UDPSocket:
    server = await anyio.create_udp_socket(local_host="127.0.0.1")
    print(server.extra(SocketAttribute.local_port), flush=True)
    return server


async def echo() -> None:
    async with await bound() as server:
        async for data, (host, port) in server:
            await server.sendto(data, host, port)


async def receive(server: UDPSocket, seconds: float) -> tuple[int, float]:
    await server.receive()
    count, start = 0, perf_counter()
    while (elapsed := perf_counter() - start) < seconds:
        for _ in range(64):
            await server.receive()
        count += 64
    return count, elapsed


async def flood(warm_up: float, seconds: float) -> None:
    async with await bound() as server:
        await receive(server, warm_up)
        print(*await receive(server, seconds), flush=True)


match sys.argv[1:]:
    case ["echo"]:
        anyio.run(echo, backend="trio")
    case ["flood", warm_up, seconds]:
        anyio.run(flood, float(warm_up), float(seconds), backend="trio")
    case _:
        sys.exit("which case?")
