"""Network address translation, without a clock: the outside addresses of inside hosts, and the filter for incoming
packets (RFC 4787)."""

from __future__ import annotations

from collections.abc import Callable
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
"""The most peers that a mapping remembers as allowed to send in, and a translator as having sent in."""


@attrs.define
class Mapping:
    """The outside port of an inside address, for all peers or for some."""

    inside: Address
    """The inside address."""
    port: int
    """Its outside port."""
    last_used: float
    """The time of its last outgoing packet, in seconds since the network was opened."""
    peers: dict[Address, None] = attrs.field(factory=dict, repr=False)
    """The destinations of its outgoing packets, the latest last."""


class Nat:
    """One translator.

    Args:
      name: its name in the trace.
      address: its outside address.
      mapping: whether an inside address has one outside port for all peers, or one for each address, or each address
        and port.
      filtering: which sources may send in: all, or only addresses, or addresses and ports, that were sent to.
      timeout: the lifetime of a mapping without outgoing packets, in seconds.
      hairpin: whether inside hosts reach each other by their outside addresses.
      choose_port: returns which of the outside ports the next mapping gets, counted from 0, if it is free.
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
        choose_port: Callable[[], int],
    ) -> None:
        self.name: str = name
        self.address: str = address
        self._mapping = mapping
        self._filtering = filtering
        self._timeout = timeout
        self._hairpin = hairpin
        self._choose_port = choose_port
        self._by_use: dict[tuple[Address, object], Mapping] = {}
        self._by_port: dict[int, Mapping] = {}
        self._came_in: dict[tuple[Address, Address], int] = {}
        """The outside port of the last incoming packet, by inside address and peer."""

    def rebind(self, address: str) -> None:
        """Drop every mapping and change the outside address."""
        self.address = address
        self._by_use.clear()
        self._by_port.clear()
        self._came_in.clear()

    def mappings(self, now: float) -> list[Mapping]:
        """Return the current mappings, as copies."""
        lasting = [mapping for mapping in self._by_port.values() if self._lasts(mapping, now)]
        return [attrs.evolve(mapping, peers=dict(mapping.peers)) for mapping in lasting]

    def find(self, port: int, now: float) -> Address | None:
        """Return the inside address of the outside ``port``, if it is mapped."""
        mapping = self._by_port.get(port)
        return mapping.inside if mapping is not None and self._lasts(mapping, now) else None

    # Translation

    def leave(self, packet: Packet, now: float) -> Packet | str:
        """Return the translated form of a packet from inside, or the reason of its drop."""
        if packet.report is not None:
            return self._leave_report(packet, packet.report, now)
        mapping = self._map(packet.source, packet.destination, now)
        if mapping is None:
            return NO_PORT
        return attrs.evolve(packet, source=Address(self.address, mapping.port))

    def enter(self, packet: Packet, now: float) -> Packet | str:
        """Return the translated form of a packet to the outside address, or the reason of its drop."""
        if packet.report is not None:
            return self._enter_report(packet, packet.report, now)
        mapping = self._by_port.get(packet.destination.port)
        if mapping is None or not self._lasts(mapping, now):
            return NO_MAPPING
        if packet.source.host == self.address and not self._hairpin:
            return NO_HAIRPIN
        if not self._accepts(mapping, packet.source):
            return FILTERED
        _remember(self._came_in, (mapping.inside, packet.source), mapping.port)
        return attrs.evolve(packet, destination=mapping.inside)

    def _accepts(self, mapping: Mapping, peer: Address) -> bool:
        if self._filtering == "endpoint":
            return True
        if self._filtering == "address":
            return any(host == peer.host for host, _ in mapping.peers)
        return peer in mapping.peers

    # ICMP errors: the quoted packet is translated, too (RFC 5508)

    def _leave_report(self, packet: Packet, report: Report, now: float) -> Packet | str:
        """Translate an error about an incoming packet: outside its destination was an outside address."""
        about = report.about
        # Use the port by which the packet came in; an answer could leave by the mapping of another peer.
        port = self._came_in.get((about.destination, about.source), 0)
        if self.find(port, now) != about.destination:
            return NO_MAPPING
        quoted = attrs.evolve(about, destination=Address(self.address, port))
        return attrs.evolve(packet, source=Address(self.address, 0), report=attrs.evolve(report, about=quoted))

    def _enter_report(self, packet: Packet, report: Report, now: float) -> Packet | str:
        """Translate an error about an outgoing packet: inside its source was an inside address."""
        inside = self.find(report.about.source.port, now)
        if inside is None:
            return NO_MAPPING
        quoted = attrs.evolve(report.about, source=inside)
        return attrs.evolve(packet, destination=Address(inside.host, 0), report=attrs.evolve(report, about=quoted))

    # Mappings

    def _part(self, peer: Address) -> object:
        """Return the part of a peer's address that a mapping depends on."""
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
        position = self._choose_port() % len(_PORTS)
        while _PORTS[position] in self._by_port:
            position = (position + 1) % len(_PORTS)
        return _PORTS[position]

    def _forget_expired(self, now: float) -> None:
        self._by_use = {use: mapping for use, mapping in self._by_use.items() if self._lasts(mapping, now)}
        self._by_port = {mapping.port: mapping for mapping in self._by_use.values()}


def _remember(latest: dict[K, V], key: K, value: V) -> None:
    """Move a key to the end, and evict the oldest beyond the limit."""
    latest.pop(key, None)
    latest[key] = value
    if len(latest) > _MOST_PEERS:
        del latest[next(iter(latest))]
