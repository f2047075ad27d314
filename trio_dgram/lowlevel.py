"""The decoders of what the kernel tells beside datagrams, for programs that read sockets themselves.

Pure functions of bytes: none touches a socket, and none raises on account of what it is given to decode.
"""

from __future__ import annotations

from ._codecs.ancillary import Ancillary, ControlMessage, decode_packet_info, encode_packet_info, segment_size
from ._codecs.error_queue import ErrorRecord, decode_error

__all__ = [
    "Ancillary",
    "ControlMessage",
    "ErrorRecord",
    "decode_error",
    "decode_packet_info",
    "encode_packet_info",
    "segment_size",
]
