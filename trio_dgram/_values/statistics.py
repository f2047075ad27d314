"""What became of every datagram, in numbers."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class SocketStatistics:
    """The counts of one socket since it was made, as :meth:`DatagramSocket.statistics` returns them."""

    sent: int
    """Datagrams that the kernel took."""
    received: int
    """Datagrams taken from the kernel, whatever became of them afterwards."""
    dropped_by_kernel: int | None
    """Datagrams that the kernel dropped because the receive buffer was full, or, if longer than about 68 bytes,
    because their checksum was wrong (shorter ones it throws away before it looks for a socket); ``None`` where the
    platform cannot tell."""
    kernel_drops_exact: bool
    """Whether ``dropped_by_kernel`` counts datagrams. It is a lower bound where receive offload is on, since
    one drop is a whole batch then."""
    filtered: int
    """Datagrams of ``received`` that were not handed out: from a blocked address, from a source that
    nobody can answer (port 0, or ``::``), or, on a connected socket, from someone else than the peer."""
    truncated: int
    """Messages of ``received`` that could not be read whole: datagrams that came shortened, and batches whose
    datagrams could not be told apart any more and were discarded."""
    discarded_at_close: int
    """Datagrams of ``received`` that nobody had asked for when the socket was closed."""
    receive_errors: int
    """Errors that receiving met: on a connected socket those of earlier datagrams that ICMP reported, with
    ``icmp_errors`` on any."""
    send_errors: int
    """Datagrams that the kernel refused, whether that was raised or reported as a :class:`Failure`."""
    coalesced_receives: int
    """System calls that brought more than one datagram at once (UDP_GRO)."""
    coalesced_datagrams: int
    """Datagrams of ``received`` that came by those."""
    segmented_sends: int
    """System calls that sent more than one datagram at once (UDP_SEGMENT)."""
    segmented_datagrams: int
    """Datagrams of ``sent`` that went by those."""


@attrs.frozen(kw_only=True)
class ChannelStatistics:
    """The counts of one event channel, as :meth:`EventChannel.statistics` returns them.

    They count datagrams: the sum of ``delivered``, ``dropped`` and ``queued`` is what was offered to the
    channel. Only ``failures_dropped`` counts something else.
    """

    delivered: int
    """Datagrams handed out by ``receive``."""
    dropped: int
    """Datagrams that the overflow policy dropped, or that were still queued when the channel or its socket
    was closed."""
    queued: int
    """Datagrams waiting to be received now."""
    failures_dropped: int
    """:class:`Failure` events dropped because more than ``max_buffer_size`` were waiting."""
