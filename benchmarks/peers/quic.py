"""QUIC, both ends in this process: transfers by trio_dgram and by aioquic's own asyncio, and idle connections."""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import trio
import trio.testing
import trustme
from aioquic.asyncio.client import connect
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

from trio_dgram import quic

LOOPBACK = "127.0.0.1"
SIZE = 2_000_000
"""The bytes of a transfer, each on a stream of its own."""
CHUNK = 250_000
DONE = b"done"


async def measure(transfer: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    """Repeat a transfer, and print MB a second."""
    await transfer()
    count, start = 0, perf_counter()
    while (elapsed := perf_counter() - start) < seconds:
        await transfer()
        count += 1
    print(count * SIZE / 1e6 / elapsed, flush=True)


# trio_dgram


def both_ends(files: Path) -> tuple[quic.Configuration, quic.Configuration]:
    """Return the configurations of a server and of a client."""
    common: dict[str, Any] = {"alpn": ["bench"], "idle_timeout": 600}
    server = quic.Configuration(**common, certificate=files / "cert.pem", key=files / "key.pem")
    return server, quic.Configuration(**common, trust=files / "ca.pem")


async def read(stream: quic.Stream) -> None:
    """Read a transfer; another stream stays unread."""
    if await stream.receive_some(1) == b"?":
        await trio.sleep_forever()
    async for _ in stream:
        pass
    await stream.send_all(DONE)


async def read_all(connection: quic.Connection) -> None:
    await connection.serve_streams(read)


async def trio_bulk(files: Path, seconds: float, unread: bytes) -> None:
    """Measure transfers beside a stream with unread bytes, if any."""
    server, client = both_ends(files)

    async def transfer() -> None:
        async with await connection.open_stream() as stream:
            for _ in range(SIZE // CHUNK):
                await stream.send_all(bytes(CHUNK))
            await stream.send_eof()
            assert await stream.receive_some() == DONE

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(
            lambda task_status: quic.serve(read_all, 0, server, host=LOOPBACK, task_status=task_status)
        )
        async with quic.open_connection(LOOPBACK, listener.address.port, client) as connection:
            if unread:
                nursery.start_soon((await connection.open_stream()).send_all, unread)
            await measure(transfer, seconds)
            nursery.cancel_scope.cancel()


async def idle(files: Path, count: int) -> None:
    """Print the KiB of Python heap of each end of a connection."""
    server, client = both_ends(files)

    def memory() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        (listener,) = await nursery.start(
            lambda task_status: quic.serve(read_all, 0, server, host=LOOPBACK, task_status=task_status)
        )
        tracemalloc.start()
        before = memory()
        for _ in range(count):
            connecting = quic.open_connection(LOOPBACK, listener.address.port, client, handshake_timeout=60)
            await stack.enter_async_context(connecting)
        await trio.testing.wait_all_tasks_blocked()
        print((memory() - before) / count / 2 / 1024, flush=True)
        tracemalloc.stop()
        nursery.cancel_scope.cancel()


# aioquic's asyncio


async def asyncio_bulk(files: Path, seconds: float) -> None:
    server = QuicConfiguration(alpn_protocols=["bench"], is_client=False)
    server.load_cert_chain(files / "cert.pem", files / "key.pem")
    client = QuicConfiguration(alpn_protocols=["bench"], cafile=str(files / "ca.pem"))
    tasks: set[asyncio.Task[None]] = set()

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(2**18):
            pass
        writer.write(DONE)
        writer.write_eof()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(read(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def transfer() -> None:
        reader, writer = await connection.create_stream()
        for _ in range(SIZE // CHUNK):
            writer.write(bytes(CHUNK))
            await writer.drain()
        writer.write_eof()
        assert await reader.read() == DONE

    listener: Any = await serve(LOOPBACK, 0, configuration=server, stream_handler=accept)
    port = listener._transport.get_extra_info("sockname")[1]  # noqa: SLF001 -- there is no public name
    async with connect(LOOPBACK, port, configuration=client) as connection:
        await measure(transfer, seconds)


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder)
    authority = trustme.CA()
    certificate = authority.issue_cert(LOOPBACK)
    certificate.cert_chain_pems[0].write_to_path(path / "cert.pem")
    certificate.private_key_pem.write_to_path(path / "key.pem")
    authority.cert_pem.write_to_path(path / "ca.pem")
    match sys.argv[1:]:
        case ["trio", unread, seconds]:
            trio.run(trio_bulk, path, float(seconds), b"?" * int(unread))
        case ["asyncio", seconds]:
            asyncio.run(asyncio_bulk(path, float(seconds)))
        case ["idle", count]:
            trio.run(idle, path, int(count))
        case _:
            sys.exit("which case?")
