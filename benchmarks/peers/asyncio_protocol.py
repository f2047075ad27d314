"""asyncio's datagram protocol, on its own event loop or on uvloop's (`uvloop` as the first argument)."""

import asyncio
import importlib
import sys
from time import perf_counter
from typing import Any, cast


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self.transport.sendto(data, addr)


class Count(asyncio.DatagramProtocol):
    """Looks at the clock every 64 datagrams, which is less often than the others do."""

    count = -1
    start = 0.0

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.done = asyncio.Event()

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:  # noqa: ARG002 -- only counted
        self.count += 1
        if not self.count:
            self.start = perf_counter()
        elif self.count % 64 == 0 and not self.done.is_set():
            elapsed = perf_counter() - self.start
            if elapsed >= self.seconds:
                print(self.count, elapsed, flush=True)
                self.done.set()


async def serve(protocol: asyncio.DatagramProtocol) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: protocol, local_addr=("127.0.0.1", 0))
    print(transport.get_extra_info("sockname")[1], flush=True)


async def echo() -> None:
    await serve(Echo())
    await asyncio.Event().wait()


async def flood(seconds: float) -> None:
    count = Count(seconds)
    await serve(count)
    await count.done.wait()


arguments = sys.argv[1:]
run: Any = asyncio.run
if arguments[0] == "uvloop":
    run = importlib.import_module("uvloop").run
    del arguments[0]
match arguments:
    case ["echo"]:
        run(echo())
    case ["flood", seconds]:
        run(flood(float(seconds)))
    case _:
        sys.exit("which case?")
