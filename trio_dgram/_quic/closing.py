"""The IDs of connections that have closed: late packets are answered without the connection (RFC 9000, 10.2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import attrs

_MOST: Final = 1024


@attrs.define
class _Closing:
    farewell: bytes
    expires_at: float
    received: int = 0


class ClosingIds:
    """The IDs of closed connections, the oldest first; at most 1,024."""

    def __init__(self) -> None:
        self._closing: OrderedDict[bytes, _Closing] = OrderedDict()

    def add(self, ids: Iterable[bytes], farewell: bytes, expires_at: float) -> None:
        """Remember the IDs of a connection that closed, and the datagram that has closed it, if any."""
        closing = _Closing(farewell, expires_at)
        for each in ids:
            self._closing[each] = closing
        while len(self._closing) > _MOST:
            self._closing.popitem(last=False)

    def answer(self, connection_id: bytes, size: int, now: float) -> bytes | None:
        """Return the answer to a datagram of ``size`` bytes, empty for none; None if the ID is not known.

        Datagrams number 1, 2, 4, 8... are answered, and never by more bytes than they have.
        """
        closing = self._closing.get(connection_id)
        if closing is None:
            return None
        if now > closing.expires_at:
            del self._closing[connection_id]
            return None
        closing.received += 1
        is_due = closing.received & (closing.received - 1) == 0
        return closing.farewell if is_due and len(closing.farewell) <= size else b""
