"""The end of a connection or a stream, as a value and as an error."""

from __future__ import annotations

from typing import Final

import attrs

from .._values.errors import DatagramError

NO_ERROR: Final = 0x0
INTERNAL_ERROR: Final = 0x1
CONNECTION_REFUSED: Final = 0x2
INVALID_TOKEN: Final = 0xB
APPLICATION_ERROR: Final = 0xC
HANDLER_FAILED: Final = 0x1
"""The application's code of a connection, or a stream, whose handler or block has failed."""
CRYPTO_ERROR: Final = 0x100
"""The first of the codes that carry a TLS alert (RFC 9000, 20.1)."""
_CERTIFICATE_ALERTS: Final = (42, 43, 44, 45, 46, 48)
"""The TLS alerts about a certificate (RFC 8446, 6.2)."""


@attrs.frozen(kw_only=True)
class Closed:
    """The end of a connection.

    Attributes:
      code (int): the error code (RFC 9000, 20); 0 for none, also when the idle timeout has ended it.
      reason (str): the reason phrase; the peer chooses it if ``remote``.
      remote (bool): whether the peer has closed it.
      application (bool): whether the code is one of the application's protocol, not of QUIC.
    """

    code: int
    reason: str
    remote: bool
    application: bool


class QuicError(DatagramError):
    """A connection, or one direction of a stream, has ended by an error code.

    Attributes:
      code (int): the error code (RFC 9000, 20).
      reason (str): the reason phrase of a connection; the peer chooses it if ``remote``.
      remote (bool): whether the peer has sent the code.
    """

    def __init__(self, message: str, code: int, reason: str, remote: bool) -> None:  # noqa: FBT001 -- so it is pickled
        super().__init__(message, code, reason, remote)
        self.code = code
        self.reason = reason
        self.remote = remote

    def __str__(self) -> str:
        return str(self.args[0])


class HandshakeError(QuicError):
    """The handshake has failed: no common version, no common ALPN protocol, or another TLS alert."""


def connection_error(closed: Closed, kind: type[QuicError] = QuicError) -> QuicError:
    """Return the error for the end of a connection."""
    actor = "the peer closed the connection" if closed.remote else "the connection has ended"
    code = f"application code {closed.code}" if closed.application else f"code {closed.code:#x}"
    message = f"{actor}: {closed.reason or 'no reason given'} ({code})"
    return kind(message, closed.code, closed.reason, closed.remote)


def stream_error(action: str, code: int) -> QuicError:
    """Return the error of a stream that the peer has reset, or stopped."""
    return QuicError(f"the peer {action} the stream with application code {code}", code, "", remote=True)


def is_about_certificate(closed: Closed) -> bool:
    """Return whether the verification of the peer's certificate has failed."""
    return not closed.remote and closed.code - CRYPTO_ERROR in _CERTIFICATE_ALERTS
