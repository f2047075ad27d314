"""recvmmsg(2): many datagrams in one system call, which the socket module lacks.

By ctypes: it nearly halves the cost of a received datagram where several are queued.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import threading
from typing import Final, Literal, TypeAlias

from .c_library import c_function, c_library

Batch: TypeAlias = tuple[list[bytes], bytes, list[bytes] | None, list[int] | None]
"""Datagrams as the kernel returns them: the payloads, the sources (struct sockaddr, one after the other) and, if any
of them has either, the ancillary data (struct cmsghdr, one after the other) and the flags of each."""

LARGEST_CALL: Final = 64
"""The most datagrams of one call: more of them do not lower the cost of one."""

LARGEST_PAYLOAD: Final = 65536
"""At least the size of any UDP payload, in bytes."""
_SOURCE_SIZE: Final = 28
"""The size of a source of either family, in bytes."""
ANCILLARY_SIZE: Final = 512
"""The size of the ancillary data of one datagram with every common option enabled, in bytes."""
_DONT_WAIT: Final = 0x40
"""MSG_DONTWAIT as a plain integer, by Linux's number."""

# struct mmsghdr: source and its size, iovec and count, ancillary data and size, flags; then the size received.
_MESSAGE: Final = struct.Struct("@PIPNPNi0PI0P")
_ANCILLARY_SIZE_AT: Final = struct.calcsize("@PIPNP0N")
_FLAGS_AT: Final = struct.calcsize("@PIPNPN")
_SIZE_AT: Final = struct.calcsize("@PIPNPNi0P")
# struct iovec: address and size.
_IOVEC: Final = struct.Struct("@PN")
_PAYLOADS: Final = range(0, LARGEST_CALL * LARGEST_PAYLOAD, LARGEST_PAYLOAD)
_ANCILLARY: Final = range(0, LARGEST_CALL * ANCILLARY_SIZE, ANCILLARY_SIZE)


def has_recvmmsg(descriptor: int) -> bool:
    """Whether the kernel has recvmmsg(2), tried on the socket ``descriptor`` without receiving anything."""
    recvmmsg = c_function("recvmmsg")
    return recvmmsg is not None and recvmmsg(descriptor, None, 0, _DONT_WAIT, None) == 0


class _Buffers:
    """The memory that one call writes to: 64 KiB per datagram, of which the kernel touches what it fills."""

    def __init__(self) -> None:
        # Private, or a forked child would write to the parent's memory.
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._payloads = mmap.mmap(-1, LARGEST_CALL * LARGEST_PAYLOAD, flags=private)
        self._sources = bytearray(LARGEST_CALL * _SOURCE_SIZE)
        self._source_view = memoryview(self._sources)
        # Slices of it are bytes; a slice of a bytearray would be copied once more.
        self._ancillary = mmap.mmap(-1, LARGEST_CALL * ANCILLARY_SIZE, flags=private)
        start = _address(self._payloads)
        self._iovecs = bytearray(b"".join(_IOVEC.pack(start + offset, LARGEST_PAYLOAD) for offset in _PAYLOADS))
        self._messages = bytearray(LARGEST_CALL * _MESSAGE.size)
        self._ancillary_sizes = self._column("L", _ANCILLARY_SIZE_AT)
        self._flags = self._column("i", _FLAGS_AT)
        self._sizes = self._column("I", _SIZE_AT)
        self._messages_at = _address(self._messages)
        self._templates: dict[tuple[int, bool], bytes] = {}
        self._recvmmsg = c_library().recvmmsg
        self._recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)

    def _column(self, kind: Literal["i", "I", "L"], offset: int) -> memoryview[int]:
        size = struct.calcsize(kind)
        return memoryview(self._messages).cast(kind)[offset // size :: _MESSAGE.size // size]

    def receive(self, descriptor: int, most: int, source_size: int, *, ancillary: bool) -> Batch:
        """Receive as :func:`receive_batch` does."""
        # The kernel overwrites the sizes of the buffers in the messages.
        template = self._templates.get((source_size, ancillary)) or self._template(source_size, ancillary=ancillary)
        self._messages[: len(template)] = template
        interrupted = ctypes.get_errno()
        count = self._recvmmsg(descriptor, self._messages_at, min(most, LARGEST_CALL), _DONT_WAIT, None)
        if count < 0:
            number = ctypes.get_errno()
            # A signal handler may have interrupted a caller that has yet to read the errno of its own call.
            ctypes.set_errno(interrupted)
            raise OSError(number, os.strerror(number))
        memory, sizes = self._payloads, self._sizes[:count].tolist()
        # zip() with strict=False would cost half as much as a datagram.
        payloads = [memory[start : start + size] for start, size in zip(_PAYLOADS, sizes)]  # noqa: B905
        sources = bytes(self._source_view[: count * source_size])
        if not ancillary:
            return payloads, sources, None, None
        ancillary_sizes, flags = self._ancillary_sizes[:count].tolist(), self._flags[:count].tolist()
        if not any(ancillary_sizes) and not any(flags):
            return payloads, sources, None, None
        memory = self._ancillary
        data = [memory[start : start + size] for start, size in zip(_ANCILLARY, ancillary_sizes)]  # noqa: B905
        return payloads, sources, data, flags

    def _template(self, source_size: int, *, ancillary: bool) -> bytes:
        sources, iovecs, control = _address(self._sources), _address(self._iovecs), _address(self._ancillary)
        messages = (
            (
                sources + index * source_size,
                source_size,
                iovecs + index * _IOVEC.size,
                1,
                *((control + index * ANCILLARY_SIZE, ANCILLARY_SIZE) if ancillary else (0, 0)),
            )
            for index in range(LARGEST_CALL)
        )
        template = self._templates[source_size, ancillary] = b"".join(
            _MESSAGE.pack(*message, 0, 0) for message in messages
        )
        return template


def _address(memory: bytearray | mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


class _Thread(threading.local):
    def __init__(self) -> None:
        self.idle: list[_Buffers] = []


_thread: Final = _Thread()


def receive_batch(descriptor: int, most: int, source_size: int, *, ancillary: bool) -> Batch:
    """Receive the queued datagrams without waiting: at most ``most`` of them, or ``LARGEST_CALL``.

    Args:
      descriptor: the socket.
      most: the largest number of datagrams.
      source_size: the size of an address of its family, in bytes.
      ancillary: whether to return ancillary data.

    Raises:
      OSError: the kernel's error if nothing was received, ``BlockingIOError`` if the queue is empty.
    """
    # A signal handler or finalizer may receive while these buffers are in use: it gets others.
    idle = _thread.idle
    buffers = idle.pop() if idle else _Buffers()
    try:
        return buffers.receive(descriptor, most, source_size, ancillary=ancillary)
    finally:
        idle.append(buffers)
