"""An HTTP/3 server: static files of a folder, by the H3 layer of aioquic on the streams of trio_dgram.

It needs the extra `quic`: `pip install trio_dgram[quic]`. Try it:

    python http3_server.py site --certificate cert.pem --key key.pem --port 4433
    curl --http3-only --cacert ca.pem https://localhost:4433/index.html

Browsers use HTTP/3 only where a server that they reach over TCP announces it: `Alt-Svc: h3=":4433"`.
"""

from __future__ import annotations

import argparse
import mimetypes
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import trio
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import H3Event, HeadersReceived
from aioquic.quic.events import StreamDataReceived

from trio_dgram import quic

LARGEST_PIECE = 65536


class Outgoing:
    """What the H3 layer takes for a connection: it queues what is to be sent on which stream."""

    def __init__(self, streams: list[quic.SendStream]) -> None:
        self.configuration: Any = argparse.Namespace(is_client=False)
        self.closed: tuple[int, str] | None = None
        self._quic_logger = None
        self._remote_max_datagram_frame_size = None
        self._unused = [stream.id for stream in streams]
        self._streams: dict[int, quic.SendStream] = {stream.id: stream for stream in streams}
        self._queue: list[tuple[int, bytes]] = []

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:  # noqa: FBT001, FBT002 -- aioquic's
        """Return the next of our one-way streams."""
        del is_unidirectional
        return self._unused.pop(0)

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:  # noqa: FBT001, FBT002
        """Queue bytes; the end is sent by closing the stream."""
        del end_stream
        self._queue.append((stream_id, data))

    def reset_stream(self, stream_id: int, code: int) -> None:
        """Give up a stream."""
        self._streams[stream_id].reset(code)

    def close(self, error_code: int, reason_phrase: str = "") -> None:
        """Note that the client breaks the rules."""
        self.closed = (error_code, reason_phrase)

    def add(self, stream: quic.Stream) -> None:
        """Add the stream of a request."""
        self._streams[stream.id] = stream

    def take(self) -> list[tuple[quic.SendStream, bytes]]:
        """Return what is queued."""
        queue, self._queue = self._queue, []
        return [(self._streams[stream_id], data) for stream_id, data in queue]


Respond = Callable[[dict[bytes, bytes]], Awaitable[tuple[int, str, bytes]]]


class Http3:
    """One connection of a client."""

    def __init__(self, connection: quic.Connection, streams: list[quic.SendStream], respond: Respond) -> None:
        self.connection = connection
        self.outgoing = Outgoing(streams)
        self.layer = H3Connection(cast("Any", self.outgoing))
        self.respond = respond
        self.sending: defaultdict[int, trio.Lock] = defaultdict(trio.Lock)

    def handle(self, stream: quic.ReceiveStream, data: bytes) -> list[H3Event]:
        """Pass bytes of a stream to the layer, ``b""`` at its end, and return what they are."""
        event = StreamDataReceived(data=data, end_stream=not data, stream_id=stream.id)
        events = self.layer.handle_event(event)
        if self.outgoing.closed is not None:
            self.connection.close(*self.outgoing.closed)
        return events

    async def receive_settings(self, stream: quic.ReceiveStream) -> None:
        """Receive a one-way stream: the client's settings and the states of its header compression."""
        while data := await stream.receive_some():
            self.handle(stream, data)
            await self.flush()

    async def answer(self, stream: quic.Stream) -> None:
        """Answer one request."""
        self.outgoing.add(stream)
        headers: dict[bytes, bytes] = {}
        end = False
        while not end:
            data = await stream.receive_some()
            end = not data
            for event in self.handle(stream, data):
                if isinstance(event, HeadersReceived):
                    headers.update(event.headers)
        status, kind, body = await self.respond(headers)
        reply = {":status": str(status), "content-type": kind, "content-length": str(len(body))}
        encoded = [(name.encode(), value.encode()) for name, value in reply.items()]
        self.layer.send_headers(stream.id, encoded)
        await self.flush()
        for start in range(0, len(body), LARGEST_PIECE):
            self.layer.send_data(stream.id, body[start : start + LARGEST_PIECE], end_stream=False)
            await self.flush()

    async def flush(self) -> None:
        """Send what this task has queued: no other has run since."""
        for stream, data in self.outgoing.take():
            # All requests share the streams of the header compression.
            async with self.sending[stream.id]:
                await stream.send_all(data)


async def serve_connection(respond: Respond, connection: quic.Connection) -> None:
    streams = [await connection.open_send_stream() for _ in range(3)]
    http3 = Http3(connection, streams, respond)
    async with trio.open_nursery() as nursery:
        await http3.flush()
        nursery.start_soon(receive_all_settings, http3, nursery)
        await connection.serve_streams(http3.answer)
        nursery.cancel_scope.cancel()


async def receive_all_settings(http3: Http3, nursery: trio.Nursery) -> None:
    async for stream in http3.connection.accept_receive_streams():
        nursery.start_soon(http3.receive_settings, stream)


async def read_file(folder: Path, headers: dict[bytes, bytes]) -> tuple[int, str, bytes]:
    """Return status, type and content of the file that a request asks for."""
    if headers.get(b":method") != b"GET":
        return 405, "text/plain", b"only GET\n"
    path = (folder / headers.get(b":path", b"/").decode("ascii", "replace").partition("?")[0].lstrip("/")).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        return 404, "text/plain", b"not found\n"
    return 200, mimetypes.guess_type(path.name)[0] or "application/octet-stream", await trio.Path(path).read_bytes()


async def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the files of a folder by HTTP/3.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int, default=4433)
    arguments = parser.parse_args()
    configuration = quic.Configuration(
        alpn=H3_ALPN, certificate=arguments.certificate, key=arguments.key, max_streams=(100, 3)
    )
    handler = partial(serve_connection, partial(read_file, arguments.folder.resolve()))
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(quic.serve, handler, arguments.port, configuration, host=arguments.host)
        )
        print(f"listening on {listeners[0].address}", flush=True)


if __name__ == "__main__":
    try:
        trio.run(main)
    except* KeyboardInterrupt:
        pass
