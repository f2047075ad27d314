"""The packets with which a server answers without a connection: no state is stored for them."""

from __future__ import annotations

from collections.abc import Iterable

from aioquic.quic.connection import TRANSPORT_CLOSE_FRAME_CAPACITY
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicFrameType, QuicPacketType, encode_quic_retry, encode_quic_version_negotiation
from aioquic.quic.packet_builder import QuicPacketBuilder

from .packets import SMALLEST_DATAGRAM, Header


def encode_version_negotiation(header: Header, versions: Iterable[int]) -> bytes:
    """Return the packet that lists the supported versions."""
    return encode_quic_version_negotiation(header.destination, header.source, list(versions))


def encode_retry(header: Header, own_id: bytes, token: bytes) -> bytes:
    """Return the packet that asks a client to prove its address by ``token``."""
    return encode_quic_retry(header.version, own_id, header.source, header.destination, token)


def encode_refusal(header: Header, code: int) -> bytes:
    """Return the packet that refuses a connection without any state for it."""
    crypto = CryptoPair()
    crypto.setup_initial(cid=header.destination, is_client=False, version=header.version)
    builder = QuicPacketBuilder(
        host_cid=header.destination,
        is_client=False,
        max_datagram_size=SMALLEST_DATAGRAM,
        peer_cid=header.source,
        version=header.version,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    buffer = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=TRANSPORT_CLOSE_FRAME_CAPACITY)
    for number in (code, QuicFrameType.PADDING, 0):
        buffer.push_uint_var(number)
    datagrams, _ = builder.flush()
    return datagrams[0]
