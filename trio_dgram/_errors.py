"""The errors that are this library's own, and how the kernel's are told."""

from __future__ import annotations

from typing import TypeVar

from ._addresses import Address, written

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


class PeerUnreachable(DatagramError, OSError):  # noqa: N818 -- named for what it tells: news about a peer
    """The network reported that an earlier datagram could not be delivered."""


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


def annotated(error: OSErrorT, operation: str, address: object) -> OSErrorT:
    """Make ``error`` name the operation that failed and the address that it failed for.

    The same object, so that class, errno and traceback stay as the kernel's answer made them.
    """
    about = written(address) if isinstance(address, Address) else address
    subject = operation if about is None else f"{operation} {about}"
    error.strerror = f"{subject}: {error.strerror}"
    error.args = (error.errno, error.strerror)
    vars(error).update(operation=operation, address=address)
    return error
