"""The events of a socket, designed for ``match``."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from .addresses import Address
from .datagrams import Datagram


@attrs.frozen
class Listening:
    """The socket was bound; from now on it receives.

    Attributes:
      address (Address): the local address.
    """

    address: Address


@attrs.frozen
class Connected:
    """The socket was connected.

    Attributes:
      address (Address): the address of the peer.
    """

    address: Address


@attrs.frozen(eq=False)
class Failure:
    """An error that no call raised: an ICMP error, a failed reply, a receive error in the background, or a datagram of
    a proxy without its header.

    Attributes:
      error (OSError): the error.
      operation (str): the operation that failed: ``"send"`` or ``"receive"``.
      address (Address | None): the peer that it concerns, if known.
    """

    error: OSError
    operation: str
    address: Address | None


@attrs.frozen
class Closed:
    """The socket was closed: the last event of every channel that subscribes to it."""


Event: TypeAlias = Listening | Connected | Datagram | Failure | Closed
"""Any event of a socket."""
