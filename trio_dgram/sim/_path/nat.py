"""Network address translation, without a clock: which address an inside host has outside, and who may answer it
(RFC 4787)."""

from __future__ import annotations

import random
from typing import Final, Literal, TypeAlias, TypeVar

import attrs

from ..._values.addresses import Address
from .._values.records import Packet, Report

K = TypeVar("K")
V = TypeVar("V")

Behaviour: TypeAlias = Literal["endpoint", "address", "address-port"]
"""Whether something is independent of the peer, or depends on its address, or on its address and port (RFC 4787, 4.1
and 5)."""

NO_MAPPING: Final = "the NAT has no mapping"
FILTERED: Final = "filtered by the NAT"
NO_PORT: Final = "the NAT has no port left"
NO_HAIRPIN: Final = "the NAT does not turn packets back"

_PORTS: Final = range(1024, 65536)
_MOST_PEERS: Final = 4096
"""How many peers a mapping remembers that may answer it, and a translator of those that something came from."""


@attrs.define
class Mapping:
    """What an inside address is outside, towards everybody or some."""

    inside: Address
    """The inside address."""
    port: int
    """The port that it has outside."""
    last_used: float
    """When something last went out by it, in seconds since the network was opened."""
    peers: dict[Address, None] = attrs.field(factory=dict, repr=False)
    """To whom something went out by it, the latest last."""


class Nat:
    """One translator.

    Args:
      name: what it is called in the trace.
      address: its address outside.
      mapping: whether an inside address has one port outside for all peers, or one for each address, or each address
        and port.
      filtering: whose answers are let in: everybody's, or those of addresses, or of addresses and ports, that
        something was sent to.
      timeout: how long a mapping lasts by which nothing goes out, in seconds.
      hairpin: whether inside hosts reach each other by their outside addresses.
      ports: decides which ports are taken.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        mapping: Behaviour,
        filtering: Behaviour,
        timeout: float,
        hairpin: bool,
        ports: random.Random,
    ) -> None:
        self.name: str = name
        self.address: str = address
        self._mapping = mapping
        self._filtering = filtering
        self._timeout = timeout
        self._hairpin = hairpin
        self._ports = ports
        self._by_use: dict[tuple[Address, object], Mapping] = {}
        self._by_port: dict[int, Mapping] = {}
        self._came_in: dict[tuple[Address, Address], int] = {}
        """The port outside by which something came in last, by inside address and peer."""

    def rebind(self, address: str) -> None:
        """Forget every mapping and have another address outside."""
        self.address = address
        self._by_use.clear()
        self._by_port.clear()
        self._came_in.clear()

    def mappings(self, now: float) -> list[Mapping]:
        """Return what is mapped now, as copies."""
        lasting = [mapping for mapping in self._by_port.values() if self._lasts(mapping, now)]
        return [attrs.evolve(mapping, peers=dict(mapping.peers)) for mapping in lasting]

    def find(self, port: int, now: float) -> Address | None:
        """Return the inside address that has ``port`` outside, if any has."""
        mapping = self._by_port.get(port)
        return mapping.inside if mapping is not None and self._lasts(mapping, now) else None

    # What passes

    def leave(self, packet: Packet, now: float) -> Packet | str:
        """Return a packet from inside as it is outside, or why it does not get there."""
        if packet.report is not None:
            return self._leave_report(packet, packet.report, now)
        mapping = self._map(packet.source, packet.destination, now)
        if mapping is None:
            return NO_PORT
        return attrs.evolve(packet, source=Address(self.address, mapping.port))

    def enter(self, packet: Packet, now: float) -> Packet | str:
        """Return a packet for the outside address as it is inside, or why it does not get there."""
        if packet.report is not None:
            return self._enter_report(packet, packet.report, now)
        mapping = self._by_port.get(packet.destination.port)
        if mapping is None or not self._lasts(mapping, now):
            return NO_MAPPING
        if packet.source.host == self.address and not self._hairpin:
            return NO_HAIRPIN
        if not self._lets_in(mapping, packet.source):
            return FILTERED
        _remember(self._came_in, (mapping.inside, packet.source), mapping.port)
        return attrs.evolve(packet, destination=mapping.inside)

    def _lets_in(self, mapping: Mapping, peer: Address) -> bool:
        if self._filtering == "endpoint":
            return True
        if self._filtering == "address":
            return any(host == peer.host for host, _ in mapping.peers)
        return peer in mapping.peers

    # What ICMP quotes is translated with it (RFC 5508)

    def _leave_report(self, packet: Packet, report: Report, now: float) -> Packet | str:
        """It is about a packet that came in: outside that was for an outside address."""
        about = report.about
        # Not where an answer would go out by: it may have come in by what is mapped for another peer.
        port = self._came_in.get((about.destination, about.source), 0)
        if self.find(port, now) != about.destination:
            return NO_MAPPING
        quoted = attrs.evolve(about, destination=Address(self.address, port))
        return attrs.evolve(packet, source=Address(self.address, 0), report=attrs.evolve(report, about=quoted))

    def _enter_report(self, packet: Packet, report: Report, now: float) -> Packet | str:
        """It is about a packet that went out: inside that came from an inside address."""
        inside = self.find(report.about.source.port, now)
        if inside is None:
            return NO_MAPPING
        quoted = attrs.evolve(report.about, source=inside)
        return attrs.evolve(packet, destination=Address(inside.host, 0), report=attrs.evolve(report, about=quoted))

    # Mappings

    def _part(self, peer: Address) -> object:
        """Return what of a peer a mapping depends on."""
        return {"endpoint": None, "address": peer.host, "address-port": peer}[self._mapping]

    def _lasts(self, mapping: Mapping, now: float) -> bool:
        return now - mapping.last_used <= self._timeout

    def _map(self, source: Address, peer: Address, now: float) -> Mapping | None:
        use = (source, self._part(peer))
        mapping = self._by_use.get(use)
        if mapping is None or not self._lasts(mapping, now):
            if mapping is not None:
                del self._by_port[mapping.port], self._by_use[use]
            port = self._free_port(now)
            if port is None:
                return None
            mapping = self._by_use[use] = self._by_port[port] = Mapping(source, port, now)
        mapping.last_used = now
        _remember(mapping.peers, peer, None)
        return mapping

    def _free_port(self, now: float) -> int | None:
        if len(self._by_port) == len(_PORTS):
            self._forget_expired(now)
        if len(self._by_port) == len(_PORTS):
            return None
        position = int(self._ports.random() * len(_PORTS))
        while _PORTS[position] in self._by_port:
            position = (position + 1) % len(_PORTS)
        return _PORTS[position]

    def _forget_expired(self, now: float) -> None:
        self._by_use = {use: mapping for use, mapping in self._by_use.items() if self._lasts(mapping, now)}
        self._by_port = {mapping.port: mapping for mapping in self._by_use.values()}


def _remember(latest: dict[K, V], key: K, value: V) -> None:
    """Put something last, and forget what has been there longest if that is too much."""
    latest.pop(key, None)
    latest[key] = value
    if len(latest) > _MOST_PEERS:
        del latest[next(iter(latest))]
