"""The receive buffer of a socket, with Linux's charges and its batched release of space."""

from __future__ import annotations

from typing import Final

DEFAULT_SIZE: Final = 212_992
"""SO_RCVBUF as Linux has it by default, in bytes (net.core.rmem_default)."""
SMALLEST_SIZE: Final = 2304
"""The value to which Linux raises a smaller SO_RCVBUF, in bytes."""

_CHARGES: Final = ((197, 832), (645, 1280), (1669, 2304), (3717, 4352), (7813, 8448))
"""Pairs of a payload size and the charge for payloads up to it, in bytes, as measured on IPv4 loopback."""
_LARGEST_CHARGE: Final = 16_640


def charge_of(size: int) -> int:
    """Return the charge for a payload of ``size`` bytes, in bytes."""
    for limit, charge in _CHARGES:
        if size <= limit:
            return charge
    return _LARGEST_CHARGE


class ReceiveBuffer:
    """The fill level of a receive buffer. The datagrams themselves are stored elsewhere."""

    __slots__ = ("_freed", "charged", "drops", "size")

    def __init__(self) -> None:
        self.size: int = DEFAULT_SIZE
        self.charged: int = 0
        self.drops: int = 0
        self._freed = 0

    def admit(self, payload_size: int) -> int:
        """Charge for one datagram and return the charge; return 0 and count a drop if the buffer is full."""
        charge = charge_of(payload_size)
        # An empty buffer accepts a datagram of any size.
        if self.charged and self.charged + charge > self.size:
            self.drops += 1
            return 0
        self.charged += charge
        return charge

    def give_back(self, charge: int, *, empty: bool) -> None:
        """Release the charge of a datagram that was read; ``empty`` if no datagram is left.

        Linux returns space in quarters of the buffer, or once it is empty.
        """
        self._freed += charge
        if empty or self._freed >= self.size >> 2:
            self.charged -= self._freed
            self._freed = 0
