"""The errors that are this library's own, and how the kernel's are told."""

from __future__ import annotations

import os
from typing import TypeVar

from .addresses import Address, written

OSErrorT = TypeVar("OSErrorT", bound=OSError)


class DatagramError(Exception):
    """The base of every error that is this library's own."""


class SocketStateError(DatagramError):
    """The socket is not in a state that allows the operation; it is as usable as before."""


class AlreadyBoundError(SocketStateError):
    """The socket is bound already, or a ``bind`` of it is under way."""


class NotBoundError(SocketStateError):
    """The operation needs a local address and the socket has none yet: ``bind`` it or ``send`` first."""


class AlreadyConnectedError(SocketStateError):
    """The socket is connected, or a ``connect`` is under way: its peer is fixed until ``disconnect``."""


class NotConnectedError(SocketStateError):
    """The socket has no peer: ``connect`` it, or say where to send."""


class AddressBlockedError(DatagramError, PermissionError):
    """The destination is on the socket's ``send_block_list``; nothing was sent."""


class AmplificationLimitError(DatagramError):
    """More would go out to a peer than its datagrams allow before it is validated; nothing was sent."""


class PeerUnreachable(DatagramError, OSError):  # noqa: N818 -- named for what it tells: news about a peer
    """The network reported that an earlier datagram could not be delivered (RFC 792, RFC 4443).

    Its errno is what the kernel makes of the report, such as ECONNREFUSED.
    """

    def __init__(
        self, errno: int, *, icmp_type: int, icmp_code: int, reason: str, offender: str | None, path_mtu: int | None
    ) -> None:
        said = reason if offender is None else f"{reason}, says {offender}"
        super().__init__(errno, f"{os.strerror(errno)} ({said})")
        self.operation: str = "send"
        """What failed: ``"send"``."""
        self.address: Address | None = None
        """The destination of the datagram."""
        self.icmp_type = icmp_type
        """The type of the ICMP message."""
        self.icmp_code = icmp_code
        """The code of the ICMP message."""
        self.reason = reason
        """The type and code in words."""
        self.offender = offender
        """The address of the machine that reported it, where it is known."""
        self.path_mtu = path_mtu
        """For a datagram that was too big: the largest packet that the path takes, in bytes, where it is known."""

    def __reduce__(self) -> tuple[object, ...]:
        """Tell how to copy and pickle it."""
        return _made_again, (type(self), self.args, vars(self))


class SendManyError(DatagramError, OSError):
    """One datagram of a ``send_many`` failed; those before it were sent, those after it were not.

    It carries the errno and the text of the kernel's error, which is its ``__cause__``.
    """

    def __init__(self, error: OSError, index: int, sent: int) -> None:
        super().__init__(error.errno, f"datagram {index}: {error.strerror}")
        self.index = index
        """The position of the datagram that failed, from 0."""
        self.sent = sent
        """How many of the datagrams the kernel took in this call."""

    def __reduce__(self) -> tuple[object, ...]:
        """Tell how to copy and pickle it."""
        return _made_again, (type(self), self.args, vars(self))


def _made_again(kind: type[OSErrorT], arguments: tuple[object, ...], attributes: dict[str, object]) -> OSErrorT:
    error = kind.__new__(kind)
    # Their own initialisers take what the text was made of.
    OSError.__init__(error, *arguments)
    vars(error).update(attributes)
    return error


def annotated(error: OSErrorT, operation: str, address: object) -> OSErrorT:
    """Make ``error`` name the operation that failed and the address that it failed for.

    The same object, so that class, errno and traceback stay as the kernel's answer made them.
    """
    about = written(address) if isinstance(address, Address) else address
    subject = operation if about is None else f"{operation} {about}"
    vars(error).update(operation=operation, address=address)
    return _reworded(error, f"{subject}: {error.strerror}")


def with_reason(error: OSErrorT, reason: str | None) -> OSErrorT:
    """Make ``error`` say in words what its errno means here, where ``reason`` adds anything."""
    return error if reason is None else _reworded(error, f"{error.strerror} ({reason})")


def _reworded(error: OSErrorT, text: str) -> OSErrorT:
    error.strerror = text
    error.args = (error.errno, text)
    return error
