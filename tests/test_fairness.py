"""Promise 2: a flood on one socket never starves other tasks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio

import trio_dgram
from trio_dgram import Datagram, DatagramSocket, SocketGroup

from .support.families import Family

pytestmark = pytest.mark.usefixtures("coalescing")
BUDGET = 64
FLOOD = 200
"""As many as fit in a receive buffer of the usual size."""


@attrs.define(eq=False)
class Passes(trio.abc.Instrument):
    """Counts the scheduler's passes."""

    count: int = 0

    def before_io_wait(self, timeout: float) -> None:
        del timeout
        self.count += 1


@asynccontextmanager
async def flooded(udp: Family, *, offload: bool) -> AsyncGenerator[DatagramSocket]:
    """Open a socket that has received plenty."""
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback, offload=offload) as sock:
        with pytest.raises(trio.WouldBlock):
            sock.receive_nowait()
        await sock.send_many([Datagram(b"x", sock.address)] * FLOOD)
        yield sock


def grouped(sock: DatagramSocket) -> SocketGroup:
    """Return a group of one socket."""
    group = SocketGroup()
    group.add(sock)
    return group


Operation = Callable[[DatagramSocket], Callable[[], Awaitable[object]]]
OPERATIONS: dict[str, Operation] = {
    "receive": lambda sock: sock.receive,
    "iteration": lambda sock: partial(anext, sock),
    "send": lambda sock: partial(sock.send, b"x", sock.address),
    "channel": lambda sock: sock.events(Datagram).receive,
    "group": lambda sock: grouped(sock).receive,
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
async def test_at_most_64_operations_happen_between_two_passes_of_the_scheduler(
    udp: Family, operation: Operation, offload: bool
) -> None:
    async with flooded(udp, offload=offload) as sock:
        call = operation(sock)
        passes = Passes()
        trio.lowlevel.add_instrument(passes)
        try:
            most, at_pass, before = 0, 0, passes.count
            for _ in range(FLOOD):
                await call()
                if passes.count == before:
                    at_pass += 1
                else:
                    at_pass, before = 1, passes.count
                most = max(most, at_pass)
        finally:
            trio.lowlevel.remove_instrument(passes)
        assert 1 <= most <= BUDGET
        assert passes.count >= FLOOD // BUDGET


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
async def test_cancelling_takes_effect_at_the_next_call_in_a_flood(
    udp: Family, operation: Operation, offload: bool
) -> None:
    async with flooded(udp, offload=offload) as sock:
        call = operation(sock)
        done = 0
        with trio.CancelScope() as scope:
            while True:
                await call()
                done += 1
                if done == 10:
                    scope.cancel()
        assert done == 10


async def test_another_task_runs_while_a_flood_is_answered(udp: Family, offload: bool) -> None:
    async with flooded(udp, offload=offload) as sock, trio.open_nursery() as nursery:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(other)
        answered = 0
        while answered < FLOOD:
            datagram = await anext(sock)
            await sock.send(datagram.data, datagram.address)
            answered += 1
        assert turns >= 2 * FLOOD // BUDGET - 2
        nursery.cancel_scope.cancel()
