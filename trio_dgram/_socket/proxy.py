"""Datagrams from proxies: their headers, and the proxy's port that reaches each client.

Rule 1: a datagram from a source in ``proxy_protocol`` must begin with a header; one from any other is all payload.
Rule 2: a datagram to a client is sent to the proxy that forwarded its datagrams, and to no other host.
Rule 3: within a session no header changes the client: the client itself could have written it.
Rule 4: what is remembered is bounded, since the network chooses clients and ports.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, Final, TypeAlias

import attrs
import trio

from .._codecs.families import is_unspecified
from .._codecs.proxy_header import V2_FIXED_SIZE, begins_like_header, line_size, malformed, parse_untrusted
from .._values.addresses import Address, ProxiedAddress, behind_proxy, new_tuple
from .._values.block_lists import blocker
from .._values.datagrams import Datagram, ProxyHeader
from .._values.errors import ProxyHeaderError, with_context
from .config import SocketConfig
from .interrupts import defer_interrupts
from .pending_errors import Report

_log = logging.getLogger("trio_dgram")

_MOST_CLIENTS: Final = 65_536
"""How many clients the transport address is remembered of."""
_MOST_SESSIONS: Final = 65_536
_SESSION_TIMEOUT: Final = 60.0
"""After how many seconds without a datagram a session ends."""
_REPORT_INTERVAL: Final = 1.0
"""The time between two reports of datagrams that were refused, in seconds."""
_MOST_HEADERS: Final = 16_384
"""How many parsed headers are cached."""
_LONGEST_CACHED: Final = 128
"""The size of the longest header that is cached, in bytes."""
_CACHED_SIZES: Final = {
    bytes([0x21, kind, 0, size]): V2_FIXED_SIZE + size
    for kind, smallest in ((0x11, 12), (0x12, 12), (0x21, 36), (0x22, 36))
    for size in range(smallest, _LONGEST_CACHED - V2_FIXED_SIZE + 1)
}
"""The sizes of version 2 headers of clients, by the bytes behind their signature."""

_ClientKey: TypeAlias = "tuple[Address, str]"
"""A client, and the host of its proxy."""


@attrs.define
class _Session:
    header: ProxyHeader
    last_received: float


@defer_interrupts
class ProxyDecoder:
    """Removes the headers of one socket's datagrams, and remembers where its clients are.

    Args:
      config: the options of the socket.
      is_proxy: whether a host is in ``proxy_protocol``.
      report: reports a refused datagram to the event channels.
    """

    __slots__ = (
        "_blocked",
        "_clients",
        "_config",
        "_headers",
        "_is_proxy",
        "_report",
        "_reported",
        "_sessions",
        "filtered",
        "headers",
        "refused",
    )

    def __init__(self, config: SocketConfig, is_proxy: Callable[[str], bool], report: Report) -> None:
        self.filtered = 0
        self.refused = 0
        self.headers = 0
        """The headers without a payload, which opened a session."""
        self._config = config
        self._is_proxy = is_proxy
        self._blocked = blocker(config.receive_block_list)
        self._report = report
        self._reported: float | None = None
        # The latest address of each client, with its transport address; the least recent client is the first.
        self._clients: OrderedDict[_ClientKey, ProxiedAddress] = OrderedDict()
        # By transport address; the least recent one is the first.
        self._sessions: OrderedDict[Address, _Session] = OrderedDict()
        # Most headers of one client are equal. To parse one costs several times as much as a lookup.
        self._headers: dict[bytes, ProxyHeader] = {}

    def decode(self, datagrams: Collection[Datagram]) -> list[Datagram]:
        """Return ``datagrams`` as their clients sent them, without those that are refused, filtered, or headers alone.

        The receive block list is applied to the transport addresses here; the caller applies it to the clients.
        """
        decoded: list[Datagram] = []
        append, is_proxy = decoded.append, self._is_proxy
        has_sessions, with_info = self._config.proxy_sessions, self._config.packet_info
        cached_size, cached_header, split = _CACHED_SIZES.get, self._headers.get, self._split
        known, refresh = self._clients.get, self._clients.move_to_end
        for datagram in self._unblocked(datagrams):
            data, transport, info = datagram
            host = transport[0]
            if not is_proxy(host):
                append(datagram)
                continue
            offset = 0 if has_sessions else cached_size(data[12:16], 0) or line_size(data)
            header = cached_header(data[:offset])
            if header is None:
                try:
                    header, offset = self._split_within_session(data, transport) if has_sessions else split(data)
                except ProxyHeaderError as error:
                    self._refuse(error, transport)
                    continue
                if has_sessions and offset and offset == len(data):
                    self.headers += 1
                    continue
            address: Address | None = transport
            if header.command == "proxy":
                key: Any = (header.source, host)
                client = known(key)
                if client is not None and client.proxy == transport:
                    refresh(key)
                else:
                    client = self._store(key, transport)
                address = client
            if address is None:
                self.filtered += 1
                continue
            if with_info and info is not None:
                info = attrs.evolve(info, proxy_header=header)
            append(new_tuple(Datagram, (data[offset:], address, info)))
        return decoded

    def _unblocked(self, datagrams: Collection[Datagram]) -> Collection[Datagram]:
        blocked = self._blocked
        if blocked is None:
            return datagrams
        kept = [datagram for datagram in datagrams if not blocked(datagram.address[0])]
        self.filtered += len(datagrams) - len(kept)
        return kept

    def transport_address(self, client: ProxiedAddress) -> Address:
        """Return the proxy's address from which the latest datagram of ``client`` arrived."""
        known = self._clients.get((client, client.proxy[0]))
        return (known or client).proxy

    def _store(self, key: _ClientKey, transport: Address) -> ProxiedAddress | None:
        """Store where a client is reached, and return its address; ``None`` if it must not be answered."""
        client, clients = key[0], self._clients
        if not client[1] or is_unspecified(client[0]):
            return None
        address = clients[key] = behind_proxy(client, transport)
        clients.move_to_end(key)
        if len(clients) > _MOST_CLIENTS:
            clients.popitem(last=False)
        return address

    def _split(self, data: bytes) -> tuple[ProxyHeader, int]:
        """Return the header that ``data`` begins with, and where the payload begins."""
        config = self._config
        header, end = parse_untrusted(data, versions=config.proxy_versions, stream_ok=config.proxy_stream_ok)
        if header.command == "proxy" and end <= _LONGEST_CACHED:
            if len(self._headers) >= _MOST_HEADERS:
                self._headers.clear()
            self._headers[data[:end]] = header
        return header, end

    # Sessions

    def _split_within_session(self, data: bytes, transport: Address) -> tuple[ProxyHeader, int]:
        """Do as :meth:`_split` does, for a source whose headers hold for the datagrams that follow them."""
        now = trio.current_time()
        session = self._sessions.get(transport)
        if session is None or now >= session.last_received + _SESSION_TIMEOUT:
            self._sessions.pop(transport, None)
            header, offset = self._split(data)
            self._open_session(transport, header, now)
            return header, offset
        session.last_received = now
        self._sessions.move_to_end(transport)
        offset = 0
        if begins_like_header(data):
            try:
                header, offset = self._split(data)
            except ProxyHeaderError:
                # No header: data of the client that begins like one.
                return session.header, 0
            if (header.command, header.source) != (session.header.command, session.header.source):
                # The client forges an address, or the proxy has given the port to another client. Either way it is
                # unknown whose the next datagram is.
                del self._sessions[transport]
                raise malformed("a header names another client within a session")
        return session.header, offset

    def _open_session(self, transport: Address, header: ProxyHeader, now: float) -> None:
        sessions = self._sessions
        sessions[transport] = _Session(header, now)
        oldest = next(iter(sessions))
        if len(sessions) > _MOST_SESSIONS or now >= sessions[oldest].last_received + _SESSION_TIMEOUT:
            del sessions[oldest]

    # Refusing

    def _refuse(self, error: ProxyHeaderError, transport: Address) -> None:
        """Count a datagram without a valid header, and report it unless one was reported within a second."""
        self.refused += 1
        now = trio.current_time()
        if self._reported is None or now >= self._reported + _REPORT_INTERVAL:
            self._reported = now
            self._report(with_context(error, "receive", transport), "receive", transport)


def create_decoder(config: SocketConfig, report: Report) -> ProxyDecoder | None:
    """Return the decoder of a socket with ``proxy_protocol``, ``None`` for any other socket."""
    is_proxy = blocker(config.proxy_protocol)
    if is_proxy is None:
        return None
    for network in config.proxy_protocol:
        if not network.prefixlen:
            _log.warning("proxy_protocol has %s: every host can forge the address of its datagrams", network)
    return ProxyDecoder(config, is_proxy, report)
