"""A custom socket factory whose sockets offer what Trio's own do, and no more."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import attrs
import trio

from .faults import Faults
from .socket_factory import sockets_from

_OFFERED: Final = frozenset(dir(trio.socket.SocketType))


@attrs.define
class Held:
    """A call of a socket that waits until it is released."""

    reached: trio.Event = attrs.field(factory=trio.Event)
    let_go: trio.Event = attrs.field(factory=trio.Event)


@attrs.define
class AwaitedSockets:
    """What the sockets of the factory do, by the names of their methods."""

    faults: Faults = attrs.field(factory=Faults)
    """What the calls answer."""
    held: dict[str, Held] = attrs.field(factory=dict)
    """The calls that wait before they do anything."""
    answers_held: dict[str, Held] = attrs.field(factory=dict)
    """The calls that wait when it is done. No cancellation ends that."""

    def hold(self, operation: str) -> Held:
        """Have the calls of ``operation`` wait from now on."""
        return self.held.setdefault(operation, Held())

    def hold_answers(self, operation: str) -> Held:
        """Have the calls of ``operation`` wait with their answers from now on."""
        return self.answers_held.setdefault(operation, Held())


class _AwaitedSocket:
    """A real socket of Trio's with the members of ``trio.socket.SocketType`` only."""

    def __init__(self, sock: trio.socket.SocketType, sockets: AwaitedSockets) -> None:
        self._sock = sock
        self._sockets = sockets

    def __getattr__(self, name: str) -> Any:
        if name not in _OFFERED:
            raise AttributeError(name)
        return getattr(self._sock, name)

    def setsockopt(self, *arguments: Any) -> None:
        self._sockets.faults.answer("setsockopt")
        self._sock.setsockopt(*arguments)

    def getsockopt(self, *arguments: Any) -> Any:
        self._sockets.faults.answer("getsockopt")
        return self._sock.getsockopt(*arguments)

    async def bind(self, *arguments: Any) -> Any:
        return await self._call("bind", *arguments)

    async def connect(self, *arguments: Any) -> Any:
        return await self._call("connect", *arguments)

    async def send(self, *arguments: Any) -> Any:
        return await self._call("send", *arguments)

    async def sendto(self, *arguments: Any) -> Any:
        return await self._call("sendto", *arguments)

    async def recvfrom(self, *arguments: Any) -> Any:
        return await self._call("recvfrom", *arguments)

    async def _call(self, operation: str, *arguments: Any) -> Any:
        held = self._sockets.held.get(operation)
        if held is not None:
            held.reached.set()
            await held.let_go.wait()
        try:
            self._sockets.faults.answer(operation)
        except OSError:
            await trio.lowlevel.checkpoint()
            raise
        answer = await getattr(self._sock, operation)(*arguments)
        held = self._sockets.answers_held.get(operation)
        if held is not None:
            held.reached.set()
            with trio.CancelScope(shield=True):
                await held.let_go.wait()
        return answer


@contextmanager
def awaited_sockets() -> Generator[AwaitedSockets]:
    """Install a custom socket factory for the block, inside a Trio run."""
    sockets = AwaitedSockets()

    def make(family: int, type: int, proto: int) -> _AwaitedSocket:
        return _AwaitedSocket(trio.socket.from_stdlib_socket(socket.socket(family, type, proto)), sockets)

    with sockets_from(make):
        yield sockets


def run_on_awaited_sockets(async_fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Do as ``trio.run`` does, with sockets of a custom socket factory."""

    async def main() -> Any:
        with awaited_sockets():
            return await async_fn(*args)

    return trio.run(main, **options)
