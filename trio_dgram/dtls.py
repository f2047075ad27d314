"""Encrypted channels to peers: DTLS 1.2 (RFC 6347), by ``trio.DTLSEndpoint`` and pyOpenSSL.

It needs the extra ``dtls``: ``pip install trio_dgram[dtls]``. The handlers are those of :func:`trio_dgram.serve`.
"""

from __future__ import annotations

try:
    from ._dtls.channel import DTLSChannel
    from ._dtls.connection import open_connection
    from ._dtls.limits import DTLSListenerOptions, DTLSPeerOptions
    from ._dtls.listener import DTLSListener, open_listeners
    from ._dtls.serving import serve
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] == __name__.partition(".")[0]:
        raise
    raise ImportError(f"{__name__} needs {_error.name}: pip install trio_dgram[dtls]", name=_error.name) from _error
from ._values.errors import CertificateError
from ._values.statistics import DTLSChannelStatistics, DTLSListenerStatistics

__all__ = [
    "CertificateError",
    "DTLSChannel",
    "DTLSChannelStatistics",
    "DTLSListener",
    "DTLSListenerOptions",
    "DTLSListenerStatistics",
    "DTLSPeerOptions",
    "open_connection",
    "open_listeners",
    "serve",
]

# Documentation and tracebacks show the public name of a class, not the module that defines it.
for _name in __all__:
    globals()[_name].__module__ = __name__
