"""The plain loop on trio.socket."""

from __future__ import annotations

import sys
from time import perf_counter

import trio


async def bound() -> trio.socket.SocketType:
    server = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await server.bind(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    return server


async def echo() -> None:
    with await bound() as server:
        while True:
            data, address = await server.recvfrom(65536)
            await server.sendto(data, address)


async def receive(server: trio.socket.SocketType, seconds: float) -> tuple[int, float]:
    await server.recvfrom(65536)
    count, start = 0, perf_counter()
    while (elapsed := perf_counter() - start) < seconds:
        for _ in range(64):
            await server.recvfrom(65536)
        count += 64
    return count, elapsed


async def flood(warm_up: float, seconds: float) -> None:
    with await bound() as server:
        await receive(server, warm_up)
        print(*await receive(server, seconds), flush=True)


async def loopback(seconds: float) -> None:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as client:
            address, payload = server.getsockname(), bytes(64)
            count, start = 0, perf_counter()
            while (elapsed := perf_counter() - start) < seconds:
                for _ in range(64):
                    await client.sendto(payload, address)
                    await server.recvfrom(65536)
                count += 64
    print(count / elapsed, flush=True)


match sys.argv[1:]:
    case ["echo"]:
        trio.run(echo)
    case ["flood", warm_up, seconds]:
        trio.run(flood, float(warm_up), float(seconds))
    case ["loopback", seconds]:
        trio.run(loopback, float(seconds))
    case _:
        sys.exit("which case?")
