"""Decoders and encoders of ancillary data, for programs that use sockets directly.

Pure functions of bytes: none uses a socket, and no decoder raises because of the bytes that it decodes.
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
