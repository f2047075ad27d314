"""The counts of handshakes, which DTLS and QUIC listeners have alike."""

from __future__ import annotations

from trio_dgram.dtls import DTLSListenerStatistics
from trio_dgram.quic import QuicListenerStatistics


def check_handshakes(counts: DTLSListenerStatistics | QuicListenerStatistics) -> None:
    """Check that each handshake of a listener is in one of its counts."""
    assert counts.handshakes == (
        counts.handshaking
        + counts.handshakes_failed
        + counts.handshakes_evicted
        + counts.accepted
        + counts.refused
        + counts.refused_by_network
    )
