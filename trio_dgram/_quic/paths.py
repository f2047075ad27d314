"""The paths of a connection: the socket and the local address by which each address of the peer is reached."""

from __future__ import annotations

from typing import Final, NamedTuple

from .._socket.datagram_socket import DatagramSocket
from .._values.addresses import Address
from .._values.datagrams import Datagram

_MOST: Final = 16
"""The most paths that are kept: unauthenticated datagrams can have any source."""


class Path(NamedTuple):
    """The latest datagram of an address, and the socket that has received it."""

    socket: DatagramSocket
    latest: Datagram

    @property
    def local_address(self) -> Address:
        """The local address that the peer sends to, as far as that is known."""
        local, info = self.socket.address, self.latest.info
        return local if info is None or info.local_address is None else Address(info.local_address, local.port)


class Paths:
    """The latest path of each address; the current one is never evicted."""

    def __init__(self, first: Path) -> None:
        self.current: Path = first
        self._paths: dict[Address, Path] = {first.latest.address: first}

    def note(self, path: Path) -> None:
        """Record the path of a received datagram."""
        address = path.latest.address
        self._paths.pop(address, None)
        self._paths[address] = path
        if len(self._paths) > _MOST:
            del self._paths[next(iter(self._paths))]

    def use(self, address: tuple[str, int]) -> bool:
        """Make the path of ``address`` the current one; return whether the address has changed."""
        former, self.current = self.current, self.to(address)
        return former.latest.address != self.current.latest.address

    def to(self, address: tuple[str, int]) -> Path:
        """Return the path to an address."""
        return self._paths.get(Address(*address), self.current)

    def replace_socket(self, path: Path) -> None:
        """Use another socket for the same peer address."""
        self.current = path
        self._paths = {path.latest.address: path}
