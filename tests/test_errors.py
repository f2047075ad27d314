"""Errors of a wrong state leave the socket usable; values and errors can be compared, copied and pickled."""

from __future__ import annotations

import copy
import errno
import math
import pickle
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest

import trio_dgram
from trio_dgram import Address, Datagram, DatagramSocket, PacketInfo, PeerUnreachable, SendManyError
from trio_dgram._values.errors import with_context

from .support.families import Family


async def works(sock: DatagramSocket, udp: Family) -> None:
    """Send the socket a datagram of its own, and receive it."""
    before = sock.statistics()
    await sock.send(b"works", (udp.loopback, sock.address.port))
    assert (await sock.receive()).data == b"works"
    after = sock.statistics()
    assert (after.sent - before.sent, after.received - before.received) == (1, 1)


State = Callable[[DatagramSocket], Awaitable[object]]

WRONG_STATES: dict[str, tuple[str, State, type[Exception], str]] = {
    "bind": ("bound", lambda sock: sock.bind(), trio_dgram.AlreadyBoundError, "bound already"),
    "send": ("bound", lambda sock: sock.send(b"x"), trio_dgram.NotConnectedError, "not connected"),
    "receive": ("unbound", lambda sock: sock.receive(), trio_dgram.NotBoundError, "no local address"),
    "receive_many": ("unbound", lambda sock: sock.receive_many(), trio_dgram.NotBoundError, "no local address"),
    "connect": ("connected", lambda sock: sock.connect(("", 9)), trio_dgram.AlreadyConnectedError, "already"),
    "send to": ("connected", lambda sock: sock.send(b"x", ("", 9)), trio_dgram.AlreadyConnectedError, "connected to"),
}


@pytest.mark.parametrize(("state", "call", "error", "names"), WRONG_STATES.values(), ids=WRONG_STATES)
async def test_an_operation_in_the_wrong_state_raises_and_the_socket_works_afterwards(
    udp: Family, state: str, call: State, error: type[Exception], names: str
) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        if state != "unbound":
            await sock.bind(0, udp.loopback)
        if state == "connected":
            await sock.connect(sock.address)
        with pytest.raises(error, match=names) as caught:
            await call(sock)
        assert isinstance(caught.value, trio_dgram.SocketStateError)
        assert isinstance(caught.value, trio_dgram.DatagramError)
        if state == "connected":
            sock.disconnect()
        if state == "unbound":
            await sock.bind(0, udp.loopback)
        await works(sock, udp)


def test_values_are_immutable_and_compare_by_content(udp: Family) -> None:
    address = Address(udp.loopback, 1)
    datagram = Datagram(b"x", address)
    assert datagram == Datagram(data=b"x", address=address, info=None)
    with pytest.raises(AttributeError):
        datagram.data = b"y"  # type: ignore[misc]
    assert PacketInfo(ecn=1) == PacketInfo(ecn=1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        PacketInfo().ecn = 1  # type: ignore[misc]


async def test_an_unbounded_buffer_is_allowed(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        assert not sock.events(max_buffer_size=math.inf).closed


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 -- our own


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_errors_can_be_copied_and_pickled(again: Callable[[Any], Any]) -> None:
    to = Address("192.0.2.1", 9)
    unreachable = PeerUnreachable(
        errno.ECONNREFUSED, icmp_type=3, icmp_code=3, reason="port unreachable", offender=None, path_mtu=None
    )
    with_context(unreachable, "send", to)
    refused = with_context(OSError(errno.EACCES, "no"), "send", to)
    for error in (unreachable, SendManyError(refused, 3, 2)):
        copied = again(error)
        assert type(copied) is type(error)
        assert (copied.errno, str(copied), vars(copied)) == (error.errno, str(error), vars(error))
