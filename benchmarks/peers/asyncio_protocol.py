"""asyncio's datagram protocol, on its own event loop or on uvloop's (``uvloop`` as the first argument)."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any, cast


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self.transport.sendto(data, addr)


class Count(asyncio.DatagramProtocol):
    count = 0

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:  # noqa: ARG002 -- only counted
        self.count += 1


async def serve(protocol: Callable[[], asyncio.DatagramProtocol], sockets: int = 1) -> None:
    loop = asyncio.get_running_loop()
    opened = [await loop.create_datagram_endpoint(protocol, local_addr=("127.0.0.1", 0)) for _ in range(sockets)]
    print(",".join(str(transport.get_extra_info("sockname")[1]) for transport, _ in opened), flush=True)


async def echo(sockets: int = 1) -> None:
    await serve(Echo, sockets)
    await asyncio.Event().wait()


async def flood(warm_up: float, seconds: float) -> None:
    protocol = Count()
    await serve(lambda: protocol)
    while not protocol.count:  # noqa: ASYNC110 -- an event would cost something for each datagram
        await asyncio.sleep(0.01)
    await asyncio.sleep(warm_up)
    count, start = protocol.count, perf_counter()
    await asyncio.sleep(seconds)
    print(protocol.count - count, perf_counter() - start, flush=True)


run: Any = asyncio.run
arguments = sys.argv[1:]
if arguments[:1] == ["uvloop"]:
    run = importlib.import_module("uvloop").run
    del arguments[0]
match arguments:
    case ["echo"]:
        run(echo())
    case ["sockets", sockets]:
        run(echo(int(sockets)))
    case ["flood", warm_up, seconds]:
        run(flood(float(warm_up), float(seconds)))
    case _:
        sys.exit("which case?")
