"""A worker that is asked to end: what it reads no more, and what it finishes."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import trio_dgram
from trio_dgram import DatagramChannel, DatagramListener, dtls, workers
from trio_dgram._services.draining import drain_request
from trio_dgram._services.worker_process import process

from .support.certificates import client_context, server_context


@pytest.fixture(autouse=True)
def worker(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Make this process a worker for the test, which must leave the handler of the signal as it was."""
    monkeypatch.setattr(process, "_index", 0)
    monkeypatch.setattr(drain_request, "is_made", False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) == before


def request_to_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@asynccontextmanager
async def serving(handler: Any, **options: Any) -> AsyncGenerator[DatagramListener]:
    """Serve on a loopback address, and wait until the server has returned by itself."""
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            serve = partial(trio_dgram.serve, handler, 0, host="127.0.0.1", **options)
            (listener,) = await nursery.start(serve)
            await trio.testing.wait_all_tasks_blocked()
            yield listener


async def shout(peer: trio.abc.Channel[bytes]) -> None:
    async for data in peer:
        await peer.send(data.upper())


async def test_serve_returns_after_its_handlers_have_answered_the_queued_datagrams() -> None:
    answer = trio.Event()

    async def slow(peer: DatagramChannel) -> None:
        async for data in peer:
            await answer.wait()
            await peer.send(data.upper())

    async with serving(slow) as listener, trio_dgram.open_connection(*listener.address) as client:
        await client.send(b"one")
        await client.send(b"two")
        async with trio_dgram.open_connection(*listener.address) as other:
            await other.send(b"three")
            await trio.testing.wait_all_tasks_blocked(0.05)
            request_to_end()
            await workers.wait_draining()
            assert workers.is_draining()
            await trio.testing.wait_all_tasks_blocked()
            answer.set()
            assert [await client.receive(), await client.receive()] == [b"ONE", b"TWO"]
            assert await other.receive() == b"THREE"


async def test_a_peer_that_was_read_but_not_accepted_is_served() -> None:
    async with serving(shout) as listener, trio_dgram.open_connection(*listener.address) as client:
        await client.send(b"first")
        assert await client.receive() == b"FIRST"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
            late.sendto(b"late", listener.address)
            # Read, and not dispatched yet: no task has run in between.
            listener._table.socket._inbox.pull()
            assert listener._table.socket._inbox.has_datagrams
            request_to_end()
            await trio.lowlevel.wait_readable(late)
            assert late.recv(100) == b"LATE"


async def test_unread_datagrams_stay_in_the_socket() -> None:
    async with serving(shout) as listener:
        kept = os.dup(listener._table.socket.fileno())
        address = listener.address
        request_to_end()
        await workers.wait_draining()
        await trio.testing.wait_all_tasks_blocked()
        async with trio_dgram.open_nursery() as nursery:
            client = nursery.create_socket("udp4").unref()
            await client.send(b"unread", address)
            successor = nursery.adopt_socket(kept)
            assert (await successor.receive()).data == b"unread"
            successor.close()


async def test_a_reader_that_was_woken_before_the_request_reads_no_more() -> None:
    async with serving(shout) as listener:
        request_to_end()
        await workers.wait_draining()
        # What the next task in the same round of the scheduler may do.
        listener._drain()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
            late.sendto(b"late", listener.address)
        assert not listener._table.socket._inbox.pull()


async def test_waiting_handlers_and_servers_of_one_process_all_end() -> None:
    async with serving(shout) as one, serving(shout) as other:
        for listener in (one, other):
            async with trio_dgram.open_connection(*listener.address) as client:
                await client.send(b"hello")
                assert await client.receive() == b"HELLO"
        request_to_end()


async def test_a_handler_of_the_program_gets_the_signal_once_every_server_has_drained() -> None:
    answer, ended = trio.Event(), trio.Event()

    async def slow(peer: DatagramChannel) -> None:
        async for data in peer:
            await answer.wait()
            await peer.send(data)

    with trio.open_signal_receiver(signal.SIGTERM) as signals:

        async def wait_for_signal() -> None:
            assert await signals.__anext__() == signal.SIGTERM
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_signal)
            async with serving(slow) as listener, serving(shout):
                async with trio_dgram.open_connection(*listener.address) as client:
                    await client.send(b"question")
                    await trio.testing.wait_all_tasks_blocked(0.05)
                    request_to_end()
                    await workers.wait_draining()
                    await trio.testing.wait_all_tasks_blocked()
                    assert not ended.is_set()
                    answer.set()
                    assert await client.receive() == b"question"
            await ended.wait()


async def test_an_accept_of_a_program_ends_with_an_error() -> None:
    async with trio_dgram.open_socket("udp4", port=0, host="127.0.0.1") as sock:
        listener = DatagramListener(sock)
        listener._drain()
        with pytest.raises(trio.ClosedResourceError, match="drains"):
            await listener.accept()


async def test_a_listener_that_is_closed_ends_serve_with_an_error() -> None:
    with pytest.raises(ExceptionGroup) as ended:
        async with serving(shout) as listener:
            listener.close()
    assert ended.group_contains(trio.ClosedResourceError)


async def test_a_dtls_server_closes_its_channels_and_returns() -> None:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            serve = partial(dtls.serve, shout, 0, server_context(), host="127.0.0.1")
            (listener,) = await nursery.start(serve)
            host, port = listener.address
            async with dtls.open_connection(host, port, client_context()) as client:
                await client.send(b"hello")
                assert await client.receive() == b"HELLO"
                request_to_end()
                await workers.wait_draining()
                # Later requests are known at once.
                await workers.wait_draining()
    counts = listener.statistics()
    assert (counts.peers, counts.accepted) == (0, 1)


async def test_outside_a_worker_wait_draining_never_returns(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(process, "_index", None)
    with trio.move_on_after(1) as scope:
        await workers.wait_draining()
    assert scope.cancelled_caught
    assert not workers.is_draining()
