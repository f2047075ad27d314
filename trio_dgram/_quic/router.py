"""From datagrams to connections: the table of connection IDs of a server, and the start of connections.

All sockets of a server share the table, so a client may change its address, also to the other family.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Final

import trio

from .._services.log import cause_of
from .._services.sockets import is_reported_by_network
from .._services.worker_process import process
from .._socket.datagram_socket import DatagramSocket
from .._socket.interrupts import defer_interrupts, interruptibly
from .._values.datagrams import Datagram
from .answers import encode_refusal, encode_retry, encode_version_negotiation
from .closing import ClosingIds
from .configuration import Configuration, server_configuration
from .endpoint import Endpoint
from .engine import Engine
from .errors import CONNECTION_REFUSED, INVALID_TOKEN
from .limits import QuicLimits
from .listener import Listener
from .packets import ID_SIZE, SMALLEST_DATAGRAM, Header, destination_of_untrusted, parse_long_header_untrusted
from .paths import Path
from .session import Session
from .tokens import RetryTokens

# ruff: noqa: SLF001 -- members for the router are private, so that programs do not see them

_HIGHEST_INDEX: Final = 255


@defer_interrupts
class Router:
    """The connections of a server.

    Args:
      configuration: their settings.
      limits: the limits of each listener.
    """

    def __init__(self, configuration: Configuration, limits: QuicLimits) -> None:
        self.endpoint = Endpoint(self.receive, self._on_error)
        self.listeners: dict[DatagramSocket, Listener] = {}
        self._configuration = configuration
        self._engine_configuration: Any = server_configuration(configuration)
        self._limits = limits
        self._tokens = RetryTokens(process.secret)
        index = process.index
        self._id_prefix = b"" if index is None or index > _HIGHEST_INDEX else bytes([index])
        self._sessions: dict[bytes, Session] = {}
        self._ids: dict[Session, set[bytes]] = {}
        self._closing = ClosingIds()

    def receive(self, path: Path) -> None:
        """Process a datagram of a connection, or one that begins a connection."""
        data = path.latest.data
        connection_id = destination_of_untrusted(data)
        session = self._sessions.get(connection_id)
        if session is not None:
            session.receive(path)
            return
        answer = self._closing.answer(connection_id, len(data), trio.current_time())
        if answer is None:
            self._receive_unknown(self.listeners[path.socket], path)
        elif answer:
            self._answer(path, answer)

    def _answer(self, path: Path, data: bytes) -> None:
        self.endpoint.send_now(path.socket, path.latest.reply(data))

    # New connections

    def _receive_unknown(self, listener: Listener, path: Path) -> None:
        data = path.latest.data
        header = parse_long_header_untrusted(data)
        versions = self._engine_configuration.supported_versions
        # A smaller datagram gets no answer, so no answer is larger than its cause (no amplification).
        if header is None or len(data) < SMALLEST_DATAGRAM or not header.version:
            listener._count("ignored")
        elif header.version not in versions:
            # Version 0 is itself a version negotiation: two servers would answer each other endlessly.
            listener._count("negotiations")
            self._answer(path, encode_version_negotiation(header, versions))
        elif not header.is_initial or len(header.destination) < ID_SIZE:
            listener._count("ignored")
        elif not self._passes_filter(path.latest):
            listener._count("refused_by_filter")
        else:
            self._begin(listener, path, header)

    def _passes_filter(self, datagram: Datagram) -> bool:
        accept_filter = self._limits.accept_filter
        if accept_filter is None:
            return True
        try:
            return bool(interruptibly(accept_filter, datagram))
        except Exception as error:  # noqa: BLE001 -- it must not end the server
            self.endpoint.log.report(cause_of(error), "accept_filter failed", exc_info=error)
            return False

    def _begin(self, listener: Listener, path: Path, header: Header) -> None:
        """Begin a connection, or ask the client to prove its address first."""
        address = path.latest.address
        original_id = self._tokens.original_id_untrusted(header.token, address, header.destination)
        if original_id is None and self._needs_retry(listener):
            if header.token:
                listener._count("ignored")
                self._answer(path, encode_refusal(header, INVALID_TOKEN))
            else:
                listener._count("retries")
                own_id = (self._id_prefix + os.urandom(ID_SIZE))[:ID_SIZE]
                token = self._tokens.create(address, header.destination, own_id)
                self._answer(path, encode_retry(header, own_id, token))
        else:
            network = listener._admit(address)
            if network is None:
                self._answer(path, encode_refusal(header, CONNECTION_REFUSED))
            else:
                self._open(listener, path, header, original_id, network)

    def _needs_retry(self, listener: Listener) -> bool:
        retry = self._limits.retry
        return retry == "always" or (retry == "under_load" and listener._is_under_load)

    def _open(self, listener: Listener, path: Path, header: Header, original_id: bytes | None, network: str) -> None:
        engine = Engine(
            self._engine_configuration,
            max_streams=self._configuration.max_streams,
            id_prefix=self._id_prefix,
            original_id=original_id or header.destination,
            retry_id=None if original_id is None else header.destination,
            verify_client=self._configuration.verify_clients,
        )
        session = Session(engine, self._configuration, path, self.endpoint.log)
        self._ids[session] = set()
        for each in (header.destination, *engine.ids):
            self._on_id_issued(session, each)
        session.on_id_issued = self._on_id_issued
        session.on_id_retired = self._on_id_retired
        session.on_end = lambda ended: self._on_end(listener, ended)
        listener._add(session, network)
        self.endpoint.add(session)
        session.receive(path)
        if not engine.has_begun and session.closed is None:
            # No packet in the datagram was authentic, so it gets no answer.
            session.send_now = bool
            session.fail(CONNECTION_REFUSED, "no authentic packet")

    # Connection IDs

    def _on_id_issued(self, session: Session, connection_id: bytes) -> None:
        self._sessions[connection_id] = session
        self._ids[session].add(connection_id)

    def _on_id_retired(self, session: Session, connection_id: bytes) -> None:
        # A peer can guess the number of an ID, and retire it before the frame that issues it was sent.
        self._sessions.pop(connection_id, None)
        self._ids[session].discard(connection_id)

    def _on_end(self, listener: Listener, session: Session) -> None:
        ids = self._ids.pop(session)
        for each in ids:
            del self._sessions[each]
        expires_at = session.engine.get_timer()
        if expires_at is not None and session.engine.has_begun:
            self._closing.add(ids, session.farewell, expires_at)
        if listener._on_end(session) and session.closed is not None:
            closed = session.closed
            reason = closed.reason or f"code {closed.code:#x}"
            self.endpoint.log.report(
                # The peer chooses its code, and would get a line for each.
                ("handshake", None if closed.remote else closed.code),
                "the QUIC handshake of %s failed: %s",
                session.name,
                reason,
                level=logging.WARNING,
            )

    def _on_error(self, error: OSError) -> None:
        if is_reported_by_network(error):
            return
        self.endpoint.log.report(cause_of(error), "the QUIC server cannot receive: %s", error)
        for listener in self.listeners.values():
            listener._fail(error)
