"""A client of qh3, another implementation of QUIC and TLS, run as a process of its own."""

from __future__ import annotations

import asyncio
import sys

from qh3.asyncio.client import connect
from qh3.asyncio.protocol import QuicConnectionProtocol
from qh3.quic.configuration import QuicConfiguration


async def ask(client: QuicConnectionProtocol, size: int) -> None:
    reader, writer = await client.create_stream()
    writer.write(bytes(size))
    writer.write_eof()
    assert await reader.read() == bytes(size)


async def main(port: int, trust: str, certificate: str) -> None:
    configuration = QuicConfiguration(alpn_protocols=["test"], cafile=trust)
    configuration.load_cert_chain(certificate, certificate)
    async with connect("127.0.0.1", port, configuration=configuration) as client:
        await ask(client, 300_000)
        await asyncio.gather(*[ask(client, 1000) for _ in range(50)])
        print("done")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
