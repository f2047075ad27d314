"""The datagram: what sockets receive and can send."""

from __future__ import annotations

from typing import NamedTuple

import attrs

from .addresses import Address, ReceivedAddress, as_received, is_link_local, new_tuple


@attrs.frozen
class Credentials:
    """Who sent a datagram over a ``"unix"`` socket, as the kernel attests it (unix(7))."""

    pid: int
    """The process."""
    uid: int
    """Its user."""
    gid: int
    """Its group."""


@attrs.frozen(kw_only=True)
class PacketInfo:
    """What came with a datagram besides its payload, or what is to go out with it (RFC 3542, ip(7)).

    A field that the platform cannot tell, or that is not to be chosen, is ``None``. What can be chosen for a datagram
    to send are the local address, the interface, ECN (0 to 2: congestion is for routers to say), DSCP and the hop
    limit (from 1); the rest is passed over then. Linux only.
    """

    local_address: str | None = None
    """The local IP address: the one it was sent to, or the one to send it from."""
    interface: int | None = None
    """The index of the interface that it came in on, or is to leave by."""
    ecn: int | None = None
    """The two bits of Explicit Congestion Notification (RFC 3168): 0 to 3."""
    dscp: int | None = None
    """The Differentiated Services code point (RFC 2474): 0 to 63."""
    hop_limit: int | None = None
    """The hop limit (IPv6) or time to live (IPv4), in hops: 0 to 255."""
    timestamp_ns: int | None = None
    """When the kernel received it, in nanoseconds since the epoch."""
    truncated: bool = False
    """Whether the payload was longer than what is here."""
    credentials: Credentials | None = None
    """The sending process, on ``"unix"`` sockets."""


@attrs.frozen(kw_only=True)
class ReceivedPacketInfo(PacketInfo):
    """What came with a datagram, as the network and the kernel chose it: an answer carries on little of it."""

    unicast_address: str | None = None
    """The local address to answer from; none where the datagram went to a group and the kernel names no other."""


class Datagram(NamedTuple):
    """One datagram. An immutable value.

    A named tuple because one is made for every datagram that comes in, and nothing is cheaper to make.
    """

    data: bytes
    """The payload, in bytes; it may be empty."""
    address: Address
    """The peer: the sender of a received datagram, the destination of one to send."""
    info: PacketInfo | None = None
    """What came with it, or is to go with it."""

    def reply(self, data: bytes) -> Datagram:
        """Return a datagram with ``data`` back to the peer, from the address that this one came to where
        that is known.

        Since the network chose the peer, sending it never raises what that address causes: such an error is
        counted and reported as a :class:`Failure`.
        """
        _, address, info = self
        if not isinstance(address, ReceivedAddress):
            address = as_received(address)
        if info is not None:
            info = answering(info, address)
        answer: Datagram = new_tuple(Datagram, (data, address, info))
        return answer


def answering(info: PacketInfo, peer: Address) -> PacketInfo | None:
    """Return what of ``info`` an answer to ``peer`` carries on: the address to answer from and, if a link is all that
    they share, the interface."""
    local = info.unicast_address if isinstance(info, ReceivedPacketInfo) else info.local_address
    if local is not None and _is_ipv6(local) != _is_ipv6(peer.host):
        # Sent on to somebody of the other family, which has no such address.
        local = None
    interface = info.interface if is_link_local(peer.host) or is_link_local(local or "") else None
    return None if local is None and interface is None else PacketInfo(local_address=local, interface=interface)


def _is_ipv6(host: str) -> bool:
    return ":" in host and not host.startswith("::ffff:")
