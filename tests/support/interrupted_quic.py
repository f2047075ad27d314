"""A program of QUIC connections to be interrupted."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import trio

from trio_dgram import quic

from .families import FAMILIES, Family
from .interrupts import MakeProgram, Program
from .quic import check_sums, client_configuration, server_configuration

BOTH: Final[dict[str, Any]] = {"datagrams": True, "max_streams": (10, 1), "keep_alive": 0.01}


class Connected:
    """A server, and a client whose streams end in every way; one is refused, and one is not waited for."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.server, self.client = server_configuration(**BOTH), client_configuration(**BOTH)
        self.listener: quic.Listener | None = None
        self.connections: list[quic.Connection] = []

    async def run(self) -> None:
        options: Any = {"host": self.family.loopback, "retry": "always", "max_connections": 1}
        async with trio.open_nursery() as nursery:
            serve = partial(quic.serve, self._serve, 0, self.server, **options)
            (self.listener,) = await nursery.start(serve)
            connect = partial(quic.open_connection, self.family.loopback, self.listener.address.port, self.client)
            async with connect() as connection:
                self.connections.append(connection)
                async with await connection.open_stream() as stream:
                    await stream.send_all(b"hello")
                    assert await stream.receive_some() == b"hello"
                    with trio.move_on_after(0):
                        await stream.send_all(b"cancelled")
                reset = await connection.open_stream()
                await reset.send_all(b"reset")
                reset.reset(1)
                await reset.aclose()
                async with await connection.open_send_stream() as one_way:
                    await one_way.send_all(b"one way")
                await connection.datagrams.send(b"hello")
                await connection.datagrams.receive()
                await connection.rebind()
                await connection.ping()
                with trio.move_on_after(0.02):
                    await connection.accept_streams().receive()
                try:
                    async with connect():
                        raise AssertionError
                except quic.HandshakeError:
                    pass
            nursery.cancel_scope.cancel()

    async def _serve(self, connection: quic.Connection) -> None:
        self.connections.append(connection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._echo_datagrams, connection.datagrams)
            await connection.serve_streams(self._echo)

    async def _echo(self, stream: quic.Stream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async def _echo_datagrams(self, channel: trio.abc.Channel[bytes]) -> None:
        async for data in channel:
            await channel.send(data)

    def complaints(self, *, interrupted_program: bool) -> Iterable[str]:
        del interrupted_program
        if self.listener is None:
            return
        counts = check_sums(self.listener)
        if counts.connections or counts.handshaking or counts.waiting:
            yield f"left at the end: {counts}"
        if not self.listener._socket.closed:
            yield "the socket is open"
        yield from [f"{each!r} is open" for each in self.connections if repr(each).endswith("open>")]


@contextmanager
def _made(family: Family) -> Generator[Program]:
    yield Connected(family)


CONNECTED: Final[dict[str, MakeProgram]] = {"Connected udp4": partial(_made, FAMILIES[0])}
"""The programs with QUIC connections, by name."""
