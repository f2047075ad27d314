"""Answering from the address that was asked, on a socket that is bound to the wildcard address.

A service enables the report of local addresses once, and keeps the destination of its answers to each peer until the
peer asks at another address: then sending an answer costs no more than the system call.
"""

from __future__ import annotations

from time import perf_counter

from trio.lowlevel import checkpoint_if_cancelled

from .._codecs.families import Destination
from .._values.addresses import ProxiedAddress, ScopedReceivedAddress
from .._values.datagrams import Datagram, info_for_reply
from .datagram_socket import DatagramSocket

# ruff: noqa: SLF001 -- a part of the socket layer


def enable_reply_address(socket: DatagramSocket) -> bool:
    """Make ``socket`` attach the local address and the interface to each datagram.

    The datagrams to one address share one ``ReceivedPacketInfo``, so that a change is recognized by its identity;
    ``Datagram.reply`` answers from that address. A socket with ``packet_info=True`` stays as it is. Datagrams that were
    queued before have their destination as well, but no interface.

    Args:
      socket: a socket that exists already; it may be adopted.

    Returns:
      Whether it does. False, and nothing has changed, for a ``"unix"`` socket, and where the system, the kernel or the
      custom socket factory does not report the address.
    """
    return socket._descriptor.enable_local_address()


def reply_destination(socket: DatagramSocket, datagram: Datagram) -> Destination | None:
    """Return the destination and the local address of answers to ``datagram``, for :func:`send_to`.

    Args:
      socket: the socket that received it; bound and not connected.
      datagram: a datagram that was received.

    Returns:
      The destination, which remains valid while the source and the info are those of ``datagram``; ``None`` if only
      ``socket.send(datagram.reply(...))`` will do: the zone of the peer may come to denote another interface, and the
      proxy may forward the client's datagrams from another port.
    """
    _, address, info = datagram
    if info is not None:
        info = info_for_reply(info, address)
    if type(address) is ProxiedAddress:
        return None
    if type(address) is ScopedReceivedAddress and (info is None or info.interface is None):
        return None
    association = socket._association
    known = association.route(address) if info is None else association.route_with_info(address, info)
    return known or association.resolve_bound(address, info, from_datagram=True)


async def send_to(socket: DatagramSocket, payload: bytes, destination: Destination) -> None:
    """Send one datagram as ``socket.send`` does, to a destination that :func:`reply_destination` has returned."""
    lifetime, budget = socket._lifetime, socket._budget
    if lifetime.closed:
        lifetime.check("send")
    budget.left = left = budget.left - 1
    if left > 0 and perf_counter() < budget.deadline:
        await checkpoint_if_cancelled()
    else:
        await budget.checkpoint()
        lifetime.check("send")
    outbox = socket._outbox
    error = outbox.try_send(payload, destination)
    if error is None:
        outbox.sent += 1
    else:
        await outbox.recover(error, payload, destination)
