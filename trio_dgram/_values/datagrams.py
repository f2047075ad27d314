"""The datagram: what a socket receives and sends."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import attrs

from .addresses import (
    Address,
    ProxiedAddress,
    ReceivedAddress,
    as_received,
    is_link_local,
    is_mapped,
    new_tuple,
)


@attrs.frozen
class Credentials:
    """The process that sent a datagram over a ``"unix"`` socket, as the kernel attests it (unix(7)).

    Attributes:
      pid (int): the process ID.
      uid (int): the user ID.
      gid (int): the group ID.
    """

    pid: int
    uid: int
    gid: int


@attrs.frozen(kw_only=True)
class ProxyHeader:
    """The header that a proxy put before a datagram (the PROXY protocol of HAProxy, versions 1 and 2).

    Attributes:
      command (Literal['proxy', 'local']): ``"proxy"`` for a datagram of a client, ``"local"`` for one of the proxy
        itself, such as a health check.
      source (Address | None): the address of the client; None for ``"local"`` without addresses.
      destination (Address | None): the address that the client sent to; None for ``"local"`` without addresses.
      tlvs (tuple[tuple[int, bytes], ...]): type and value of each extension, in order, without padding.
    """

    command: Literal["proxy", "local"]
    source: Address | None
    destination: Address | None
    tlvs: tuple[tuple[int, bytes], ...] = ()


@attrs.frozen(kw_only=True)
class PacketInfo:
    """Metadata of a received datagram, or of one to send (RFC 3542, ip(7)).

    A field that the platform does not report, or that leaves the choice to the socket, is ``None``. For a datagram to
    send, the local address, interface, ECN, DSCP and hop limit count; the other fields are ignored. Linux only.

    Attributes:
      local_address (str | None): the local IP address: the one the datagram was sent to, or the source to send it
        from. Default: None.
      interface (int | None): the index of the interface that received it, or that sends it. Default: None.
      ecn (int | None): the ECN bits (RFC 3168), 0 to 3; 0 to 2 to send. Default: None.
      dscp (int | None): the Differentiated Services code point (RFC 2474), 0 to 63. Default: None.
      hop_limit (int | None): the hop limit (IPv6) or time to live (IPv4), 0 to 255 hops; from 1 to send.
        Default: None.
      timestamp_ns (int | None): when the kernel received it, in nanoseconds since the epoch; with receive offload the
        time of its batch. Default: None.
      truncated (bool): whether the payload was longer than ``data``. Default: False.
      credentials (Credentials | None): the sending process, on ``"unix"`` sockets. Default: None.
      proxy_header (ProxyHeader | None): the header of the proxy, on sockets with ``proxy_protocol``. Default: None.
    """

    local_address: str | None = None
    interface: int | None = None
    ecn: int | None = None
    dscp: int | None = None
    hop_limit: int | None = None
    timestamp_ns: int | None = None
    truncated: bool = False
    credentials: Credentials | None = None
    proxy_header: ProxyHeader | None = None


@attrs.frozen(kw_only=True)
class ReceivedPacketInfo(PacketInfo):
    """The metadata of a received datagram: the network chose it, so a reply carries on little of it."""

    unicast_address: str | None = None
    """The local address to reply from; ``None`` if the destination was a group and the kernel reports no other."""


class Datagram(NamedTuple):
    """One datagram: an immutable value.

    Attributes:
      data (bytes): the payload; it may be empty.
      address (Address): the peer: the source of a received datagram, the destination of one to send.
      info (PacketInfo | None): its metadata, received or to send. Default: None.
    """

    # A named tuple because nothing is cheaper to create, and one is created per datagram.

    data: bytes
    address: Address
    info: PacketInfo | None = None

    def reply(self, data: bytes) -> Datagram:
        """Return a datagram with ``data`` to the peer, from the local address that this one was sent to if known.

        The network chose the peer's address, so sending the reply never raises an error that this address causes: it
        is counted and reported as a :class:`Failure`.

        Args:
          data: the payload of the reply, in bytes.
        """
        _, address, info = self
        if not isinstance(address, ReceivedAddress):
            address = as_received(address)
        if info is not None:
            info = info_for_reply(info, address)
        answer: Datagram = new_tuple(Datagram, (data, address, info))
        return answer


def info_for_reply(info: PacketInfo, peer: Address) -> PacketInfo | None:
    """Return the part of ``info`` that a reply to ``peer`` keeps: the local address and, if the two share only a link,
    the interface."""
    local = info.unicast_address if isinstance(info, ReceivedPacketInfo) else info.local_address
    # The reply to a client behind a proxy is sent to the proxy, perhaps over the other family.
    host = peer.proxy.host if type(peer) is ProxiedAddress else peer.host
    if local is not None and _is_ipv6(local) != _is_ipv6(host):
        # The datagram is forwarded to a peer of the other family, which that address cannot reach.
        local = None
    interface = info.interface if is_link_local(host) or is_link_local(local or "") else None
    if local is None and interface is None:
        return None
    known = _replies.get((local, interface))
    return known or _remember_reply(local, interface)


def _is_ipv6(host: str) -> bool:
    return ":" in host and not is_mapped(host)


_replies: Final[dict[tuple[str | None, int | None], PacketInfo]] = {}
"""One value for each local address: creating it would cost as much as sending the reply, and the socket recognizes it
by its identity."""
_MOST_REPLIES: Final = 1024
"""How many of them are kept: the network may choose the local addresses."""


def _remember_reply(local: str | None, interface: int | None) -> PacketInfo:
    if len(_replies) >= _MOST_REPLIES:
        _replies.clear()
    return _replies.setdefault((local, interface), PacketInfo(local_address=local, interface=interface))
