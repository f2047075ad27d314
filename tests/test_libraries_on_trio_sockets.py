"""Libraries that take a Trio socket work on as_trio_socket."""

from __future__ import annotations

from typing import Any

import dns.asyncquery
import dns.message
import dns.rrset
import trio
from dns._trio_backend import DatagramSocket as DnspythonSocket

import trio_dgram
from trio_dgram import DatagramSocket, as_trio_socket

from .support.families import Family


async def answer_one_question(sock: DatagramSocket) -> None:
    datagram = await sock.receive()
    query = dns.message.from_wire(datagram.data)
    response = dns.message.make_response(query)
    response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.77"))
    await sock.send(datagram.reply(response.to_wire()))


async def test_dnspython_asks_through_it(udp: Family) -> None:
    async with (
        trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as server,
        trio_dgram.open_socket(udp.type) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(answer_one_question, server)
        query = dns.message.make_query("www.example.", "A")
        wrapped: Any = DnspythonSocket(as_trio_socket(client))  # type: ignore[no-untyped-call]
        reply = await dns.asyncquery.udp(query, udp.loopback, port=server.address.port, sock=wrapped)
        assert [record.address for record in reply.answer[0]] == ["192.0.2.77"]
        assert client.statistics().received == 1
