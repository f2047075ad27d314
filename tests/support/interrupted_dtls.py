"""A program of DTLS peers to be interrupted."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Final

import trio

from trio_dgram import dtls

from .certificates import check_sums, client_context, server_context
from .families import FAMILIES, Family
from .interrupts import MakeProgram, Program


class Encrypted:
    """A server, and peers of which one is refused, one is waited for and one is closed by its handler."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.contexts = server_context(), client_context()
        self.listener: dtls.DTLSListener | None = None
        self.served: list[dtls.DTLSChannel] = []

    async def run(self) -> None:
        server, client = self.contexts
        async with trio.open_nursery() as nursery:
            serve = partial(dtls.serve, self._echo, 0, server, host=self.family.loopback, max_peers_per_network=(2, 2))
            (self.listener,) = await nursery.start(serve)
            connect = partial(dtls.open_connection, self.family.loopback, self.listener.address.port, client)
            async with connect() as one, connect() as other:
                for peer in (one, other):
                    await peer.send(b"hello")
                    assert await peer.receive() == b"hello"
                with trio.move_on_after(0.02):
                    async with connect():
                        raise AssertionError
                with trio.move_on_after(0):
                    await one.send(b"cancelled")
                await other.send(b"bye")
                with trio.move_on_after(0.005):
                    await other.receive()
                await one.aclose()
            nursery.cancel_scope.cancel()

    async def _echo(self, peer: dtls.DTLSChannel) -> None:
        self.served.append(peer)
        async for data in peer:
            if data == b"bye":
                return
            await peer.send(data)

    def complaints(self, *, interrupted_program: bool) -> Iterable[str]:
        del interrupted_program
        if self.listener is None:
            return
        counts = check_sums(self.listener)
        if counts.peers or counts.handshaking or counts.waiting:
            yield f"left at the end: {counts}"
        if not self.listener._socket.closed:
            yield "the socket is open"
        yield from [f"{peer!r} is open" for peer in self.served if repr(peer).endswith("open>")]


@contextmanager
def _made(family: Family) -> Generator[Program]:
    yield Encrypted(family)


ENCRYPTED: Final[dict[str, MakeProgram]] = {f"Encrypted {family.type}": partial(_made, family) for family in FAMILIES}
"""The programs with encrypted channels, by name."""
