"""Cancelling QUIC at every schedule point leaves nothing open, and what is left usable."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trio_dgram import quic
from trio_dgram.sim import cancel_everywhere

from .support.descriptors import same_descriptors
from .support.quic import Pair, check_sums, connected, connecting, echo, serving


async def ask(connection: quic.Connection) -> None:
    async with await connection.open_stream() as stream:
        await stream.send_all(b"hello")
        await stream.send_eof()
        assert await stream.receive_some() == b"hello"
        assert await stream.receive_some() == b""


@pytest.mark.long
async def test_a_connection_cancelled_anywhere_leaves_nothing() -> None:
    async with serving() as (listener,):

        async def scenario() -> None:
            async with connecting(listener) as connection:
                await ask(connection)
                await connection.aclose()

        async def check(_: None) -> None:
            with trio.fail_after(5):
                while (counts := check_sums(listener)).handshaking or counts.connections:
                    await trio.testing.wait_all_tasks_blocked(0.001)

        assert await cancel_everywhere(scenario, check) >= 20
        assert listener.statistics().accepted > 1


async def test_operations_cancelled_anywhere_leave_a_connection_usable() -> None:
    most = 20
    async with connected({"max_streams": (most, 0)}) as pair:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.server.serve_streams, echo)

            async def check(_: None) -> None:
                with trio.fail_after(5):
                    await ask(pair.client)

            assert await cancel_everywhere(lambda: ask(pair.client), check) >= 8
            # A stream that kept its place would prevent the last one.
            with trio.fail_after(5):
                for _ in range(most):
                    await pair.client.open_stream()
            nursery.cancel_scope.cancel()


async def use_all(pair: Pair) -> None:
    """Use what is not a two-way stream."""
    client, server = pair.client, pair.server
    await client.ping()
    async with await client.open_send_stream() as one_way:
        await one_way.send_all(b"one way")
    async with await server.accept_receive_streams().receive() as received:
        assert await received.receive_some() == b"one way"
    await client.datagrams.send(b"datagram")
    assert await server.datagrams.receive() == b"datagram"


async def test_other_operations_cancelled_anywhere_leave_a_connection_usable() -> None:
    settings = {"datagrams": True, "max_streams": (0, 20)}
    async with connected(settings, settings) as pair:

        async def check(_: None) -> None:
            with trio.fail_after(5):
                await pair.client.ping()
                # What a cancelled run has sent.
                with trio.move_on_after(0):
                    while True:
                        await (await pair.server.accept_receive_streams().receive()).aclose()
                with trio.move_on_after(0):
                    while True:
                        await pair.server.datagrams.receive()

        assert await cancel_everywhere(lambda: use_all(pair), check) >= 10
        await pair.client.ping()


@pytest.mark.parametrize("operation", ["accept", "datagram", "closed", "drain"])
async def test_a_cancelled_wait_takes_nothing(operation: str) -> None:
    async with connected({"datagrams": True}, {"datagrams": True}) as pair:
        ours, theirs = await pair.streams()
        waits = {
            "accept": pair.server.accept_streams().receive,
            "datagram": pair.server.datagrams.receive,
            "closed": pair.server.wait_closed,
            "drain": ours.wait_send_all_might_not_block,
        }
        with trio.CancelScope() as scope:
            scope.cancel()
            await waits[operation]()
        assert scope.cancelled_caught
        await pair.client.datagrams.send(b"datagram")
        assert await pair.server.datagrams.receive() == b"datagram"
        await ours.send_all(b"more")
        assert await theirs.receive_some() == b"more"
        another = await pair.client.open_stream()
        await another.send_all(b"another")
        assert (await pair.server.accept_streams().receive()).id == another.id
        await ours.aclose()


async def test_a_cancelled_rebind_keeps_the_socket() -> None:
    async with connected() as pair:
        with same_descriptors(), trio.CancelScope() as scope:
            scope.cancel()
            await pair.client.rebind()
        assert scope.cancelled_caught
        await pair.client.ping()
        assert pair.client.statistics().migrations == 0
