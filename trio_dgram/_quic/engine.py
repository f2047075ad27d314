"""The engine of one connection: aioquic's state machine, without sockets and without a clock.

Besides this module only ``answers`` and ``certificates`` import aioquic. Its connection does two things that a library
with backpressure cannot accept, and that no public API changes, so a subclass does:

1. It doubles the limits of flow control as data arrives, so a peer could fill the memory. Here they follow the bytes
   that the application has consumed.
2. It draws connection IDs at random. Here the first byte names the worker process.

The subclass touches private names. :func:`check_aioquic` checks that all of them exist, and :meth:`Engine.violation`
checks after each flight that aioquic keeps to these rules, so that a change in aioquic ends connections with an error
instead of silently removing the limits.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final, Protocol, TextIO

import aioquic
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionState
from aioquic.quic.logger import QuicFileLogger
from aioquic.quic.packet import QuicFrameType, QuicProtocolVersion
from aioquic.quic.packet_builder import PACKET_NUMBER_SEND_SIZE, QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import Context

from .certificates import ClientVerification
from .errors import CRYPTO_ERROR, NO_ERROR, Closed
from .packets import ID_SIZE

Address = tuple[str, int]
"""The peer's address as aioquic compares it."""

VERSIONS: Final = {1: int(QuicProtocolVersion.VERSION_1), 2: int(QuicProtocolVersion.VERSION_2)}
"""The numbers of the versions on the wire (RFC 9000, RFC 9369)."""

_DATAGRAM_OVERHEAD: Final = 1 + 20 + PACKET_NUMBER_SEND_SIZE + 16 + 3
"""Short header with the longest connection ID, AEAD tag, type and length of the frame (RFC 9000, 17.3; RFC 9221, 4)."""

_IDLE: Final = "Idle timeout"
"""aioquic's reason phrase for a connection that has timed out."""

_METHODS: Final = ("_initialize", "_replenish_connection_ids", "_write_connection_limits", "_write_stream_limits")
_ATTRIBUTES: Final = (
    "_close_event",
    "_configuration",
    "_datagrams_pending",
    "_host_cids",
    "_local_initial_source_connection_id",
    "_local_max_data",
    "_local_max_streams_bidi",
    "_local_max_streams_uni",
    "_logger",
    "_loss",
    "_max_datagram_size",
    "_network_paths",
    "_quic_logger",
    "_remote_max_datagram_frame_size",
    "_remote_max_streams_bidi",
    "_remote_max_streams_uni",
    "_state",
    "_streams",
    "host_cid",
)
_OF_PARTS: Final = {
    "_local_max_data": ("sent", "used", "value"),
    "_loss": ("_logger", "_on_packets_lost", "_rtt_smoothed", "congestion_window"),
}
_OF_TLS: Final = ("_peer_certificate", "_peer_certificate_chain", "_request_client_certificate")


class EngineEvents(Protocol):
    """The events of a connection."""

    def handshake_completed(self) -> None:
        """The handshake is done."""

    def stream_received(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """The next bytes of a stream have arrived."""

    def stream_reset(self, stream_id: int, code: int) -> None:
        """The peer will send no more of a stream, and its missing bytes are lost."""

    def stream_stopped(self, stream_id: int, code: int) -> None:
        """The peer has stopped a stream; its sending side has been reset."""

    def datagram_received(self, data: bytes) -> None:
        """A DATAGRAM frame has arrived."""

    def ping_acknowledged(self, uid: int) -> None:
        """A ping has been answered."""

    def id_issued(self, connection_id: bytes) -> None:
        """The peer may use a connection ID from now on."""

    def id_retired(self, connection_id: bytes) -> None:
        """The peer does not use a connection ID any more."""


@lru_cache(maxsize=1)
def check_aioquic() -> None:
    """Raise ``ImportError`` if this release of aioquic lacks names that the engine uses."""
    certificate: Any = object()
    client = QuicConnection(configuration=QuicConfiguration())
    server = QuicConnection(
        configuration=QuicConfiguration(is_client=False, certificate=certificate, private_key=certificate),
        original_destination_connection_id=bytes(ID_SIZE),
    )
    for connection in (client, server):
        missing = _missing(connection, (*_METHODS, *_ATTRIBUTES))
        for owner, names in _OF_PARTS.items():
            missing += _missing(getattr(connection, owner, None), names, f"{owner}.")
        missing += _missing(Context(is_client=False), _OF_TLS, "tls.")
        if missing:
            raise ImportError(
                f"aioquic {aioquic.__version__} has no {', '.join(missing)}, which trio_dgram.quic uses: "
                'install another one, "aioquic>=1.7,<2"'
            )


def _missing(part: object, names: Iterable[str], prefix: str = "") -> list[str]:
    return [prefix + name for name in names if not hasattr(part, name)]


class _DebugLog(logging.LoggerAdapter[Any]):
    """Logs at level DEBUG what aioquic logs at higher levels: peers cause it, at any rate."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        super().log(min(level, logging.DEBUG), msg, *args, **kwargs)


class Engine(QuicConnection):
    """One connection. It has the methods of aioquic's, with the time as an argument, and those here.

    Args:
      configuration: aioquic's configuration.
      max_streams: the most two-way and one-way streams that the peer may have open.
      id_prefix: the first bytes of our connection IDs.
      original_id: on a server, the connection ID that the client has chosen.
      retry_id: on a server, the one of our Retry packet, if the client has returned its token.
      verify_client: on a server, whether to require a certificate of the client.
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        *,
        max_streams: tuple[int, int],
        id_prefix: bytes = b"",
        original_id: bytes | None = None,
        retry_id: bytes | None = None,
        verify_client: bool = False,
    ) -> None:
        check_aioquic()
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_id,
            retry_source_connection_id=retry_id,
        )
        self._logger = self._loss._logger = _DebugLog(self._logger)  # type: ignore[assignment]  # noqa: SLF001
        self.lost: int = 0
        """The number of lost packets."""
        self._verification = ClientVerification(configuration) if verify_client else None
        self._closed_by_peer = False
        self._id_prefix = id_prefix
        self._window, self._stream_window = configuration.max_data, configuration.max_stream_data
        # The released bytes of the peer, which are no longer stored: of all streams, and of each.
        self._released = 0
        self._consumed: dict[int, int] = {}
        self._abandoned: dict[int, QuicStream] = {}
        # The queued bytes of each stream, in total.
        self._written: dict[int, int] = {}
        # The most two-way and one-way streams that the peer may open in total.
        self._places = list(max_streams)
        self._restore_places()
        self._local_max_streams_bidi.sent, self._local_max_streams_uni.sent = max_streams
        first = self._host_cids[0]
        self.host_cid: bytes = self._chosen(first.cid)
        first.cid = self._local_initial_source_connection_id = self.host_cid
        self._on_lost: Callable[..., None] = self._loss._on_packets_lost  # noqa: SLF001 -- there is no public count
        self._loss._on_packets_lost = self._count_lost  # type: ignore[method-assign]  # noqa: SLF001

    def _count_lost(self, *, packets: Any, **options: Any) -> None:
        packets = list(packets)
        self.lost += len(packets)
        self._on_lost(packets=packets, **options)

    # Overridden methods of aioquic

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self._verification is not None:
            self._verification.begin(self.tls)

    def receive_datagram(self, data: bytes, addr: Address, now: float) -> None:
        super().receive_datagram(data, addr, now)
        self._closed_by_peer = self._closed_by_peer or self._state is QuicConnectionState.DRAINING
        self._release_abandoned()

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        # aioquic raises IndexError before the first packet of a server.
        if not self._network_paths:
            return []
        datagrams = super().datagrams_to_send(now)
        self._restore_places()
        return datagrams

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:  # noqa: FBT001, FBT002 -- aioquic's
        super().send_stream_data(stream_id, data, end_stream)
        self._written[stream_id] = self._written.get(stream_id, 0) + len(data)

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        # aioquic raises ValueError after the end of a stream.
        if stream_id in self._streams:
            super().stop_stream(stream_id, error_code)

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        for each in self._host_cids:
            if not each.was_sent:
                each.cid = self._chosen(each.cid)

    def _chosen(self, connection_id: bytes) -> bytes:
        return self._id_prefix + connection_id[len(self._id_prefix) :]

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        self._restore_places()
        # aioquic doubles a limit of data that is half used, and keeps back places while the peer has more of them left:
        # report no data as used, and all places.
        streams = (self._local_max_streams_bidi, self._local_max_streams_uni)
        limits = (self._local_max_data, *streams)
        used = [limit.used for limit in limits]
        self._local_max_data.used = 0
        for limit in streams:
            limit.used = limit.value
        try:
            super()._write_connection_limits(builder, space)
        finally:
            for limit, count in zip(limits, used, strict=True):
                limit.used = count

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        if stream.max_stream_data_local_sent == stream.max_stream_data_local:
            return
        receiver = stream.receiver
        offset, receiver.highest_offset = receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            receiver.highest_offset = offset

    def _restore_places(self) -> None:
        """Undo aioquic's additions to the limits for streams that are over."""
        self._local_max_streams_bidi.value, self._local_max_streams_uni.value = self._places

    # The connection

    def drain(self, handler: EngineEvents) -> None:
        """Report the events that have happened, in order."""
        while (event := self.next_event()) is not None:
            if isinstance(event, events.HandshakeCompleted) and self._refuses_client():
                return
            if isinstance(event, events.StreamDataReceived):
                self._consumed.setdefault(event.stream_id, 0)
            report = _REPORTS.get(type(event))
            if report is not None:
                report(handler, event)

    def _refuses_client(self) -> bool:
        """End the connection if the certificate of the client is refused; return whether it is."""
        alert = None if self._verification is None else self._verification.failure(self.tls)
        if alert is None:
            return False
        self.end(CRYPTO_ERROR + alert.description, str(alert), application=False)
        return True

    def end(self, code: int, reason: str = "", *, application: bool) -> None:
        """Close the connection: the next flight is the last."""
        self.close(code, None if application else QuicFrameType.PADDING, reason)

    def finish(self) -> None:
        """Write the qlog, which aioquic does only after the draining period."""
        log, trace = self._configuration.quic_logger, self._quic_logger
        if log is not None and trace is not None:
            log.end_trace(trace)
            self._quic_logger = None

    @property
    def closed(self) -> Closed | None:
        """The reason of the connection's end, as soon as it is known."""
        event = self._close_event
        if event is None:
            return None
        if event.reason_phrase == _IDLE and event.frame_type == QuicFrameType.PADDING:
            return Closed(code=NO_ERROR, reason="idle timeout", remote=False, application=False)
        return Closed(
            code=event.error_code,
            reason=event.reason_phrase,
            remote=self._closed_by_peer,
            application=event.frame_type is None,
        )

    @property
    def has_begun(self) -> bool:
        """Whether a packet of the peer was accepted."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def ids(self) -> list[bytes]:
        """The connection IDs that the peer may use."""
        return [each.cid for each in self._host_cids]

    @property
    def alpn(self) -> str:
        """The protocol that was negotiated."""
        return self.tls.alpn_negotiated or ""

    @property
    def peer_certificate(self) -> Any:
        """The certificate of the peer, an ``x509.Certificate`` of cryptography; None without one."""
        return self.tls._peer_certificate  # noqa: SLF001 -- there is no public name

    @property
    def rtt(self) -> float:
        """The smoothed round-trip time in seconds; 0 before the first."""
        return self._loss._rtt_smoothed  # noqa: SLF001 -- there is no public name

    @property
    def congestion_window(self) -> int:
        """The congestion window: the most bytes in flight."""
        return self._loss.congestion_window

    def has_path(self, address: Address) -> bool:
        """Return whether authentic packets have come from an address."""
        return any(each.addr == address for each in self._network_paths)

    def shrink(self, size: int) -> None:
        """Send no datagrams larger than ``size`` bytes from now on."""
        self._max_datagram_size = min(size, self._max_datagram_size)
        # A DATAGRAM frame that no longer fits would hold back all that are queued behind it.
        self._datagrams_pending = deque(each for each in self._datagrams_pending if len(each) <= self.max_datagram)

    # Sending streams

    def open_stream(self, *, one_way: bool) -> int | None:
        """Return the ID of a new stream, None if the peer does not allow another one now."""
        stream_id = self.get_next_available_stream_id(is_unidirectional=one_way)
        if stream_id // 4 >= (self._remote_max_streams_uni if one_way else self._remote_max_streams_bidi):
            return None
        # A write reserves the ID.
        self.send_stream_data(stream_id, b"")
        return stream_id

    def unsent(self, stream_id: int) -> int:
        """Return the number of queued bytes that were never sent."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else self._written.get(stream_id, 0) - stream.sender.highest_offset

    def is_delivered(self, stream_id: int) -> bool:
        """Return whether all sent data, and the end, is acknowledged."""
        stream = self._streams.get(stream_id)
        return stream is None or stream.sender.is_finished

    def is_over(self, stream_id: int) -> bool:
        """Return whether a stream has ended in both directions, acknowledged."""
        return stream_id not in self._streams

    def forget(self, stream_id: int) -> None:
        """Forget the counts of a stream that is over."""
        self._written.pop(stream_id, None)
        self._consumed.pop(stream_id, None)

    # Receiving streams

    def consume(self, stream_id: int, count: int) -> bool:
        """Grant credit for ``count`` bytes of a stream that the application has consumed; return whether to send it."""
        is_due = self._release(count)
        stream = self._streams.get(stream_id)
        if stream is None:
            return is_due
        self._consumed[stream_id] = consumed = self._consumed.get(stream_id, 0) + count
        due = consumed + self._stream_window
        if not stream.receiver.is_finished and due - stream.max_stream_data_local >= self._stream_window // 2:
            stream.max_stream_data_local = due
            is_due = True
        return is_due

    def abandon(self, stream_id: int, unread: int) -> None:
        """Grant credit for all of a stream that no task reads: ``unread`` delivered bytes, and all later ones."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._release(unread)
        else:
            self._abandoned[stream_id] = stream
            self._release_abandoned()

    def _release_abandoned(self) -> None:
        for stream_id, stream in list(self._abandoned.items()):
            offset = stream.receiver.highest_offset
            self._release(offset - self._consumed.get(stream_id, 0))
            self._consumed[stream_id] = offset
            if stream.receiver.is_finished:
                del self._abandoned[stream_id]

    def _release(self, count: int) -> bool:
        self._released += count
        due = self._released + self._window
        is_due = due - self._local_max_data.value >= self._window // 2
        if is_due:
            self._local_max_data.value = due
        return is_due

    def return_place(self, *, one_way: bool) -> None:
        """Allow the peer one more stream."""
        self._places[one_way] += 1

    # DATAGRAM frames

    @property
    def max_datagram(self) -> int:
        """The most bytes that fit in one DATAGRAM frame; 0 if the peer accepts none."""
        limit = self._remote_max_datagram_frame_size
        return 0 if limit is None else max(0, min(self._max_datagram_size - _DATAGRAM_OVERHEAD, limit - 3))

    @property
    def unsent_datagrams(self) -> int:
        """The number of queued DATAGRAM frames."""
        return len(self._datagrams_pending)

    # Guards

    def violation(self) -> str | None:
        """Return the rule of this module that aioquic breaks; None if it keeps to them."""
        limit, released, window = self._local_max_data, self._released, self._window
        if limit.used - released > window or limit.value > released + window:
            return "the window of the connection grows as data arrives"
        if limit.sent == limit.value < released + window // 2:
            return "the window of the connection does not grow as data is consumed"
        for stream_id, consumed in self._consumed.items():
            stream = self._streams.get(stream_id)
            if stream is not None and stream.max_stream_data_local > consumed + self._stream_window:
                return "the window of a stream grows as data arrives"
        if any(not each.cid.startswith(self._id_prefix) for each in self._host_cids):
            return "connection IDs are not the chosen ones"
        return None


def make_configuration(
    certificate: tuple[str, str] | None, key_log: TextIO | None, qlog: str | None, **options: Any
) -> QuicConfiguration:
    """Return aioquic's configuration, with the files that it names loaded."""
    configuration = QuicConfiguration(
        connection_id_length=ID_SIZE,
        secrets_log_file=key_log,
        quic_logger=None if qlog is None else QuicFileLogger(qlog),
        **options,
    )
    if certificate is not None:
        configuration.load_cert_chain(*certificate)
        own: Any = configuration.certificate
        if own.public_key() != configuration.private_key.public_key():
            raise ValueError("the key is not the one of the certificate")
    return configuration


def version() -> str:
    """Return the version of aioquic."""
    return aioquic.__version__


_REPORTS: Final[dict[type, Any]] = {
    events.HandshakeCompleted: lambda handler, _: handler.handshake_completed(),
    events.StreamDataReceived: lambda handler, event: handler.stream_received(
        event.stream_id, event.data, end=event.end_stream
    ),
    events.StreamReset: lambda handler, event: handler.stream_reset(event.stream_id, event.error_code),
    events.StopSendingReceived: lambda handler, event: handler.stream_stopped(event.stream_id, event.error_code),
    events.DatagramFrameReceived: lambda handler, event: handler.datagram_received(event.data),
    events.PingAcknowledged: lambda handler, event: handler.ping_acknowledged(event.uid),
    events.ConnectionIdIssued: lambda handler, event: handler.id_issued(event.connection_id),
    events.ConnectionIdRetired: lambda handler, event: handler.id_retired(event.connection_id),
}
