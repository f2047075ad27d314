"""The certificates of clients, which aioquic requests if it is asked to, and does not verify."""

from __future__ import annotations

from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import Alert, AlertBadCertificate, AlertDescription, Context, verify_certificate
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

_FOR_CLIENTS = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)


class _CertificateRequiredError(Alert):
    description = AlertDescription.certificate_required


class ClientVerification:
    """Requests the certificate of a client, and verifies it after the handshake.

    Args:
      configuration: aioquic's configuration, which names the trusted CAs.
    """

    def __init__(self, configuration: QuicConfiguration) -> None:
        self._configuration = configuration

    def begin(self, handshake: Context) -> None:
        """Request the certificate."""
        handshake._request_client_certificate = True  # noqa: SLF001 -- there is no public name

    def failure(self, handshake: Context) -> Alert | None:
        """Return why the certificate is refused, None if it is accepted."""
        certificate: Any = handshake._peer_certificate  # noqa: SLF001 -- there is no public name
        if certificate is None:
            return _CertificateRequiredError("the client has no certificate")
        trust = self._configuration
        try:
            verify_certificate(
                certificate,
                handshake._peer_certificate_chain,  # noqa: SLF001 -- there is no public name
                cadata=trust.cadata,
                cafile=trust.cafile,
                capath=trust.capath,
            )
            _check_purpose(certificate)
        except Alert as error:
            return error
        except (ValueError, crypto.Error) as error:
            # Extensions are parsed only when they are read.
            return AlertBadCertificate(str(error))
        return None


def _check_purpose(certificate: x509.Certificate) -> None:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not any(each in usage for each in _FOR_CLIENTS):
        raise AlertBadCertificate("the certificate is not for clients (extended key usage)")
