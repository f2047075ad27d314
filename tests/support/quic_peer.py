"""aioquic's own asyncio client and server, run as a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import aioquic.asyncio.server
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import DatagramFrameReceived, HandshakeCompleted, QuicEvent
from aioquic.quic.packet import QuicProtocolVersion


class RequestingConnection(QuicConnection):
    """Requests the certificate of its client, and requires one."""

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls._request_client_certificate = True


class Protocol(QuicConnectionProtocol):
    """Sends datagrams back, and keeps those of a server."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.datagrams: asyncio.Queue[bytes] = asyncio.Queue()

    def quic_event_received(self, event: QuicEvent) -> None:
        super().quic_event_received(event)
        if isinstance(event, HandshakeCompleted) and "request" in sys.argv and not self._quic.tls._peer_certificate:
            self.close()
        if isinstance(event, DatagramFrameReceived):
            self.datagrams.put_nowait(event.data)
            if not self._quic.configuration.is_client:
                self._quic.send_datagram_frame(event.data)
                self.transmit()


async def ask(client: Protocol, size: int) -> None:
    reader, writer = await client.create_stream()
    # aioquic reserves a stream only when it is written to.
    writer.write(bytes(size))
    writer.write_eof()
    assert await reader.read() == bytes(size)


async def run_client(port: int, trust: str) -> None:
    configuration = QuicConfiguration(alpn_protocols=["test"], cafile=trust, max_datagram_frame_size=65536)
    files = dict(argument.split("=") for argument in sys.argv if "=" in argument)
    if files:
        configuration.load_cert_chain(files["certificate"], files["key"])
    if "v2" in sys.argv:
        configuration.original_version = QuicProtocolVersion.VERSION_1
        configuration.supported_versions = [QuicProtocolVersion.VERSION_2, QuicProtocolVersion.VERSION_1]
    async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Protocol) as client:
        assert isinstance(client, Protocol)
        await ask(client, 300_000)
        client.request_key_update()
        await ask(client, 1000)
        client.change_connection_id()
        await asyncio.gather(*[ask(client, 1000) for _ in range(100)])
        client._quic.send_datagram_frame(b"hello")
        client.transmit()
        assert await client.datagrams.get() == b"hello"
        print(f"version {client._quic._version:#x}")
    await client.wait_closed()


async def run_server(certificate: str, key: str) -> None:
    configuration = QuicConfiguration(alpn_protocols=["test"], is_client=False, max_datagram_frame_size=65536)
    configuration.load_cert_chain(certificate, key)

    def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def run() -> None:
            writer.write(await reader.read())
            writer.write_eof()

        tasks.append(asyncio.ensure_future(run()))

    tasks: list[Any] = []
    if "request" in sys.argv:
        aioquic.asyncio.server.QuicConnection = RequestingConnection  # type: ignore[attr-defined]
    server = await serve(
        "127.0.0.1",
        0,
        configuration=configuration,
        create_protocol=Protocol,
        stream_handler=echo,
        retry="retry" in sys.argv,
    )
    print(server._transport.get_extra_info("sockname")[1], flush=True)  # type: ignore[union-attr]
    await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "client":
        asyncio.run(run_client(int(sys.argv[2]), sys.argv[3]))
    else:
        asyncio.run(run_server(sys.argv[2], sys.argv[3]))
    os._exit(0)
