"""A socket that returns planned messages, as the network could cause the kernel to, without raw sockets."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

import attrs

from trio_dgram._codecs.ancillary import control_messages
from trio_dgram._kernel.capabilities import COMPLETE, Capabilities
from trio_dgram._kernel.recvmmsg import LARGEST_CALL, Batch

_IPV4_SIZE: Final = 16
_IPV6_SIZE: Final = 28
_IPV6: Final = struct.Struct("!HI16s")


def packed_ipv4(host: str, port: int) -> bytes:
    """Return a struct sockaddr_in (ip(7))."""
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)


def packed_ipv6(host: str, port: int, scope: int = 0) -> bytes:
    """Return a struct sockaddr_in6 (ipv6(7))."""
    octets = socket.inet_pton(socket.AF_INET6, host)
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + octets + struct.pack("=I", scope)


def unpacked(packed: bytes) -> tuple[Any, ...] | bytes:
    """Return a struct sockaddr as the socket module does."""
    if len(packed) == _IPV4_SIZE:
        return socket.inet_ntop(socket.AF_INET, packed[4:8]), int.from_bytes(packed[2:4], "big")
    if len(packed) != _IPV6_SIZE:
        # The path of a unix socket.
        return packed
    port, flow, octets = _IPV6.unpack_from(packed, 2)
    return socket.inet_ntop(socket.AF_INET6, octets), port, flow, struct.unpack_from("=I", packed, 24)[0]


def packed_messages(messages: list[tuple[int, int, bytes]]) -> bytes:
    """Return ``messages`` as the kernel writes them (cmsg(3))."""
    packed = b""
    for level, kind, data in messages:
        message = struct.pack("@Nii", socket.CMSG_LEN(len(data)), level, kind) + data
        packed += message.ljust(socket.CMSG_SPACE(len(data)), b"\0")
    return packed


@attrs.frozen
class Message:
    """One message in the receive queue: a datagram, or several that were coalesced."""

    data: bytes
    packed: bytes
    """The source, as a struct sockaddr."""
    control: bytes = b""
    """The control messages, as struct cmsghdr."""
    flags: int = 0


def _deque(planned: Iterable[Message | int]) -> deque[Message | int]:
    return deque(planned)


@attrs.define
class PlannedSocket:
    """Receives what is in ``queue``: messages, and the errnos of calls that fail."""

    queue: deque[Message | int] = attrs.field(factory=tuple, converter=_deque)
    refusal: int | None = None
    """The errno of every recvmmsg(2), or None."""
    calls: list[str] = attrs.field(factory=list)
    closed: bool = False
    capabilities: Capabilities = COMPLETE

    def recvfrom(self, size: int) -> tuple[bytes, Any]:
        """Receive as ``socket.recvfrom`` does."""
        self.calls.append("recvfrom")
        message = self._next()
        return message.data[:size], unpacked(message.packed)

    def recvmsg(self, size: int, space: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """Receive as ``socket.recvmsg`` does."""
        self.calls.append("recvmsg")
        message = self._next()
        return message.data[:size], control_messages(message.control[:space]), message.flags, unpacked(message.packed)

    def recvmmsg(self, most: int, source_size: int, *, ancillary: bool) -> Batch:
        """Receive as ``SystemSocket.recvmmsg`` does."""
        self.calls.append("recvmmsg")
        if self.refusal is not None:
            raise OSError(self.refusal, os.strerror(self.refusal))
        messages = [self._next()]
        # An error ends the batch and is the result of the next call.
        while len(messages) < min(most, LARGEST_CALL) and self.queue and isinstance(self.queue[0], Message):
            messages.append(self._next())
        sources = b"".join(message.packed for message in messages)
        assert len(sources) == source_size * len(messages)
        payloads = [message.data for message in messages]
        control, flags = [message.control for message in messages], [message.flags for message in messages]
        if not ancillary or not (any(control) or any(flags)):
            return payloads, sources, None, None
        return payloads, sources, control, flags

    def _next(self) -> Message:
        message = self.queue.popleft() if self.queue else errno.EAGAIN
        if isinstance(message, Message):
            return message
        raise OSError(message, os.strerror(message))

    def close(self) -> None:
        """Close it."""
        self.closed = True

    send = sendto = sendmsg = disconnect = close
