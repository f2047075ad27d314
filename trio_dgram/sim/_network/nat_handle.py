"""The public handle of a NAT."""

from __future__ import annotations

from .._path.fabric import Fabric
from .._path.nat import Mapping, Nat


class NatHandle:
    """A NAT of a simulated network. Made by :meth:`Network.nat`."""

    def __init__(self, nat: Nat, fabric: Fabric) -> None:
        self._nat = nat
        self._fabric = fabric
        self._rebound = 0

    @property
    def address(self) -> str:
        """Its outside IPv4 address."""
        return self._nat.address

    @property
    def mappings(self) -> list[Mapping]:
        """Its current mappings."""
        return self._nat.mappings(self._fabric.now())

    def rebind(self) -> None:
        """Drop every mapping and change the outside address, as a router does that redials: datagrams to the old
        address are dropped, and inside hosts continue with the new one."""
        self._rebound += 1
        self._fabric.rebind(self._nat, self._fabric.free_address(f"{self._nat.name}, {self._rebound} times rebound"))
        self._fabric.note("", f"{self._nat.name} rebinds to {self.address}", "fault")

    def __repr__(self) -> str:
        return f"<trio_dgram.sim.NatHandle {self._nat.name}: {self.address}>"
