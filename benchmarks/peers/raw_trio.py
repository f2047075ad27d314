"""The plain loop on trio.socket."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import perf_counter, process_time

import trio


async def bound() -> trio.socket.SocketType:
    server = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await server.bind(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    return server


async def answer(server: trio.socket.SocketType) -> None:
    while True:
        data, address = await server.recvfrom(65536)
        await server.sendto(data, address)


async def echo() -> None:
    with await bound() as server:
        await answer(server)


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


@asynccontextmanager
async def both_ends() -> AsyncGenerator[tuple[trio.socket.SocketType, trio.socket.SocketType]]:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as client:
            yield client, server


async def loopback(seconds: float) -> None:
    async with both_ends() as (client, server):
        address, payload = server.getsockname(), bytes(64)
        count, start = 0, process_time()
        while (elapsed := process_time() - start) < seconds:
            for _ in range(64):
                await client.sendto(payload, address)
                await server.recvfrom(65536)
            count += 64
    print(count / elapsed, flush=True)


async def ping_pong(seconds: float) -> None:
    async with both_ends() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(answer, server)
        address, payload = server.getsockname(), bytes(64)
        count, start = 0, process_time()
        while (elapsed := process_time() - start) < seconds:
            await client.sendto(payload, address)
            await client.recvfrom(65536)
            count += 1
        nursery.cancel_scope.cancel()
    print(count / elapsed, flush=True)


match sys.argv[1:]:
    case ["echo"]:
        trio.run(echo)
    case ["flood", warm_up, seconds]:
        trio.run(flood, float(warm_up), float(seconds))
    case ["loopback", seconds]:
        trio.run(loopback, float(seconds))
    case ["ping-pong", seconds]:
        trio.run(ping_pong, float(seconds))
    case _:
        sys.exit("which case?")
