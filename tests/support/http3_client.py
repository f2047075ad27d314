"""An HTTP/3 client of aioquic's, run as a process of its own: it prints status and body of each path."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent


class Client(QuicConnectionProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic)
        self.answers: dict[int, tuple[bytearray, asyncio.Event]] = {}
        self.status: dict[int, str] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        for each in self.http.handle_event(event):
            if isinstance(each, HeadersReceived):
                self.status[each.stream_id] = dict(each.headers)[b":status"].decode()
            if isinstance(each, DataReceived):
                self.answers[each.stream_id][0].extend(each.data)
            if isinstance(each, DataReceived | HeadersReceived) and each.stream_ended:
                self.answers[each.stream_id][1].set()

    async def get(self, path: str) -> str:
        stream_id = self._quic.get_next_available_stream_id()
        body, end = self.answers[stream_id] = bytearray(), asyncio.Event()
        headers = {":method": "GET", ":scheme": "https", ":authority": "localhost", ":path": path}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.http.send_headers(stream_id, encoded, end_stream=True)
        self.transmit()
        await end.wait()
        return f"{path} {self.status[stream_id]} {len(body)}"


async def main(port: int, trust: str, paths: list[str]) -> None:
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, cafile=trust)
    async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Client) as client:
        assert isinstance(client, Client)
        for answer in await asyncio.gather(*map(client.get, paths)):
            print(answer)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
