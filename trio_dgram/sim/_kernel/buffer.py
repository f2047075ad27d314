"""The receive buffer of a socket, with Linux's charges and its way of giving space back."""

from __future__ import annotations

from typing import Final

DEFAULT_SIZE: Final = 212_992
"""SO_RCVBUF as Linux has it by default, in bytes (net.core.rmem_default)."""
SMALLEST_SIZE: Final = 2304
"""What Linux makes of a smaller SO_RCVBUF, in bytes."""

_CHARGES: Final = ((197, 832), (645, 1280), (1669, 2304), (3717, 4352), (7813, 8448))
"""Payload up to so many bytes is charged so many, as measured on IPv4 loopback."""
_LARGEST_CHARGE: Final = 16_640


def charge_of(size: int) -> int:
    """Return how much of the buffer a payload of ``size`` bytes takes, in bytes."""
    for limit, charge in _CHARGES:
        if size <= limit:
            return charge
    return _LARGEST_CHARGE


class ReceiveBuffer:
    """How much of a receive buffer is taken. The datagrams themselves are elsewhere."""

    __slots__ = ("_freed", "drops", "size", "taken")

    def __init__(self) -> None:
        self.size: int = DEFAULT_SIZE
        self.taken: int = 0
        self.drops: int = 0
        self._freed = 0

    def admit(self, payload_size: int) -> int:
        """Charge for one datagram and return the charge; 0 if there is no room, which is counted."""
        charge = charge_of(payload_size)
        # One alone always fits.
        if self.taken and self.taken + charge > self.size:
            self.drops += 1
            return 0
        self.taken += charge
        return charge

    def give_back(self, charge: int, *, empty: bool) -> None:
        """Free what a datagram took that was read; ``empty`` if none is left.

        Linux gives space back in quarters of the buffer, or when nothing is left.
        """
        self._freed += charge
        if empty or self._freed >= self.size >> 2:
            self.taken -= self._freed
            self._freed = 0
