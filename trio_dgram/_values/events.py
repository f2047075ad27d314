"""The events of a socket's life, made for ``match``."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from .addresses import Address
from .datagrams import Datagram


@attrs.frozen
class Listening:
    """The socket was bound and receives from now on."""

    address: Address
    """The local address."""


@attrs.frozen
class Connected:
    """The socket was connected to a peer."""

    address: Address
    """The peer's address."""


@attrs.frozen(eq=False)
class Failure:
    """An error that no task is there to be told: an ICMP error, a failed reply, a receive error in the
    background."""

    error: OSError
    """What went wrong."""
    operation: str
    """What failed: ``"send"`` or ``"receive"``."""
    address: Address | None
    """The peer that it is about, where that is known."""


@attrs.frozen
class Closed:
    """The socket was closed; the last event of every channel that takes it."""


Event: TypeAlias = Listening | Connected | Datagram | Failure | Closed
"""Any event of a socket."""
