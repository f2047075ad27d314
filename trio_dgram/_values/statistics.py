"""Statistics: the counts of sockets, event channels, listeners and channels to peers."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class SocketStatistics:
    """The counts of one socket since it was created, as :meth:`DatagramSocket.statistics` returns them.

    Once the kernel's queue is empty, the number of datagrams sent by the peers equals ``received`` plus
    ``dropped_by_kernel``, exactly if ``kernel_drops_exact``. Delivered means returned by ``receive`` or passed to an
    event channel.

    Attributes:
      sent (int): datagrams that the kernel accepted.
      received (int): datagrams read from the kernel, delivered or not.
      dropped_by_kernel (int | None): datagrams that the kernel dropped because the receive buffer was full or, if
        longer than about 68 bytes, because their checksum was wrong (shorter ones it drops before it looks up the
        socket). None where the platform does not report it.
      kernel_drops_exact (bool): whether ``dropped_by_kernel`` counts datagrams. With receive offload one drop is a
        whole batch, so the figure is a lower bound then.
      filtered (int): datagrams of ``received`` that were not delivered because of their source: a blocked address,
        port 0, an unspecified address, the socket's own address and port or, on a connected socket, another address
        than the peer's.
      proxy_refused (int): datagrams of ``received`` that were not delivered because their source is in
        ``proxy_protocol`` and they had no valid header.
      proxy_headers (int): datagrams of ``received`` that were a header alone and opened a session
        (``proxy_sessions``).
      truncated (int): datagrams of ``received`` whose payload was longer than what was read.
      unsplit_batches (int): batches of receive offload whose segment size was lost, so that they were discarded. Each
        counts as one in ``received``, the number of its datagrams is unknown.
      discarded_at_close (int): datagrams of ``received`` that were read ahead and not delivered when the socket was
        closed.
      receive_errors (int): errors while receiving: on a connected socket those that ICMP reported about earlier
        datagrams, with ``icmp_errors`` on any socket.
      send_errors (int): datagrams that the kernel refused, whether the error was raised or reported as a
        :class:`Failure`.
      coalesced_receives (int): system calls that returned several datagrams at once (UDP_GRO).
      coalesced_datagrams (int): datagrams of ``received`` that those calls returned.
      segmented_sends (int): system calls that sent several datagrams at once (UDP_SEGMENT).
      segmented_datagrams (int): datagrams of ``sent`` that those calls sent.
    """

    sent: int
    received: int
    dropped_by_kernel: int | None
    kernel_drops_exact: bool
    filtered: int
    proxy_refused: int
    proxy_headers: int
    truncated: int
    unsplit_batches: int
    discarded_at_close: int
    receive_errors: int
    send_errors: int
    coalesced_receives: int
    coalesced_datagrams: int
    segmented_sends: int
    segmented_datagrams: int


@attrs.frozen(kw_only=True)
class ChannelStatistics:
    """The counts of one event channel, as :meth:`EventChannel.statistics` returns them.

    They count datagrams, except ``failures_dropped``. The sum of ``delivered``, ``dropped`` and ``queued`` is the
    number of datagrams offered to the channel.

    Attributes:
      delivered (int): datagrams that ``receive`` returned.
      dropped (int): datagrams that the overflow policy dropped, or that were queued when the channel or its socket was
        closed.
      queued (int): datagrams that can be received now.
      failures_dropped (int): :class:`Failure` events dropped because ``max_buffer_size`` of them were queued.
    """

    delivered: int
    dropped: int
    queued: int
    failures_dropped: int


@attrs.frozen(kw_only=True)
class ListenerStatistics:
    """The counts of one listener, as :meth:`DatagramListener.statistics` returns them.

    ``received`` is the sum of ``delivered``, ``queued``, ``discarded``, ``dropped`` and the three refusals;
    ``accepted`` that of ``peers``, ``evicted``, ``expired`` and ``closed``.

    Attributes:
      received (int): datagrams that the listener read.
      delivered (int): datagrams that the ``receive`` of a channel returned.
      queued (int): datagrams that can be received now.
      discarded (int): datagrams queued in a channel when it was closed or evicted, or of a peer that ended before it
        was accepted.
      dropped_by_kernel (int | None): datagrams that the kernel dropped because the program did not read them in time.
        None where the platform does not report it.
      peers (int): current peers.
      accepted (int): peers admitted since the listener was opened.
      waiting (int): peers that wait for ``accept``.
      refused (int): first datagrams of peers that were not admitted: the table was full, or the listener closed.
      refused_by_filter (int): first datagrams that ``accept_filter`` refused.
      refused_by_network (int): first datagrams refused because of ``max_peers_per_network``.
      evicted (int): unvalidated peers that were removed in favour of new ones.
      expired (int): peers removed after their idle timeout.
      closed (int): peers whose channel the program closed, or that no task had accepted when it closed the listener.
      handlers_cancelled (int): handlers of :func:`serve` that were cancelled because ``max_peers`` was reached.
      dropped (int): datagrams of peers whose queue was full.
      buffered_bytes (int): bytes queued now.
      amplification_refused (int): sends that ``amplification_limit`` refused.
    """

    received: int
    delivered: int
    queued: int
    discarded: int
    dropped_by_kernel: int | None
    peers: int
    accepted: int
    waiting: int
    refused: int
    refused_by_filter: int
    refused_by_network: int
    evicted: int
    expired: int
    closed: int
    handlers_cancelled: int
    dropped: int
    buffered_bytes: int
    amplification_refused: int


@attrs.frozen(kw_only=True)
class PeerStatistics:
    """The counts of one channel to a peer, as :meth:`DatagramChannel.statistics` returns them.

    Attributes:
      received (int): datagrams that ``receive`` returned.
      queued (int): datagrams that can be received now.
      queued_bytes (int): the bytes of those.
      dropped (int): datagrams of the peer dropped because its queue was full.
      bytes_received (int): bytes that the peer sent, dropped ones included.
      bytes_sent (int): bytes sent to the peer.
      validated (bool): whether ``mark_validated`` was called.
    """

    received: int
    queued: int
    queued_bytes: int
    dropped: int
    bytes_received: int
    bytes_sent: int
    validated: bool


@attrs.frozen(kw_only=True)
class ExchangeStatistics:
    """The counts of one exchange, as :meth:`Exchange.statistics` returns them.

    The sum of ``replies``, ``duplicates`` and ``strays`` is the number of datagrams that the exchange received.

    Attributes:
      sent (int): requests handed to the channel, each attempt counted.
      replies (int): datagrams that answered a request in flight.
      duplicates (int): further replies to one of the last 1024 requests that were answered.
      strays (int): all other datagrams: late replies to a request that timed out or was cancelled, datagrams whose
        ``key`` raises or is not hashable, and on a socket those of a later peer.
      timeouts (int): requests that raised ``trio.TooSlowError``.
      in_flight (int): requests that wait for their reply now.
    """

    sent: int
    replies: int
    duplicates: int
    strays: int
    timeouts: int
    in_flight: int


@attrs.frozen(kw_only=True)
class DTLSListenerStatistics:
    """The counts of one DTLS listener, as :meth:`dtls.DTLSListener.statistics` returns them.

    ``handshakes`` is the sum of ``handshaking``, ``handshakes_failed``, ``handshakes_evicted``, ``accepted``,
    ``refused`` and ``refused_by_network``; ``accepted`` that of ``peers``, ``evicted``, ``expired`` and ``closed``.

    Attributes:
      handshakes (int): handshakes that peers began, having proved their addresses by a cookie (RFC 6347, 4.2.1).
      handshaking (int): handshakes in progress.
      handshakes_failed (int): handshakes that failed, took longer than ``handshake_timeout``, or were in progress when
        the listener was closed.
      handshakes_evicted (int): handshakes that were cancelled because ``max_handshakes`` others had begun later.
      peers (int): current peers, whose handshakes are done.
      accepted (int): peers admitted since the listener was opened.
      waiting (int): peers that wait for ``accept``.
      refused (int): handshakes that were refused because there were ``max_peers`` peers, or the listener was closed.
      refused_by_network (int): handshakes that were refused because of ``max_peers_per_network``.
      evicted (int): peers whose place a new handshake from the same address took.
      expired (int): peers whose channel ended after their idle timeout.
      closed (int): peers whose channel the program closed, or that no task had accepted when it closed the listener.
      handlers_cancelled (int): handlers of :func:`dtls.serve` that ran on after their channels had ended, and were
        cancelled because ``max_peers`` was reached.
      dropped (int): datagrams of peers that were dropped because too many, or too many bytes, were queued.
    """

    handshakes: int
    handshaking: int
    handshakes_failed: int
    handshakes_evicted: int
    peers: int
    accepted: int
    waiting: int
    refused: int
    refused_by_network: int
    evicted: int
    expired: int
    closed: int
    handlers_cancelled: int
    dropped: int


@attrs.frozen(kw_only=True)
class DTLSChannelStatistics:
    """The counts of one DTLS channel, as :meth:`dtls.DTLSChannel.statistics` returns them.

    Attributes:
      received (int): datagrams that ``receive`` returned.
      dropped (int): datagrams of the peer that were dropped because too many, or too many bytes, were queued.
      bytes_received (int): decrypted bytes that ``receive`` returned.
      sent (int): datagrams that the kernel accepted.
      bytes_sent (int): bytes of those before encryption.
    """

    received: int
    dropped: int
    bytes_received: int
    sent: int
    bytes_sent: int


@attrs.frozen(kw_only=True)
class QuicConnectionStatistics:
    """The counts of one QUIC connection, as :meth:`quic.Connection.statistics` returns them.

    Attributes:
      received (int): datagrams of the peer.
      bytes_received (int): the bytes of those.
      sent (int): datagrams that were handed to the socket.
      bytes_sent (int): the bytes of those.
      lost (int): packets that were declared lost; what they carried is sent again.
      rtt (float): the smoothed round-trip time in seconds.
      congestion_window (int): how many bytes may be in flight.
      migrations (int): how often the address of the peer has changed, or on a client how often it was rebound.
      streams (int): streams that are not over.
      datagrams_dropped (int): DATAGRAM frames that were dropped because 256 were queued.
    """

    received: int
    bytes_received: int
    sent: int
    bytes_sent: int
    lost: int
    rtt: float
    congestion_window: int
    migrations: int
    streams: int
    datagrams_dropped: int


@attrs.frozen(kw_only=True)
class QuicListenerStatistics:
    """The counts of one listener of a QUIC server, as :meth:`quic.Listener.statistics` returns them.

    ``handshakes`` is the sum of ``handshaking``, ``handshakes_failed``, ``handshakes_evicted``, ``accepted``,
    ``refused`` and ``refused_by_network``; ``accepted`` that of ``connections`` and ``closed``.

    Attributes:
      handshakes (int): handshakes that clients began, those after a Retry packet once.
      handshaking (int): handshakes in progress.
      handshakes_failed (int): handshakes that failed, took longer than ``handshake_timeout``, or were in progress when
        the listener was closed.
      handshakes_evicted (int): handshakes that were ended because ``max_handshakes`` others had begun later.
      connections (int): connections that are open, or whose handler runs.
      accepted (int): connections whose handshake succeeded.
      waiting (int): connections that wait for their handler.
      closed (int): connections that have ended, and their handlers.
      refused (int): handshakes that were refused because there were ``max_connections`` connections, or the listener
        was closed.
      refused_by_network (int): handshakes that were refused because of ``max_connections_per_network``.
      refused_by_filter (int): clients that ``accept_filter`` did not admit.
      retries (int): Retry packets that were sent.
      negotiations (int): Version Negotiation packets that were sent.
      ignored (int): datagrams of no connection that began none.
    """

    handshakes: int
    handshaking: int
    handshakes_failed: int
    handshakes_evicted: int
    connections: int
    accepted: int
    waiting: int
    closed: int
    refused: int
    refused_by_network: int
    refused_by_filter: int
    retries: int
    negotiations: int
    ignored: int
