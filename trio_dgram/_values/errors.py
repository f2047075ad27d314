"""The errors of this library, and how an error of the kernel gets its operation, its address and its reason."""

from __future__ import annotations

import os
from typing import TypeVar

from .addresses import Address, format_address

OSErrorT = TypeVar("OSErrorT", bound=OSError)


class DatagramError(Exception):
    """The base class of every error that this library defines."""


class SocketStateError(DatagramError):
    """The state of the socket does not allow the operation; the socket stays as usable as before."""


class AlreadyBoundError(SocketStateError):
    """The socket is bound already, or a ``bind`` of it is in progress."""


class NotBoundError(SocketStateError):
    """The operation needs a local address and the socket has none yet: ``bind`` it, or ``send`` first."""


class AlreadyConnectedError(SocketStateError):
    """The socket is connected, or a ``connect`` is in progress: its peer is fixed until ``disconnect``."""


class NotConnectedError(SocketStateError):
    """The socket has no peer: ``connect`` it, or pass a destination."""


class AddressBlockedError(DatagramError, PermissionError):
    """The destination is on the socket's ``send_block_list``; nothing was sent. Its errno is EPERM."""


class AmplificationLimitError(DatagramError):
    """The bytes sent to a peer would exceed ``amplification_limit``; nothing was sent.

    Each datagram from the peer raises the limit, and ``mark_validated`` removes it.
    """


class CertificateError(DatagramError):
    """The server's certificate is not issued for the expected host, or not by a trusted CA."""


class ProxyHeaderError(DatagramError, OSError, ValueError):
    """A datagram does not begin with the PROXY protocol header that its source must send. Its errno is EBADMSG.

    It is reported as a :class:`Failure` and never raised by a socket.
    """


class PeerUnreachable(DatagramError, OSError):  # noqa: N818 -- the name of the condition, not of a mistake
    """The network reported that an earlier datagram could not be delivered (RFC 792, RFC 4443).

    Its errno is the kernel's translation of the report, such as ECONNREFUSED.

    Attributes:
      operation (str): the operation that failed: ``"send"``.
      address (Address | None): the destination of the datagram.
      icmp_type (int): the type of the ICMP message.
      icmp_code (int): the code of the ICMP message.
      reason (str): type and code in words.
      offender (str | None): the address of the machine that sent the report, if known.
      path_mtu (int | None): for a datagram that was too big, the largest packet that the path accepts, in bytes.
    """

    def __init__(
        self, errno: int, *, icmp_type: int, icmp_code: int, reason: str, offender: str | None, path_mtu: int | None
    ) -> None:
        detail = reason if offender is None else f"{reason}, reported by {offender}"
        super().__init__(errno, f"{os.strerror(errno)} ({detail})")
        self.operation: str = "send"
        self.address: Address | None = None
        self.icmp_type = icmp_type
        self.icmp_code = icmp_code
        self.reason = reason
        self.offender = offender
        self.path_mtu = path_mtu

    def __reduce__(self) -> tuple[object, ...]:
        """Support copying and pickling."""
        return _recreate, (type(self), self.args, vars(self))


class SendManyError(DatagramError, OSError):
    """One datagram of a ``send_many`` failed; those before it were sent, those after it were not.

    It has the errno and the text of the kernel's error, which is its ``__cause__``.

    Attributes:
      index (int): the position of the datagram that failed, from 0.
      sent (int): how many of the datagrams the kernel accepted in this call.
    """

    def __init__(self, error: OSError, index: int, sent: int) -> None:
        super().__init__(error.errno, f"datagram {index}: {error.strerror}")
        self.index = index
        self.sent = sent

    def __reduce__(self) -> tuple[object, ...]:
        """Support copying and pickling."""
        return _recreate, (type(self), self.args, vars(self))


def _recreate(kind: type[OSErrorT], arguments: tuple[object, ...], attributes: dict[str, object]) -> OSErrorT:
    error = kind.__new__(kind)
    # The initialisers of the classes above take what the message was composed of, not the message.
    OSError.__init__(error, *arguments)
    vars(error).update(attributes)
    return error


def with_context(error: OSErrorT, operation: str, address: object) -> OSErrorT:
    """Add the operation that failed, and its address, to ``error`` and its text.

    It returns the same object, so class, errno and traceback stay those of the kernel's error.
    """
    subject = format_address(address) if isinstance(address, Address) else address
    vars(error).update(operation=operation, address=address)
    prefix = operation if subject is None else f"{operation} {subject}"
    return _reworded(error, f"{prefix}: {error.strerror or error}")


def with_reason(error: OSErrorT, reason: str | None) -> OSErrorT:
    """Add ``reason`` to the text of ``error``: what its errno means here, or what to do. ``None`` adds nothing."""
    return error if reason is None else _reworded(error, f"{error.strerror} ({reason})")


def _reworded(error: OSErrorT, text: str) -> OSErrorT:
    error.strerror = text
    error.args = (error.errno, text)
    return error
