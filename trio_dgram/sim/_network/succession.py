"""Giving a simulated socket the place of one that the standard library made."""

from __future__ import annotations

import errno
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

from .kernel_socket import KernelSocket

_SOL: Final = socket.SOL_SOCKET
_COPIED: Final = tuple(
    (_SOL, getattr(socket, name)) for name in ("SO_REUSEADDR", "SO_REUSEPORT", "SO_BROADCAST") if hasattr(socket, name)
)
_V6ONLY: Final = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


@contextmanager
def succeeding(made: KernelSocket, sock: Any, call: str) -> Generator[None]:
    """Give ``made`` the address and options of ``sock``, and ``sock`` itself once the block has succeeded."""
    try:
        try:
            _transfer(made, sock)
        except OSError as error:
            what = f"{call} on the simulated host {made.machine.name}: {error.strerror} ({sock.getsockname()})"
            raise OSError(error.errno, what) from None
        yield
    except BaseException:
        made.close()
        raise
    made.original = sock


def _transfer(made: KernelSocket, sock: Any) -> None:
    try:
        peer = sock.getpeername()
    except OSError:
        pass
    else:
        raise OSError(errno.EISCONN, f"the socket is connected to {peer} on the real network")
    for place in (*_COPIED, _V6ONLY) if sock.family == socket.AF_INET6 else _COPIED:
        made.setsockopt(*place, sock.getsockopt(*place))
    address = sock.getsockname()
    if address[1]:
        made.bind(address)
