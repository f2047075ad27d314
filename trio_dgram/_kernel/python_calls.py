"""The hot calls in pure Python.

Rule 1: after a burst the next datagrams are received by one call for many, otherwise by one call each.
Rule 2: ancillary data are requested only for PacketInfo, or where the kernel may have coalesced datagrams.
Rule 3: a datagram is counted by the call that took it from the kernel, also if that call raises.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, Final

import attrs

from .._codecs.ancillary import UDP_SEGMENT, ControlMessage, control_messages, decode_packet_info, segment_size
from .._codecs.families import UDP4, Family, SocketAddress
from .._values.addresses import ReceivedAddress, ReceivedIPv4Address, new_tuple
from .._values.datagrams import Datagram, PacketInfo
from .capabilities import capabilities_of
from .hot_calls import ReceiveCounts
from .local_address_cache import Key, cached_local_info, cached_local_infos, local_info
from .recvmmsg import ANCILLARY_SIZE, LARGEST_CALL, LARGEST_PAYLOAD
from .source_cache import SourceCache
from .unix_paths import close_descriptors

_LARGEST_UNIX_PAYLOAD: Final = 1 << 19
"""More than Linux's default send buffer admits, in bytes."""
# Plain integers: an operator of the socket module's flags costs as much as a datagram.
_TRUNCATED: Final = int(socket.MSG_TRUNC)
_ANCILLARY_TRUNCATED: Final = int(socket.MSG_CTRUNC)
_IPPROTO_UDP: Final = socket.IPPROTO_UDP
_pack_size: Final = struct.Struct("=H").pack

REFUSED: Final = frozenset({errno.ENOSYS, errno.EPERM})
"""The errnos of a kernel without recvmmsg(2), and of a sandbox that forbids it. ENOPROTOOPT and EOPNOTSUPP can be
pending ICMP errors."""

_MOST_FORMERS: Final = 8
"""How many former sockets keep their queued datagrams: each has a descriptor."""

_BURST: Final = 8
"""From how many datagrams on one call for many is cheaper than one call each."""


def largest_payload(family: Family) -> int:
    """Return the size of a buffer that any datagram of ``family`` fits in, in bytes."""
    return LARGEST_PAYLOAD if family.is_internet else _LARGEST_UNIX_PAYLOAD


class PythonCalls:
    """The hot calls of one socket, by the socket module and ctypes."""

    __slots__ = (
        "_burst",
        "_family",
        "_formers",
        "_is_own",
        "_largest",
        "_own_port",
        "_packed_port",
        "_per_message",
        "_recvfrom",
        "_recvmmsg",
        "_recvmsg",
        "_sendmsg",
        "_socket",
        "_sources",
        "coalescing",
        "counts",
        "send",
        "sendto",
        "with_info",
        "with_local_address",
    )

    def __init__(self, sock: Any, family: Family) -> None:
        self.counts: ReceiveCounts = ReceiveCounts()
        self.with_info: bool = False
        self.with_local_address: bool = False
        self.coalescing: bool = False
        self.send: Any = sock.send
        self.sendto: Any = sock.sendto
        # Once it is needed: a bound method takes 72 bytes of each idle socket.
        self._recvmsg: Any = None
        self._sendmsg: Any = None
        self._socket = sock
        self._family = family
        self._largest = largest_payload(family)
        self._recvfrom = sock.recvfrom
        self._recvmmsg: Any = getattr(sock, "recvmmsg", None) if capabilities_of(sock).batches else None
        # The size of the last burst, and how many datagrams a message of it held.
        self._burst = 0
        self._per_message = 1
        self._sources = SourceCache(family)
        self._formers: list[PythonCalls] = []
        self._own_port = 0
        self._packed_port = b""
        self._is_own: Callable[[str], bool] | None = None

    def filter_own(self, port: int, is_own: Callable[[str], bool] | None) -> None:
        """Leave out datagrams whose source is the socket itself."""
        self._is_own = is_own
        self._own_port = port if is_own else 0
        self._packed_port = port.to_bytes(2, "big")

    # Receiving

    def receive(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        """Append about ``limit`` datagrams to ``into``; raise the kernel's error where no more can be had."""
        while self._formers:
            if self._receive_former(self._formers[0], into, limit):
                return
        before = len(into)
        try:
            if self.with_info or not self._family.is_internet:
                self._receive_messages(into, limit)
            elif self._recvmmsg is not None and limit >= _BURST and self._burst >= _BURST:
                self._receive_batches(into, limit)
            else:
                self._receive_one_by_one(into, limit)
        finally:
            appended = len(into) - before
            # An empty queue does not predict the next burst.
            self._burst = appended or self._burst
            self.counts.received += appended

    def _receive_former(self, former: PythonCalls, into: deque[Datagram] | list[Datagram], limit: int) -> bool:
        """Receive from the former socket and return whether it may have more; close it otherwise."""
        former.with_info, former.with_local_address = self.with_info, self.with_local_address
        for _ in range(2):
            try:
                former.receive(into, limit)
            except BlockingIOError:
                break
            except OSError:
                # The last error of the former peer: the kernel reports it before the datagrams that are queued.
                continue
            return True
        self._formers.pop(0)._socket.close()  # noqa: SLF001 -- of the same class
        return False

    def _receive_one_by_one(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        if self.with_local_address:
            self._receive_with_local_address(into, limit)
        elif self.coalescing:
            self._receive_messages(into, limit)
        else:
            self._receive_singles(into, limit)

    def _receive_singles(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        recvfrom, append = self._recvfrom, into.append
        is_udp4, own_port = self._family is UDP4, self._own_port
        for _ in range(limit):
            data, source = recvfrom(LARGEST_PAYLOAD)
            port = source[1]
            if is_udp4 and port and port != own_port and source[0] != "0.0.0.0":
                append(new_tuple(Datagram, (data, new_tuple(ReceivedIPv4Address, source), None)))
                continue
            address = self._permitted(self._family.source(source))
            if address is None:
                self._filter(1)
            else:
                append(new_tuple(Datagram, (data, address, None)))

    def _receive_batches(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        size, with_local_address = self._family.packed_size, self.with_local_address
        infos: Any = repeat(None)
        while limit > 0:
            before = len(into)
            most = max(1, limit // self._per_message)
            try:
                payloads, packed, control, flags = self._recvmmsg(
                    most, size, ancillary=self.coalescing or with_local_address
                )
            except OSError as error:
                if error.errno in REFUSED:
                    # A sandbox may refuse on one socket what it allowed on another.
                    self._recvmmsg = None
                    self._receive_one_by_one(into, limit)
                    return
                raise
            addresses = self._sources.addresses(packed)
            if self._own_port and self._packed_port in packed:
                addresses = list(map(self._permitted, addresses))
            single = control is None
            if with_local_address:
                infos = cached_local_infos(control or [b""] * len(payloads))
                single = all(infos) and not any(flags or ())
            if single and all(addresses):
                # One loop in C, since it runs per datagram.
                into.extend(map(new_tuple, repeat(Datagram), zip(payloads, addresses, infos)))  # noqa: B905
            else:
                messages = zip(payloads, addresses, infos, control or repeat(b""), flags or repeat(0), strict=False)
                self._unpack_batch(into, messages)
            self._per_message = max(1, (len(into) - before) // len(payloads))
            if len(payloads) < min(most, LARGEST_CALL):
                return
            limit -= max(len(payloads), len(into) - before)

    def _unpack_batch(
        self,
        into: deque[Datagram] | list[Datagram],
        messages: Iterable[tuple[bytes, ReceivedAddress | None, PacketInfo | None, bytes, int]],
    ) -> None:
        for data, address, info, control, flags in messages:
            if info is not None and address is not None and not flags:
                into.append(new_tuple(Datagram, (data, address, info)))
            else:
                self._unpack(into, data, control_messages(control), control, flags, address)

    def _receive_with_local_address(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        """Receive one by one, with the local address of each."""
        recvmsg, append = self._recvmsg or self._find_recvmsg(), into.append
        is_udp4, own_port = self._family is UDP4, self._own_port
        while limit > 0:
            data, control, flags, source = recvmsg(LARGEST_PAYLOAD, ANCILLARY_SIZE)
            key = tuple(control)
            info = cached_local_info(key)
            port = source[1]
            if info is not None and not flags:
                limit -= 1
                if is_udp4 and port and port != own_port and source[0] != "0.0.0.0":
                    append(new_tuple(Datagram, (data, new_tuple(ReceivedIPv4Address, source), info)))
                    continue
                address = self._permitted(self._family.source(source))
                if address is None:
                    self._filter(1)
                else:
                    append(new_tuple(Datagram, (data, address, info)))
                continue
            before = len(into)
            self._unpack(into, data, control, key, flags, self._permitted(self._family.source(source)))
            limit -= max(1, len(into) - before)

    def _receive_messages(self, into: deque[Datagram] | list[Datagram], limit: int) -> None:
        """Receive with ancillary data."""
        recvmsg, size = self._recvmsg or self._find_recvmsg(), self._largest
        # Without space for control messages the kernel does not install descriptors that a sender passes (unix(7)).
        space = ANCILLARY_SIZE if self.with_info or self._family.is_internet else 0
        append, plain = into.append, not self.with_info
        while limit > 0:
            data, control, flags, source = recvmsg(size, space)
            address = self._permitted(self._family.source(source))
            if plain and not control and not flags and address is not None:
                append(new_tuple(Datagram, (data, address, None)))
                limit -= 1
            else:
                before = len(into)
                self._unpack(into, data, control, (), flags, address)
                limit -= max(1, len(into) - before)

    def _find_recvmsg(self) -> Any:
        self._recvmsg = getattr(self._socket, "recvmsg", None)
        # Its own method, kept, would leave a closed socket to the garbage collector.
        return self._recvmsg or self._recvmsg_without_control

    def _recvmsg_without_control(self, size: int, _space: int) -> tuple[bytes, list[ControlMessage], int, Any]:
        """Receive where the system has no recvmsg(2)."""
        data, source = self._recvfrom(size)
        return data, [], 0, source

    def _unpack(
        self,
        into: deque[Datagram] | list[Datagram],
        data: bytes,
        control: list[ControlMessage],
        key: Key,
        flags: int,
        address: ReceivedAddress | None,
    ) -> None:
        """Append the datagrams in ``data``: one, or several that the kernel coalesced.

        ``key`` is ``control`` as the cache of local addresses takes it.
        """
        if not self._family.is_internet:
            close_descriptors(control)
        truncated = bool(flags & _TRUNCATED)
        self.counts.truncated += truncated
        segment = segment_size(control) if self.coalescing else 0
        if self.coalescing and not segment and flags & _ANCILLARY_TRUNCATED:
            # The segment size was cut off, so the boundaries of the datagrams are unknown.
            self.counts.unsplit_batches += 1
            self.counts.received += 1
            return
        # An empty datagram counts as one.
        starts = range(0, len(data) or 1, segment) if segment else ()
        segments = [data[start : start + segment] for start in starts] or [data]
        if address is None:
            self._filter(len(segments))
            return
        if segment:
            self.counts.coalesced_receives += 1
            self.counts.coalesced_datagrams += len(segments)
        info = None
        if self.with_info:
            info = decode_packet_info(control, truncated=truncated)
        elif self.with_local_address:
            info = local_info(control, key)
            if truncated:
                info = attrs.evolve(info, truncated=True)
        into.extend([new_tuple(Datagram, (segment, address, info)) for segment in segments])

    def _permitted(self, address: ReceivedAddress | None) -> ReceivedAddress | None:
        """Return ``address`` unless it is the socket's own."""
        if (
            address is not None
            and self._is_own is not None
            and address[1] == self._own_port
            and self._is_own(address[0])
        ):
            return None
        return address

    def _filter(self, count: int) -> None:
        self.counts.received += count
        self.counts.filtered += count

    @property
    def has_former(self) -> bool:
        """Whether a former socket may still have datagrams queued."""
        return bool(self._formers)

    def take_over(self, former: Any) -> None:
        """Receive first what is queued in the socket ``former``, then close it."""
        calls = PythonCalls(former, self._family)
        calls.counts, calls.coalescing = self.counts, self.coalescing
        calls.filter_own(self._own_port, self._is_own)
        self._formers.append(calls)
        if len(self._formers) > _MOST_FORMERS:
            self._discard_oldest_former()

    def _discard_oldest_former(self) -> None:
        # The program connects and disconnects without receiving. Nothing more arrives there, so this ends.
        discarded: list[Datagram] = []
        while self._receive_former(self._formers[0], discarded, LARGEST_CALL):
            self.counts.discarded += len(discarded)
            discarded.clear()
        self.counts.discarded += len(discarded)

    def close(self) -> None:
        """Close the socket of :meth:`take_over`."""
        while self._formers:
            self._formers.pop(0)._socket.close()  # noqa: SLF001 -- of the same class

    # Sending

    @property
    def sendmsg(self) -> Any:
        """Sends one datagram with control messages."""
        # An attribute access per datagram costs a tenth of sending it: the socket delegates it.
        if self._sendmsg is None:
            self._sendmsg = self._socket.sendmsg
        return self._sendmsg

    def send_batch(
        self, payloads: Sequence[bytes], sockaddrs: Sequence[SocketAddress | None]
    ) -> tuple[int, OSError | None]:
        """Send datagrams in order, each to its own address or to the peer, until the kernel refuses one."""
        sent = 0
        send, sendto = self.send, self.sendto
        try:
            for payload, sockaddr in zip(payloads, sockaddrs, strict=True):
                if sockaddr is None:
                    send(payload)
                else:
                    sendto(payload, sockaddr)
                sent += 1
        except OSError as error:
            return sent, error
        return sent, None

    def send_segments(
        self, payload: bytes, size: int, ancillary: Sequence[ControlMessage], sockaddr: SocketAddress | None
    ) -> object:
        """Send datagrams of ``size`` bytes each, the last one perhaps shorter, by one call."""
        segment = (_IPPROTO_UDP, UDP_SEGMENT, _pack_size(size))
        return self.sendmsg([payload], [segment, *ancillary], 0, sockaddr)

    def disconnect(self) -> None:
        """Dissolve the association with the peer."""
        self._socket.disconnect()
