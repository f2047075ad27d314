"""Pending errors: what the network reported about datagrams that were sent earlier.

Rule 1: an error is raised or reported once.
Rule 2: on an unconnected socket no peer's error is raised by a receive; on a connected one the peer's own is, unless
    an event channel takes it.
Rule 3: ``send`` never raises the error of an earlier datagram.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from typing import Final

from .._codecs.error_queue import ICMP, ICMP6
from .._kernel.descriptor import Descriptor
from .._values.addresses import Address
from .._values.errors import PeerUnreachable, with_context

Report = Callable[[OSError, str, Address | None], bool]
"""Reports an error, its operation and its address to the event channels; returns whether one of them took it."""

PENDING_ERRNOS: Final = frozenset(
    number
    for name in (
        "ECONNREFUSED",
        "ECONNRESET",
        "EHOSTUNREACH",
        "EHOSTDOWN",
        "ENETUNREACH",
        "ENETDOWN",
        "ENETRESET",
        "ENONET",
        "ENOPROTOOPT",
        "EOPNOTSUPP",
        "EPROTO",
        "EMSGSIZE",
        "EACCES",
        "WSAECONNRESET",
        "WSAENETRESET",
    )
    if (number := getattr(errno, name, None)) is not None
)
"""The errnos with which the kernel passes on an ICMP error about an earlier datagram (Linux: ip(7))."""

_UNIX_PENDING_ERRNOS: Final = frozenset({errno.ECONNRESET})
"""The errno for a peer that disconnected from this socket while datagrams were queued for it (unix(7))."""


class PendingErrors:
    """The pending errors of one socket, and the latest one that the next receive is to raise."""

    __slots__ = ("_descriptor", "_errnos", "_report", "count", "due", "peer")

    def __init__(self, descriptor: Descriptor, report: Report) -> None:
        self.due: OSError | None = None
        self.peer: Address | None = None
        """The peer of a connected socket."""
        self.count = 0
        self._descriptor = descriptor
        self._report = report
        self._errnos = PENDING_ERRNOS if descriptor.family.is_internet else _UNIX_PENDING_ERRNOS

    @property
    def has_queue(self) -> bool:
        """Whether the kernel has an error queue for the socket."""
        return self._descriptor.has_error_queue

    def may_hold(self, error: OSError) -> bool:
        """Whether ``error``, raised by a send, may concern an earlier datagram."""
        return error.errno in self._errnos

    def take(self, error: OSError) -> None:
        """Count an error that receiving raised, or a pending error that a send raised, and report it."""
        pending = error.errno in PENDING_ERRNOS
        if pending and self.drain():
            # The error queue has the same error with more detail.
            return
        with_context(error, "receive", self.peer)
        if pending:
            self._pass_on(error, "receive", self.peer)
        else:
            self.count += 1
            self.due = error

    def drain(self) -> int:
        """Read the error queue and report its records; return how many concern delivery.

        Undrained errors wake a task that waits for the descriptor again and again.
        """
        if not self._descriptor.has_error_queue:
            return 0
        count = 0
        for destination, record in self._descriptor.read_errors():
            # The send itself has raised a refusal by this machine.
            if record.origin in (ICMP, ICMP6):
                count += 1
                error = PeerUnreachable(
                    record.errno,
                    icmp_type=record.icmp_type,
                    icmp_code=record.icmp_code,
                    reason=record.reason,
                    offender=record.offender,
                    path_mtu=record.path_mtu,
                )
                self._pass_on(with_context(error, "send", destination), "send", destination)
        return count

    def drain_all(self) -> None:
        """Read the error queue, and the error that the kernel keeps besides if the queue was full."""
        self.drain()
        number = self._descriptor.take_error()
        if number:
            self.take(OSError(number, os.strerror(number)))

    def report_due(self) -> None:
        """Report the error that the next receive is to raise, if an event channel takes it instead."""
        if self.due is not None and self._report(self.due, "receive", None):
            self.due = None

    def forget(self) -> None:
        """Drop the error of a peer that the socket was disconnected from."""
        self.peer = self.due = None

    def watch(self) -> select.epoll:
        """Return a descriptor that is readable while :meth:`drain_all` has something to read."""
        return self._descriptor.watch_errors()

    def report(self, error: OSError, operation: str, address: Address | None) -> bool:
        """Report an error that no call raises to the event channels; return whether one of them took it."""
        return self._report(error, operation, address)

    def _pass_on(self, error: OSError, operation: str, address: Address | None) -> None:
        self.count += 1
        if not self._report(error, operation, address) and self.peer is not None and address == self.peer:
            self.due = error
