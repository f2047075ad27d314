"""The loop that everybody writes on trio.socket."""

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


async def flood(seconds: float) -> None:
    with await bound() as server:
        await server.recvfrom(65536)
        count, start = 0, perf_counter()
        while perf_counter() - start < seconds:
            await server.recvfrom(65536)
            count += 1
        print(count, perf_counter() - start, flush=True)


match sys.argv[1:]:
    case ["echo"]:
        trio.run(echo)
    case ["flood", seconds]:
        trio.run(flood, float(seconds))
    case _:
        sys.exit("which case?")
