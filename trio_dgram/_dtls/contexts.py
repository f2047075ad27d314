"""OpenSSL contexts: one serves any number of endpoints and connections; and the verification of servers' certificates.

pyOpenSSL forbids to change a context once a connection uses it, and ``trio.DTLSEndpoint`` sets the same options for
each endpoint and connection. So the options are set here, once, and Trio gets a view of the context that ignores it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final, TypeAlias, cast
from weakref import WeakSet

import attrs
import trio
from OpenSSL import SSL
from service_identity import CertificateError as ServiceIdentityError
from service_identity import VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns

from .._values.addresses import unmapped
from .._values.arguments import describe_value
from .._values.errors import CertificateError

ServiceID: TypeAlias = "DNS_ID | IPAddress_ID"
"""The name or address that a certificate must be issued for."""

_OPTIONS: Final[int] = SSL.OP_NO_QUERY_MTU | getattr(SSL, "OP_NO_RENEGOTIATION", 0)
"""The options that Trio sets itself: without them OpenSSL asks the memory for its MTU."""

_RECORD: Final = 2**14
"""The size of the largest record, in bytes."""

_REASONS: Final = {
    9: "not valid yet",
    10: "expired",
    18: "self-signed and not trusted",
    19: "not issued by a trusted CA",
    20: "not issued by a trusted CA",
    21: "not issued by a trusted CA",
    23: "revoked",
}
"""The usual results of X509_verify_cert(3)."""

_FATAL: Final = 2
"""The level of an alert that ends a handshake (RFC 5246, 7.2)."""

_ALERTS: Final = {
    10: "unexpected_message",
    20: "bad_record_mac",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    120: "no_application_protocol",
}
"""The usual alerts (RFC 5246, 7.2; RFC 7301, 3.2)."""


def check_context(value: object) -> None:
    """Raise ``TypeError`` unless ``value`` is a context of pyOpenSSL, ``ValueError`` unless it is for DTLS."""
    if not isinstance(value, SSL.Context):
        raise TypeError(f"ssl_context must be an OpenSSL.SSL.Context, not {describe_value(value)}")
    if value not in _servers and value not in _clients:
        # A connection makes a context immutable, so it gets a copy of what pyOpenSSL knows about this one.
        probe = object.__new__(SSL.Context)
        probe.__dict__ = dict(vars(value))
        protocol = SSL.Connection(probe).get_protocol_version_name()
        if not protocol.startswith("DTLS"):
            raise ValueError(f"ssl_context must be one of DTLS, SSL.Context(SSL.DTLS_METHOD), not of {protocol}")


class _View(SSL.Context):
    """A context of which Trio may set again what has been set."""

    def __init__(self, context: SSL.Context) -> None:
        # Not the base class's, which creates a context. The two share what they know.
        self.__dict__ = context.__dict__

    def set_options(self, options: int) -> int:
        """Ignore the options: they have been set."""
        return options

    def set_cookie_verify_callback(self, callback: Any) -> None:
        """Ignore the callback: it has been set."""


_servers: Final[WeakSet[SSL.Context]] = WeakSet()
_clients: Final[WeakSet[SSL.Context]] = WeakSet()
"""The contexts that have been prepared for each end."""


def server_view(context: SSL.Context) -> SSL.Context:
    """Return ``context`` for the endpoints of a server.

    Raises:
      ValueError: if another library has used it for a connection.
    """
    check_context(context)
    if context not in _servers:
        try:
            context.set_options(_OPTIONS)
            context.set_mode(SSL.MODE_RELEASE_BUFFERS)
            context.set_info_callback(_observe)
            # Trio verifies the cookie itself.
            context.set_cookie_verify_callback(lambda *_: True)
        except ValueError as error:
            raise ValueError(f"ssl_context must not have been used for anything but DTLS servers: {error}") from None
        _servers.add(context)
    return _View(context)


def client_view(context: SSL.Context) -> SSL.Context:
    """Return ``context`` for the endpoint of a client, whose :class:`Verification` is the current one.

    Raises:
      ValueError: if something else than :func:`trio_dgram.dtls.open_connection` has used it for a connection.
    """
    check_context(context)
    if context not in _clients:
        try:
            context.set_options(_OPTIONS)
            context.set_info_callback(_observe)
            context.set_verify(SSL.VERIFY_PEER, _verify)
        except ValueError as error:
            raise ValueError(f"ssl_context must not have been used for anything but DTLS clients: {error}") from None
        _clients.add(context)
    return _View(context)


def service_id(name: str, host: str) -> ServiceID:
    """Return the identity that the certificate of ``host`` must have.

    Args:
      name: the name of the argument, for messages.
      host: its value.

    Raises:
      ValueError: if ``host`` is neither an address nor a name that a certificate can be issued for.
    """
    if not isinstance(cast("object", host), str):
        raise TypeError(f"{name} must be a string, not {describe_value(host)}")
    address = unmapped(host.partition("%")[0])
    try:
        ipaddress.ip_address(address)
    except ValueError:
        try:
            return DNS_ID(host)
        except ValueError as error:
            raise ValueError(f"{name} must be an IP address or a DNS name, not {host!r}: {error}") from None
    return IPAddress_ID(address)


@attrs.define
class Verification:
    """The verification of one server's certificate."""

    host: str
    wanted: ServiceID
    _succeeded: bool = False
    _error: CertificateError | None = None

    @property
    def has_failed(self) -> bool:
        """Whether a certificate was refused."""
        return self._error is not None

    def begin(self) -> None:
        """Begin another handshake."""
        self._succeeded = False
        self._error = None

    def verify(self, certificate: Any, number: int, depth: int, *, is_signed: bool) -> bool:
        """Whether a certificate is signed by a trusted CA and, the server's own, issued for the wanted host."""
        if not is_signed:
            reason = _REASONS.get(number)
            return self._fail(reason or f"OpenSSL reports error {number} (X509_verify_cert_error_string(3))")
        if depth == 0:
            patterns: Sequence[Any] = []
            try:
                patterns = extract_patterns(certificate)
                verify_service_identity(patterns, [self.wanted], [])
            except (VerificationError, ServiceIdentityError):
                names = ", ".join(map(_name, patterns)) or "no name"
                return self._fail(f"issued for {names}")
            self._succeeded = True
        return True

    def _fail(self, reason: str) -> bool:
        self._error = CertificateError(f"certificate verification failed for {self.host}: {reason}")
        return False

    def check(self) -> None:
        """Raise :class:`CertificateError` unless the handshake has ended with a certificate that was accepted."""
        if self._error is not None:
            raise self._error
        if not self._succeeded:
            # An anonymous cipher suite.
            raise CertificateError(f"certificate verification failed for {self.host}: the server has no certificate")


def _name(pattern: Any) -> str:
    name = getattr(pattern, "pattern", pattern)
    return name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)


class Handshake:
    """What OpenSSL does in one handshake, and the scope that it runs in.

    Trio retransmits itself. A message that OpenSSL retransmits together with its next flight would make Trio discard
    both, so the handshake would never end. So OpenSSL must retransmit only when its output can be discarded.

    Trio takes each error of OpenSSL for that of an invalid packet. But OpenSSL does not continue after a fatal alert of
    either end, so that must end the handshake.
    """

    def __init__(self) -> None:
        self.scope: trio.CancelScope
        self.failure: str = ""
        """Which alert has ended it, or empty."""
        self._connection: SSL.Connection | None = None

    def observe(self, connection: SSL.Connection, where: int, result: int) -> None:
        """Note the connection, which Trio does not disclose, and end at a fatal alert."""
        self._connection = connection
        level, number = divmod(result, 256)
        if where & SSL.SSL_CB_ALERT and level == _FATAL:
            sender = "the peer" if where & SSL.SSL_CB_READ else "OpenSSL"
            self.failure = f"{sender} ended it with the alert {_ALERTS.get(number, number)}"
            # It takes effect once the task waits: Trio sends the alert first.
            self.scope.deadline = trio.current_time()

    def settle_timer(self) -> None:
        """Restart an expired timer: have it retransmit, and discard the datagrams."""
        connection = self._connection
        if connection is None or connection.DTLSv1_get_timeout() != 0:
            return
        with suppress(SSL.Error):
            connection.DTLSv1_handle_timeout()
        with suppress(SSL.WantReadError):
            while True:
                connection.bio_read(_RECORD)

    def stop(self) -> None:
        """Forget the connection: the handshake is done."""
        self._connection = None


current_handshake: Final[ContextVar[Handshake]] = ContextVar("current_handshake")
"""The handshake that the current task performs: OpenSSL calls back in the task."""


def _observe(connection: SSL.Connection, where: int, result: int) -> None:
    handshake = current_handshake.get(None)
    if handshake is not None:
        handshake.observe(connection, where, result)


current_verification: Final[ContextVar[Verification]] = ContextVar("current_verification")
"""The verification of the handshake that the current task performs: OpenSSL calls back in the task."""


def _verify(_: SSL.Connection, certificate: Any, number: int, depth: int, is_signed: int) -> bool:
    return current_verification.get().verify(certificate, number, depth, is_signed=bool(is_signed))
