"""Sockets that are passed to the test's own process, as a supervisor passes them to a worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator
from typing import Final, TypeAlias

import pytest

from trio_dgram._kernel import passed_sockets
from trio_dgram._kernel.passed_sockets import registry
from trio_dgram._services.worker_process import process

from .families import Family

FIRST: Final = 600
"""The number of the first descriptor here, since the real ones are in use."""

Pass: TypeAlias = Callable[..., bool]


@pytest.fixture
def pass_sockets(monkeypatch: pytest.MonkeyPatch) -> Generator[Pass]:
    """Pass sockets to this process for the test: ``pass_sockets(sock, ..., **variables)``."""
    monkeypatch.setattr(passed_sockets, "FIRST_DESCRIPTOR", FIRST)
    for kept in (registry, process):
        for name, value in vars(kept).items():
            monkeypatch.setattr(kept, name, value)
    opened: set[int] = set()

    def passing(*socks: socket.socket, **variables: str) -> bool:
        for number, sock in enumerate(socks, FIRST):
            os.dup2(sock.fileno(), number)
            opened.add(number)
        environment = {"LISTEN_FDS": str(len(socks)), "LISTEN_PID": str(os.getpid()), **variables}
        process.read(environment, registry)
        assert [name for name in environment if name.startswith("LISTEN_")] == []
        return registry.present

    yield passing
    for number in opened:
        os.close(number)


def bound(udp: Family, host: str | None = None, port: int = 0, **options: int) -> socket.socket:
    """Return a bound, blocking socket of the standard library, as another program makes it."""
    made = socket.socket(udp.family, socket.SOCK_DGRAM)
    if udp.type == "udp6":
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, options.get("v6only", 1))
    if options.get("reuse_port"):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((host or udp.loopback, port))
    if not port:
        # As a supervisor: Linux frees a port that it chose itself when a connection is dissolved.
        chosen = made.getsockname()
        made.close()
        return bound(udp, host, chosen[1], **options)
    return made
