"""QUIC (RFC 9000): encrypted connections of streams and datagrams, on aioquic's connection without I/O.

It needs the extra ``quic``: ``pip install trio_dgram[quic]``.
"""

from __future__ import annotations

try:
    from ._quic.client import open_connection
    from ._quic.configuration import Configuration
    from ._quic.connection import Connection
    from ._quic.datagrams import DatagramFrames
    from ._quic.limits import QuicListenerOptions, QuicPeerOptions
    from ._quic.listener import Listener
    from ._quic.serving import serve
    from ._quic.streams import ReceiveStream, SendStream, Stream
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] == __name__.partition(".")[0]:
        raise
    raise ImportError(f"{__name__} needs {_error.name}: pip install trio_dgram[quic]", name=_error.name) from _error
from ._quic.errors import Closed, HandshakeError, QuicError
from ._values.errors import CertificateError
from ._values.statistics import QuicConnectionStatistics, QuicListenerStatistics

__all__ = [
    "CertificateError",
    "Closed",
    "Configuration",
    "Connection",
    "DatagramFrames",
    "HandshakeError",
    "Listener",
    "QuicConnectionStatistics",
    "QuicError",
    "QuicListenerOptions",
    "QuicListenerStatistics",
    "QuicPeerOptions",
    "ReceiveStream",
    "SendStream",
    "Stream",
    "open_connection",
    "serve",
]

# Documentation and tracebacks show the public name of a class, not the module that defines it. The class that
# ``trio_dgram.dtls`` has as well is named by the module that is imported last.
for _name in __all__:
    globals()[_name].__module__ = __name__
