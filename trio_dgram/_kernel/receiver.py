"""Reading a descriptor without waiting, and the counts that are kept where datagrams come in.

Rule 1: where several have come at a time, the next ones are read in one call; where one has, in a call of its own.
Rule 2: ancillary data are asked for where they are wanted, or where the kernel may have joined datagrams.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from contextlib import suppress
from itertools import repeat
from typing import Any, Final

from .._codecs.ancillary import UDP_GRO, ControlMessage, control_messages, decode_packet_info, segment_size
from .._codecs.families import UDP4, Family
from .._values.addresses import ReceivedAddress, ReceivedIPv4Address, new_tuple
from .._values.datagrams import Datagram
from .awaited import KernelSocket
from .recvmmsg import LARGEST_CALL, PAYLOAD_SPACE, SEGMENT_SIZE_SPACE
from .source_cache import Senders
from .system_socket import capabilities_of
from .unix_paths import close_descriptors

ANCILLARY_SPACE: Final = 512
"""Room for all that can be asked for, in bytes."""
_LARGEST_UNIX: Final = 1 << 19
"""More than the send buffers that Linux gives by default let through, in bytes."""
# As plain integers: the operators of what the socket module has cost as much as receiving a datagram.
_TRUNCATED: Final = int(socket.MSG_TRUNC)
_ANCILLARY_TRUNCATED: Final = int(socket.MSG_CTRUNC)

_SEVERAL: Final = 8
"""From how many datagrams on one call for all is cheaper than one for each."""
_NO_SUCH_CALL: Final = frozenset({errno.ENOSYS, errno.EPERM})
"""What a kernel says that lacks a call, or a sandbox that forbids it."""


class Receiver:
    """The receiving half of a descriptor."""

    __slots__ = (
        "_burst",
        "_family",
        "_joined",
        "_recvfrom",
        "_recvmmsg",
        "_senders",
        "_socket",
        "coalesced_datagrams",
        "coalesced_receives",
        "coalescing",
        "filtered",
        "informs",
        "may_coalesce",
        "received",
        "truncated",
    )

    def __init__(self, sock: KernelSocket, family: Family) -> None:
        self.received: int = 0
        self.filtered: int = 0
        self.truncated: int = 0
        self.coalesced_receives: int = 0
        self.coalesced_datagrams: int = 0
        self.informs: bool = False
        """Whether what the kernel tells of each datagram is handed out."""
        self.may_coalesce: bool = False
        """Whether :meth:`coalesce` does what it says."""
        self.coalescing: bool = False
        """Whether the kernel may have joined datagrams."""
        self._socket = sock
        self._family = family
        self._recvfrom = sock.recvfrom
        self._recvmmsg: Any = getattr(sock, "recvmmsg", None) if capabilities_of(sock).batches else None
        # How many datagrams came at a time when some last did, and how many of them came joined.
        self._burst = 0
        self._joined = 1
        self._senders = Senders(family)

    def coalesce(self) -> None:
        """Let the kernel hand over many datagrams of one sender at once from now on, if it can.

        Not from the beginning: it makes reading them one at a time slower, and what the kernel drops then is a
        batch. There is no way back, since batches may be queued.
        """
        if self.may_coalesce:
            self.may_coalesce = False
            with suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
                self.coalescing = True

    def receive(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        """Append what has come in to ``into``, about ``limit`` datagrams of it.

        It raises what the kernel says when nothing more is to be had: ``BlockingIOError`` where nothing is left. What
        came before that has been appended.
        """
        before = len(into)
        try:
            if self.informs or not self._family.is_internet:
                self._receive_messages(into, limit)
            elif self._recvmmsg is not None and limit >= _SEVERAL and self._burst >= _SEVERAL:
                self._receive_batches(into, limit)
            elif self.coalescing:
                self._receive_messages(into, limit)
            else:
                self._receive_singles(into, limit)
        finally:
            came = len(into) - before
            # To find nothing says nothing about what comes next.
            self._burst = came or self._burst
            self.received += came

    def take(self, into: deque[Datagram], data: bytes, source: Any) -> None:
        """Append one datagram that was awaited."""
        address = self._family.received_address(source)
        if address is None:
            self._turn_away(1)
        else:
            self.received += 1
            into.append(Datagram(data, address))

    @property
    def largest(self) -> int:
        """How many bytes of a datagram are to be asked for, so that all of it comes."""
        return PAYLOAD_SPACE if self._family.is_internet else _LARGEST_UNIX

    def _receive_singles(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        recvfrom = self._recvfrom
        append = into.append
        is_udp4 = self._family is UDP4
        received_address = self._family.received_address
        for _ in range(limit):
            data, source = recvfrom(PAYLOAD_SPACE)
            if is_udp4 and source[1]:
                address: ReceivedAddress | None = new_tuple(ReceivedIPv4Address, source)
            else:
                address = received_address(source)
                if address is None:
                    self._turn_away(1)
                    continue
            append(new_tuple(Datagram, (data, address, None)))

    def _receive_batches(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        size = self._family.packed_size
        while limit > 0:
            before = len(into)
            most = max(1, limit // self._joined)
            try:
                payloads, sources, told = self._recvmmsg(most, size, ancillary=self.coalescing)
            except OSError as error:
                if error.errno in _NO_SUCH_CALL:
                    # Asked for one by one from now on.
                    self._recvmmsg = None
                    return
                raise
            addresses = self._senders.addresses(sources)
            if told is None and all(addresses):
                # Gone through in C, since it is done for each datagram.
                into.extend(map(new_tuple, repeat(Datagram), zip(payloads, addresses, repeat(None))))
            else:
                for payload, address, (data, flags) in zip(payloads, addresses, told or repeat((b"", 0)), strict=False):
                    self._unpack(into, payload, control_messages(data), flags, address)
            self._joined = max(1, (len(into) - before) // len(payloads))
            if len(payloads) < min(most, LARGEST_CALL):
                return
            limit -= max(len(payloads), len(into) - before)

    def _receive_messages(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        """Receive with what the kernel tells beside the payload, or in it."""
        recvmsg = self._socket.recvmsg
        size = self.largest
        # Descriptors that somebody sends (unix(7)) are not even taken where there is no room for them.
        space = ANCILLARY_SPACE if self.informs else SEGMENT_SIZE_SPACE if self._family.is_internet else 0
        append, informs, is_udp4 = into.append, self.informs, self._family is UDP4
        received_address = self._family.received_address
        while limit > 0:
            data, ancillary, flags, source = recvmsg(size, space)
            if is_udp4 and source[1]:
                address: ReceivedAddress | None = new_tuple(ReceivedIPv4Address, source)
            else:
                address = received_address(source)
            if not ancillary and not flags and not informs and address is not None:
                # One datagram alone, and nothing to be told of it.
                append(new_tuple(Datagram, (data, address, None)))
                limit -= 1
            else:
                before = len(into)
                self._unpack(into, data, ancillary, flags, address)
                limit -= max(1, len(into) - before)

    def _unpack(
        self,
        into: deque[Datagram] | list[Datagram],
        data: bytes,
        ancillary: list[ControlMessage],
        flags: int,
        address: ReceivedAddress | None,
    ) -> None:
        """Append what is in ``data``, one datagram or many that the kernel has joined, by what it tells beside."""
        if not self._family.is_internet:
            close_descriptors(ancillary)
        truncated = bool(flags & _TRUNCATED)
        self.truncated += truncated
        if self.coalescing and flags & _ANCILLARY_TRUNCATED:
            # Without the segment size, where one datagram ends and the next begins cannot be told.
            self.truncated += not truncated
            self.received += 1
            return
        info = decode_packet_info(ancillary, truncated=truncated) if self.informs else None
        segment = segment_size(ancillary) if self.coalescing else 0
        segments = [data[start : start + segment] for start in range(0, len(data), segment)] if segment else [data]
        if address is None:
            self._turn_away(len(segments))
            return
        if segment:
            self.coalesced_receives += 1
            self.coalesced_datagrams += len(segments)
        into.extend([new_tuple(Datagram, (segment, address, info)) for segment in segments])

    def _turn_away(self, count: int) -> None:
        self.received += count
        self.filtered += count
