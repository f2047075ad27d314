"""The streams of QUIC connections: Trio's contract, backpressure, resets, and the limit of streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from trio_dgram import quic

from .support.quic import connected


def cause(caught: pytest.ExceptionInfo[BaseException]) -> quic.QuicError:
    error = caught.value.__cause__
    assert isinstance(error, quic.QuicError)
    return error


@pytest.mark.long
async def test_a_stream_passes_trios_checks() -> None:
    window = {"max_stream_data": 65536, "send_window": 65536}
    async with connected(window, window) as pair:

        async def clogged() -> tuple[quic.Stream, quic.Stream]:
            ours, theirs = await pair.streams()
            for stream in (ours, theirs):
                with trio.move_on_after(0.1):
                    await stream.send_all(bytes(131072))
                stream._sending._is_truncated = False
            return ours, theirs

        await trio.testing.check_half_closeable_stream(pair.streams, clogged)


async def test_a_sender_stops_at_the_windows_while_nothing_is_received() -> None:
    async with connected({"max_stream_data": 65536}, {"send_window": 32768}) as pair:
        ours, theirs = await pair.streams()
        with trio.move_on_after(0.5) as scope:
            await ours.send_all(bytes(1_000_000))
        assert scope.cancelled_caught
        assert pair.client.statistics().bytes_sent < 65536 + 32768 + 16384
        received = 0
        while received < 65536:
            received += len(await theirs.receive_some())
        # A part of the data was queued, so the stream has no clean end, whatever follows.
        await ours.send_all(b"more")
        await ours.aclose()
        with pytest.raises(trio.BrokenResourceError) as caught:
            while True:
                await theirs.receive_some()
        assert cause(caught).code == 0


async def test_an_unread_stream_does_not_stop_another_one() -> None:
    async with connected({"max_stream_data": 65536, "max_data": 262144}) as pair:
        ours, _ = await pair.streams()
        other, others = await pair.streams()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, bytes(500_000))
            nursery.start_soon(other.send_all, bytes(500_000))
            received = 0
            while received < 500_000:
                received += len(await others.receive_some())
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["reset", "stop", "close"])
async def test_streams_that_end_unread_return_their_credit(how: str) -> None:
    async with connected({"max_stream_data": 32768, "max_data": 65536, "max_streams": (4, 0)}) as pair:
        for _ in range(12):
            ours, theirs = await pair.streams()
            await ours.send_all(bytes(32000))
            await pair.client.ping()
            if how == "reset":
                ours.reset(5)
                with pytest.raises(trio.BrokenResourceError) as caught:
                    while True:
                        await theirs.receive_some()
                assert (cause(caught).code, cause(caught).remote) == (5, True)
            elif how == "stop":
                theirs.stop(6)
                with pytest.raises(trio.BrokenResourceError) as caught:
                    while True:
                        await ours.send_all(bytes(100))
                assert str(cause(caught)) == "the peer stopped the stream with application code 6"
            for stream in (theirs, ours):
                await stream.aclose()


async def test_a_stream_is_reset_if_its_block_fails() -> None:
    async with connected() as pair:
        ours, theirs = await pair.streams()
        with pytest.raises(ValueError, match="ours"):
            async with ours:
                raise ValueError("ours")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await theirs.receive_some()
        assert cause(caught).code == 1
        ours, theirs = await pair.streams()
        with trio.CancelScope() as scope:
            async with ours:
                scope.cancel()
                await trio.lowlevel.checkpoint()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await theirs.receive_some()
        assert cause(caught).code == 0


async def test_stopping_resetting_and_closing_again_has_no_effect() -> None:
    async with connected() as pair:
        ours, theirs = await pair.streams()
        for _ in range(2):
            ours.reset(3)
            ours.stop(4)
        for stream in (ours, theirs):
            await stream.aclose()
        await ours.aclose()
        ours.reset()
        assert repr(ours) == "<trio_dgram.quic.Stream 0>"


async def test_a_stopped_stream_that_is_closed_by_a_cancelled_call_is_closed() -> None:
    async with connected() as pair:
        ours, theirs = await pair.streams()
        theirs.stop(4)
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await ours.send_all(b"x")
        await trio.aclose_forcefully(ours)
        await expect_closed(ours.wait_send_all_might_not_block)


async def test_a_stream_that_is_over_can_be_closed_again() -> None:
    async with connected() as pair:
        ours, theirs = await pair.streams()
        ours.reset()
        theirs.reset()
        for stream in (ours, theirs):
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        while pair.client.statistics().streams:
            await pair.client.ping()
        ours.reset()
        await pair.client.ping()


async def test_a_reset_may_follow_the_end() -> None:
    async with connected({"max_stream_data": 4096}, {"send_window": 8192}) as pair:
        ours, theirs = await pair.streams()
        await ours.send_all(bytes(8192))
        await ours.send_eof()
        await ours.send_eof()
        ours.reset(9)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await exhaust(theirs)
        assert cause(caught).code == 9


async def exhaust(stream: quic.ReceiveStream) -> None:
    async for _ in stream:  # pragma: no cover -- all may have been received before
        await trio.lowlevel.checkpoint()


async def test_a_closed_stream_sends_nothing() -> None:
    async with connected() as pair:
        ours, theirs = await pair.streams()
        await ours.aclose()
        for method in (ours.wait_send_all_might_not_block, ours.send_eof, ours.receive_some):
            await expect_closed(method)
        await exhaust(theirs)


async def test_a_stream_may_be_stopped_after_its_end() -> None:
    async with connected({"max_stream_data": 4096}, {"send_window": 8192}) as pair:
        ours, theirs = await pair.streams()
        await ours.send_all(bytes(8192))
        await ours.send_eof()
        theirs.stop(9)
        await pair.client.ping()
        with pytest.raises(trio.ClosedResourceError):
            await ours.send_all(b"")


async def test_one_way_streams_have_one_direction() -> None:
    async with connected({"max_streams": (0, 1)}) as pair:
        ours = await pair.client.open_send_stream()
        async with ours:
            await ours.send_all(b"hello")
            await ours.wait_send_all_might_not_block()
        theirs = await pair.server.accept_receive_streams().receive()
        async with theirs:
            assert [data async for data in theirs] == [b"hello"]
        assert (type(ours), type(theirs), ours.id, theirs.id) == (quic.SendStream, quic.ReceiveStream, 2, 2)
        assert pair.server.accept_receive_streams() is pair.server.accept_receive_streams()
        assert pair.server.accept_streams() is pair.server.accept_streams()
        async with await pair.client.open_send_stream() as another:
            await another.send_all(b"again")
        theirs = await pair.server.accept_receive_streams().receive()
        theirs.stop()
        await pair.server.ping()


async def test_a_one_way_stream_is_reset_if_its_block_fails_or_before_it_is_accepted() -> None:
    async with connected({"max_streams": (0, 5)}) as pair:
        with pytest.raises(ValueError, match="ours"):
            async with await pair.client.open_send_stream() as stream:
                await stream.send_all(b"hello")
                raise ValueError("ours")
        await pair.client.ping()
        async with await pair.client.open_send_stream() as stream:
            await stream.send_all(b"another")
        theirs = await pair.server.accept_receive_streams().receive()
        assert await theirs.receive_some() == b"another"


async def test_one_task_at_a_time_receives() -> None:
    async with connected() as pair, trio.open_nursery() as nursery:
        ours, _ = await pair.streams()
        nursery.start_soon(expect_closed, ours.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await ours.receive_some()
        ours.stop()


async def test_a_connection_that_ends_unread_still_returns_the_queued_data() -> None:
    async with connected() as pair:
        ours, theirs = await pair.streams()
        await ours.send_all(b"hello")
        await pair.client.ping()
        pair.client.close(3)
        await pair.server.wait_closed()
        assert await theirs.receive_some() == b"hello"
        with pytest.raises(trio.BrokenResourceError):
            await theirs.receive_some()
        theirs.stop()
        with pytest.raises(trio.ClosedResourceError):
            await theirs.receive_some()


async def test_opening_waits_until_the_peer_allows_it() -> None:
    async with connected({"max_streams": (1, 0)}) as pair:
        ours, theirs = await pair.streams()
        with trio.move_on_after(0.1) as scope:
            await pair.client.open_stream()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.client.open_stream)
            for stream in (ours, theirs):
                await stream.aclose()


async def test_streams_that_are_not_accepted_count_towards_the_limit() -> None:
    async with connected({"max_streams": (2, 0)}) as pair:
        for _ in range(2):
            async with await pair.client.open_stream() as stream:
                await stream.send_all(b"hello")
        with trio.move_on_after(0.1) as scope:
            await pair.client.open_stream()
        assert scope.cancelled_caught
        for _ in range(2):
            async with await pair.server.accept_streams().receive() as stream:
                assert await stream.receive_some() == b"hello"
        await pair.client.open_stream()


async def test_aborted_streams_leave_the_queue_and_stop_counting() -> None:
    async with connected({"max_streams": (2, 0)}) as pair:
        for _ in range(2):
            stream = await pair.client.open_stream()
            await stream.send_all(b"hello")
            await pair.client.ping()
            stream.reset()
        # The server has processed the resets once it acknowledges what follows them.
        await pair.client.ping()
        async with await pair.client.open_stream() as stream:
            await stream.send_all(b"this one")
            accepted = await pair.server.accept_streams().receive()
            assert await accepted.receive_some() == b"this one"


async def test_an_aborted_stream_keeps_its_place_until_its_handler_ends() -> None:
    async with connected({"max_streams": (1, 0)}) as pair, trio.open_nursery() as nursery:
        end = trio.Event()

        async def handle(_: quic.Stream) -> None:
            await end.wait()

        nursery.start_soon(pair.server.serve_streams, handle)
        stream = await pair.client.open_stream()
        await stream.send_all(b"hello")
        await pair.client.ping()
        stream.reset()
        stream.stop()
        while pair.client.statistics().streams:
            await pair.client.ping()
        with trio.move_on_after(0.1) as scope:
            await pair.client.open_stream()
        assert scope.cancelled_caught
        end.set()
        await pair.client.open_stream()
        nursery.cancel_scope.cancel()


async def test_a_stream_whose_ends_were_seen_returns_its_place() -> None:
    async with connected({"max_streams": (1, 0)}) as pair:
        for _ in range(3):
            ours, theirs = await pair.streams()
            ours.stop()
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await theirs.send_all(b"x")
            await ours.send_eof()
            assert await theirs.receive_some() == b""


async def test_rapid_resets_end_the_connection() -> None:
    async with connected({"max_streams": (3, 0)}) as pair:
        with pytest.raises(trio.BrokenResourceError) as caught:
            while True:
                stream = await pair.client.open_stream()
                await stream.send_all(b"hello")
                await pair.client.ping()
                stream.reset()
        assert (cause(caught).code, cause(caught).reason) == (0xC, "rapid reset")


async def test_a_closed_channel_of_streams_refuses_them() -> None:
    async with connected() as pair:
        ours = await pair.client.open_stream()
        await ours.send_all(b"hello")
        await pair.client.ping()
        channel = pair.server.accept_streams()
        async with trio.open_nursery() as nursery:
            waiting = pair.server.accept_receive_streams()
            nursery.start_soon(expect_closed, waiting.receive)
            await trio.testing.wait_all_tasks_blocked()
            await waiting.aclose()
        await channel.aclose()
        later = await pair.client.open_stream()
        for stream in (ours, later):
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await stream.send_all(b"hello")
        await expect_closed(channel.receive)


async def expect_closed(async_fn: Callable[..., Any]) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await async_fn()


@pytest.mark.parametrize("wrong", ["text", 3, None])
async def test_only_bytes_are_sent(wrong: Any) -> None:
    async with connected() as pair:
        stream = await pair.client.open_stream()
        with pytest.raises(TypeError, match="data must be bytes-like, not"):
            await stream.send_all(wrong)


@pytest.mark.parametrize(("code", "error"), [(-1, ValueError), (2**62, ValueError), ("1", TypeError)])
async def test_codes_are_checked(code: Any, error: type[Exception]) -> None:
    async with connected() as pair:
        stream = await pair.client.open_stream()
        for method in (stream.reset, stream.stop):
            with pytest.raises(error, match="code must be"):
                method(code)


def test_streams_have_no_public_constructor() -> None:
    for kind in (quic.Stream, quic.SendStream, quic.ReceiveStream):
        with pytest.raises(TypeError, match=f"{kind.__name__} has no public constructor: use Connection"):
            kind(0)  # type: ignore[call-arg]
