"""Mistakes in the use of the library raise errors that name the mistake and the correction."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Awaitable, Callable
from threading import Thread
from typing import Any, Final, cast

import pytest
import trio

import trio_dgram
from trio_dgram import Address, Datagram, DatagramSocket, SocketOptions

from .support.families import Family

NEEDS_TRIO: Final = r"trio_dgram needs a Trio event loop \(trio\.run\)"


# The event loop

BLOCKS: Final[dict[str, Callable[[], Any]]] = {
    "open_socket": lambda: trio_dgram.open_socket("udp4"),
    "a bound socket": lambda: trio_dgram.open_socket("udp6", port=0),
    "a connected socket": lambda: trio_dgram.open_socket("udp4", connect=("localhost", 9)),
    "open_nursery": trio_dgram.open_nursery,
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_a_block_under_asyncio_raises(block: Callable[[], Any]) -> None:
    async def enter() -> None:
        async with block():
            raise AssertionError

    with pytest.raises(RuntimeError, match=NEEDS_TRIO):
        asyncio.run(enter())


def test_resolving_under_asyncio_raises() -> None:
    with pytest.raises(RuntimeError, match=NEEDS_TRIO):
        asyncio.run(trio_dgram.resolve("localhost", 9, "udp4"))


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_a_block_outside_any_event_loop_raises(block: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError, match=NEEDS_TRIO):
        block()


@pytest.mark.parametrize("function", ["open_socket", "open_nursery"])
async def test_a_plain_with_names_async_with(function: str) -> None:
    block = cast("Any", BLOCKS[function]())
    with pytest.raises(RuntimeError, match=rf"use 'async with {function}\(\.\.\.\)', not 'with {function}\(\.\.\.\)'"):
        with block:
            raise AssertionError


# Options and addresses


async def test_an_unknown_socket_option_lists_the_known_ones() -> None:
    options: Any = {"reuse_adress": True}
    known = ", ".join(sorted(SocketOptions.__annotations__))
    async with trio_dgram.open_nursery() as nursery:
        with pytest.raises(TypeError, match=f"^unknown socket option 'reuse_adress'; the socket options are {known}$"):
            nursery.create_socket("udp4", **options)
    with pytest.raises(TypeError, match=f"the socket options are {known}$"):
        trio_dgram.open_socket("udp4", **options)


async def test_an_unknown_listener_option_lists_the_known_ones() -> None:
    options: Any = {"max_peer": 1, "backlog": 2}
    known = ", ".join(sorted(trio_dgram.ListenerOptions.__annotations__))
    message = f"^unknown listener option 'max_peer', 'backlog'; the listener options are {known}$"
    with pytest.raises(TypeError, match=message):
        await trio_dgram.open_listeners(0, **options)


@pytest.mark.parametrize("host", ["127.255.255.255", "<broadcast>"])
async def test_a_refused_broadcast_names_the_option(host: str) -> None:
    async with trio_dgram.open_socket("udp4", device="lo") as sock:
        for send in (sock.send, sock.send_nowait) if host[0].isdigit() else (sock.send,):
            with pytest.raises(PermissionError, match="set broadcast=True to send to a broadcast address") as caught:
                answer = send(b"x", (host, 9))
                if answer is not None:  # pragma: no branch -- send_nowait raises at the call
                    await answer
            assert caught.value.errno == errno.EACCES
        sock.broadcast = True
        await sock.send(b"x", ("127.255.255.255", 9))


async def test_another_refusal_does_not_name_the_broadcast_option() -> None:
    async with trio_dgram.open_socket("udp4", broadcast=True, send_block_list=["127.0.0.0/8"]) as sock:
        with pytest.raises(trio_dgram.AddressBlockedError) as caught:
            await sock.send(b"x", ("127.255.255.255", 9))
        assert "broadcast=True" not in str(caught.value)


@pytest.mark.parametrize("kind", [tuple, Address._make])
async def test_bind_accepts_an_address_tuple(udp: Family, kind: Callable[[Any], tuple[str, int]]) -> None:
    async with trio_dgram.open_socket(udp.type) as sock:
        bound = await sock.bind(kind((udp.loopback, 0)))
        assert bound == sock.address
        assert bound.host == udp.loopback
        assert bound.port
    async with trio_dgram.open_socket(udp.type) as again:
        assert await again.bind(bound) == bound


WRONG_ADDRESSES: Final[dict[str, tuple[type[Exception], str, tuple[Any, ...]]]] = {
    "a tuple and a host": (TypeError, r"\(host, port\) tuple alone, or port and host, not both", (("::1", 0), "::1")),
    "a wrong port": (ValueError, "must be from 0 to 65535, not 70000", (("127.0.0.1", 70000),)),
    "a triple": (TypeError, r"must be a \(host, port\) tuple, not \('127.0.0.1', 0, 3\)", (("127.0.0.1", 0, 3),)),
    "a wrong host": (TypeError, "must be a string or None, not 5", ((5, 0),)),
}


@pytest.mark.parametrize(("error", "message", "args"), WRONG_ADDRESSES.values(), ids=WRONG_ADDRESSES)
async def test_bind_refuses_invalid_addresses(error: type[Exception], message: str, args: tuple[Any, ...]) -> None:
    async with trio_dgram.open_socket("udp4") as sock:
        with pytest.raises(error, match=message):
            await sock.bind(*args)
        await sock.bind(0, "127.0.0.1")


# Threads

Call = Callable[[DatagramSocket, Address], object]

SYNCHRONOUS: Final[dict[str, Call]] = {
    "add_membership": lambda sock, _: sock.add_membership("239.1.2.3", "lo"),
    "address": lambda sock, _: sock.address,
    "close": lambda sock, _: sock.close(),
    "disconnect": lambda sock, _: sock.disconnect(),
    "drop_membership": lambda sock, _: sock.drop_membership("239.1.2.3", "lo"),
    "events": lambda sock, _: sock.events(),
    "getsockopt": lambda sock, _: sock.getsockopt(1, 9),
    "memberships": lambda sock, _: sock.memberships,
    "path_mtu": lambda sock, to: sock.path_mtu(to),
    "receive_nowait": lambda sock, _: sock.receive_nowait(),
    "ref": lambda sock, _: sock.ref(),
    "rejoin_memberships": lambda sock, _: sock.rejoin_memberships(),
    "remote_address": lambda sock, _: sock.remote_address,
    "send_nowait": lambda sock, to: sock.send_nowait(b"x", to),
    "setsockopt": lambda sock, _: sock.setsockopt(1, 9, 1),
    "ttl": lambda sock, _: setattr(sock, "ttl", 3),
    "unref": lambda sock, _: sock.unref(),
}
AWAITED: Final[dict[str, Callable[[DatagramSocket, Address], Awaitable[object]]]] = {
    "bind": lambda sock, _: sock.bind(),
    "close": lambda sock, _: sock.aclose(),
    "connect": lambda sock, to: sock.connect(to),
    "receive": lambda sock, _: sock.receive(),
    "send": lambda sock, _: sock.send(b"x", ("127.0.0.1", 9)),
    "send_many": lambda sock, to: sock.send_many([Datagram(b"x", to)]),
}


def error_in_a_thread(call: Callable[[], object]) -> Exception | None:
    """Return the exception of ``call`` in a thread of its own."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 -- the test examines it
            raised.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


async def check_refusal(operation: str, call: Callable[[DatagramSocket, Address], object]) -> None:
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as sock:
        to = sock.address
        error = error_in_a_thread(lambda: call(sock, to))
        assert isinstance(error, RuntimeError)
        assert re.match(f"{operation} must run in the thread of the socket's Trio run, .*trio.from_thread", str(error))
        # The socket works as before.
        await sock.send(b"works", to)
        assert (await sock.receive()).data == b"works"
        assert sock.statistics().sent == 1


@pytest.mark.parametrize(("operation", "call"), SYNCHRONOUS.items(), ids=SYNCHRONOUS)
async def test_a_call_in_another_thread_raises(operation: str, call: Call) -> None:
    await check_refusal(operation, call)


@pytest.mark.parametrize(("operation", "call"), AWAITED.items(), ids=AWAITED)
async def test_an_awaited_call_in_the_trio_run_of_another_thread_raises(
    operation: str, call: Callable[[DatagramSocket, Address], Awaitable[object]]
) -> None:
    async def awaited(sock: DatagramSocket, to: Address) -> None:
        await call(sock, to)

    await check_refusal(operation, lambda sock, to: trio.run(awaited, sock, to))


async def test_counts_and_state_can_be_read_in_another_thread() -> None:
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as sock:
        reads: list[Callable[[], object]] = [sock.statistics, sock.fileno, lambda: sock.closed, lambda: repr(sock)]
        assert [error_in_a_thread(read) for read in reads] == [None] * 4
