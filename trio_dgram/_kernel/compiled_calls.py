"""The hot calls by the compiled layer, for the internet sockets of the operating system.

Everything rare is done by the implementation in Python, from which it inherits.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from .._codecs.ancillary import control_messages
from .._codecs.families import Family, SocketAddress
from .._values.addresses import ReceivedAddress
from .._values.datagrams import Datagram
from .capabilities import capabilities_of
from .compiled_layer import native
from .passed_sockets import PassableSocket
from .python_calls import REFUSED, PythonCalls
from .system_socket import SharedSocket, SystemSocket

_SYSTEM_SOCKETS: Final = (SystemSocket, SharedSocket, PassableSocket)
_PLAIN_SOCKET: Final = socket.socket
"""The standard library's class. Calls of a class that replaces it, to watch or to refuse them, are made in Python."""


class CompiledCalls(PythonCalls):
    """The hot calls of one socket, by the extension module."""

    __slots__ = ("_native",)

    def __init__(self, sock: Any, family: Family) -> None:
        super().__init__(sock, family)
        # The standard library's socket, which the others delegate to.
        plain = sock._sock  # noqa: SLF001 -- of this layer
        self._native = native.KernelCalls(plain, int(family.family), family.source_type, self.send, self.sendto)
        self.send = self._native.send
        self.sendto = self._native.sendto

    def receive(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        """Append about ``limit`` datagrams to ``into``; raise the kernel's error where no more can be had."""
        if self._formers or self._recvmmsg is None:
            super().receive(into, limit)
            return
        before = len(into)
        try:
            self._native.receive(self, into, limit)
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            # A sandbox may refuse on one socket what it allowed on another.
            self._recvmmsg = None
        finally:
            self.counts.received += len(into) - before
        if self._recvmmsg is None:
            super().receive(into, limit)

    def send_batch(
        self, payloads: Sequence[bytes], sockaddrs: Sequence[SocketAddress | None]
    ) -> tuple[int, OSError | None]:
        """Send datagrams in order, each to its own address or to the peer, until the kernel refuses one."""
        sent = 0
        try:
            while sent < len(payloads):
                count = self._native.send_batch(payloads, sockaddrs, sent)
                if not count:
                    sockaddr = sockaddrs[sent]
                    self.send(payloads[sent]) if sockaddr is None else self.sendto(payloads[sent], sockaddr)
                sent += count or 1
        except OSError as error:
            return sent, error
        return sent, None

    def _unusual_source(self, packed: bytes) -> ReceivedAddress | None:
        """Return the source of a datagram that has a zone or must not be answered."""
        return self._permitted(self._family.sources(packed)[0])

    def _unpack_message(
        self, into: list[Datagram], data: bytes, control: bytes, flags: int, address: ReceivedAddress | None
    ) -> None:
        """Append the datagrams of a message with flags, or with other control messages than the usual ones."""
        self._unpack(into, data, control_messages(control), control, flags, address)


def create_calls(sock: Any, family: Family) -> PythonCalls:
    """Return the fastest implementation of the hot calls that runs on ``sock``.

    A simulated socket, one of a custom factory, and any whose class a test has replaced get the one in Python.
    """
    if (
        native is not None
        and family.is_internet
        and type(sock) in _SYSTEM_SOCKETS
        and type(sock._sock) is _PLAIN_SOCKET  # noqa: SLF001 -- of this layer
        and capabilities_of(sock).batches
    ):
        return CompiledCalls(sock, family)
    return PythonCalls(sock, family)
