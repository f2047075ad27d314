"""QUIC (RFC 9000): encrypted connections of streams and datagrams, on aioquic's connection without I/O.

It needs the extra ``quic``: ``pip install trio_dgram[quic]``.
"""

from __future__ import annotations

try:
    from ._quic.configuration import Configuration
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] == __name__.partition(".")[0]:
        raise
    raise ImportError(f"{__name__} needs {_error.name}: pip install trio_dgram[quic]", name=_error.name) from _error
from ._quic.errors import Closed, HandshakeError, QuicError

__all__ = ["Closed", "Configuration", "HandshakeError", "QuicError"]

# Documentation and tracebacks show the public name of a class, not the module that defines it.
for _name in __all__:
    globals()[_name].__module__ = __name__
