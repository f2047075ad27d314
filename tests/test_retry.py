"""Attempts with growing deadlines."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trio_dgram
from trio_dgram import DatagramChannel, PeerUnreachable, sim
from trio_dgram.sim import cancel_everywhere

from .support.families import Family

UNREACHABLE = [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN]


def error(number: int = errno.ECONNREFUSED) -> OSError:
    return OSError(number, os.strerror(number))


def icmp_error(number: int) -> PeerUnreachable:
    return PeerUnreachable(number, icmp_type=3, icmp_code=13, reason="prohibited", offender="192.0.2.1", path_mtu=None)


async def raise_error(raised: BaseException) -> None:
    await trio.lowlevel.checkpoint()
    raise raised


async def shout(peer: DatagramChannel) -> None:
    async for data in peer:
        await peer.send(data.upper())


# Time


async def test_the_first_attempt_that_completes_is_the_last(autojump_clock: trio.testing.MockClock) -> None:
    times = []
    async for attempt in trio_dgram.retry(timeout=1, factor=3, attempts=5, jitter=0):
        with attempt:
            times.append(trio.current_time())
            if len(times) < 3:
                await trio.sleep_forever()
    assert times == [0, 1, 4]
    assert trio.current_time() == 4
    assert autojump_clock.autojump_threshold == 0


async def test_after_the_last_attempt_it_is_too_slow(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(trio.TooSlowError, match="2 attempts") as caught:
        async for attempt in trio_dgram.retry(timeout=1, attempts=2, jitter=0.5):
            with attempt:
                await trio.sleep_forever()
    assert caught.value.__cause__ is None
    assert 3 <= trio.current_time() <= 4.5
    assert autojump_clock.autojump_threshold == 0


async def test_an_attempt_that_completes_after_its_deadline_without_being_cancelled_counts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = 0
    async for attempt in trio_dgram.retry(timeout=1):
        with attempt:
            attempts += 1
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
    assert attempts == 1
    assert autojump_clock.autojump_threshold == 0


async def test_attempts_without_time_end_at_once() -> None:
    attempts = 0
    with pytest.raises(trio.TooSlowError):
        async for attempt in trio_dgram.retry(timeout=0):
            with attempt:
                attempts += 1
                await trio.sleep_forever()
    assert attempts == 4


async def test_a_loop_that_ended_stays_ended() -> None:
    attempts = trio_dgram.retry(timeout=0, attempts=1)
    with await anext(attempts):
        await trio.lowlevel.checkpoint()
    for _ in range(2):
        with pytest.raises(trio.TooSlowError):
            await anext(attempts)
    attempts = trio_dgram.retry()
    with await anext(attempts):
        pass
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(attempts)


# Errors of an unreachable peer


@pytest.mark.parametrize("raised", [*map(error, UNREACHABLE), icmp_error(errno.EACCES), icmp_error(errno.EMSGSIZE)])
async def test_an_unreachable_peer_is_tried_again_when_the_time_is_up(
    autojump_clock: trio.testing.MockClock, raised: OSError
) -> None:
    times = []
    async for attempt in trio_dgram.retry(timeout=1, factor=2, attempts=4, jitter=0):
        with attempt:
            times.append(trio.current_time())
            await trio.sleep(0.25)
            if len(times) < 3:
                raise raised
    assert times == [0, 1, 3]
    assert autojump_clock.autojump_threshold == 0


async def test_the_latest_error_is_the_cause_of_the_timeout(autojump_clock: trio.testing.MockClock) -> None:
    errors = [error(errno.ENETUNREACH), error(errno.ECONNREFUSED), None]
    upcoming = iter(errors)
    with pytest.raises(trio.TooSlowError) as caught:
        async for attempt in trio_dgram.retry(timeout=1, attempts=3, jitter=0):
            with attempt:
                raised = next(upcoming)
                if raised is not None:
                    await raise_error(raised)
                await trio.sleep_forever()
    assert caught.value.__cause__ is errors[1]
    assert trio.current_time() == 7
    assert autojump_clock.autojump_threshold == 0


async def test_the_last_attempt_that_is_refused_ends_the_loop_at_once(autojump_clock: trio.testing.MockClock) -> None:
    raised = error()
    with pytest.raises(trio.TooSlowError) as caught:
        async for attempt in trio_dgram.retry(timeout=1, attempts=2, jitter=0):
            with attempt:
                raise raised
    assert caught.value.__cause__ is raised
    assert trio.current_time() == 1
    assert autojump_clock.autojump_threshold == 0


async def test_errors_in_a_nursery_of_the_attempt_are_recognised(autojump_clock: trio.testing.MockClock) -> None:
    last = error(errno.EHOSTUNREACH)
    with pytest.raises(trio.TooSlowError) as caught:
        async for attempt in trio_dgram.retry(timeout=1, attempts=2, jitter=0):
            with attempt:
                async with trio.open_nursery() as outer:
                    outer.start_soon(trio.sleep_forever)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(trio.sleep_forever)
                        nursery.start_soon(raise_error, last)
    assert caught.value.__cause__ is last
    assert trio.current_time() == 1
    assert autojump_clock.autojump_threshold == 0


@pytest.mark.parametrize(
    "raised",
    [
        ValueError(),
        error(errno.EMSGSIZE),
        error(errno.EACCES),
        trio.EndOfChannel(),
        ExceptionGroup("mixed", [error(), ValueError()]),
        BaseExceptionGroup("mixed", [error(), ExceptionGroup("inner", [error(), error(errno.EPERM)])]),
        KeyboardInterrupt(),
        BaseExceptionGroup("mixed", [error(), KeyboardInterrupt()]),
    ],
    ids=repr,
)
async def test_any_other_exception_leaves_the_attempt_as_it_is(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as caught:
        with await anext(trio_dgram.retry()):
            raise raised
    assert caught.value is raised


async def test_an_attempt_whose_exception_the_loop_catches_is_followed_by_the_next(
    autojump_clock: trio.testing.MockClock,
) -> None:
    times = []
    async for attempt in trio_dgram.retry(timeout=1, jitter=0):
        try:
            with attempt:
                times.append(trio.current_time())
                if len(times) == 1:
                    await raise_error(ValueError())
        except ValueError:
            continue
    assert times == [0, 1]
    assert autojump_clock.autojump_threshold == 0


LEAVES: Final[dict[str, Callable[[], BaseException]]] = {
    "refused": error,
    "prohibited": lambda: icmp_error(errno.EPROTO),
    "wrong": ValueError,
}
TREES = st.recursive(
    st.sampled_from([*LEAVES, "cancelled"]), lambda trees: st.lists(trees, min_size=1, max_size=3), max_leaves=6
)


async def grow(tree: Any) -> BaseException:
    """Return the exception, or the group of groups, that a tree of names describes."""
    if isinstance(tree, list):
        return BaseExceptionGroup("", [await grow(each) for each in tree])
    if tree in LEAVES:
        return LEAVES[tree]()
    try:
        await trio.sleep_forever()
    except trio.Cancelled as cancelled:
        return cancelled
    raise AssertionError


@given(tree=TREES, outer_is_cancelled=st.booleans())
def test_a_tree_of_errors_is_a_failed_attempt_or_leaves_it(tree: Any, outer_is_cancelled: bool) -> None:
    async def main() -> bool:
        with trio.CancelScope() as outer:
            attempt = await anext(trio_dgram.retry(timeout=0))
            if outer_is_cancelled:
                outer.cancel()
            with attempt:
                raise await grow(tree)
        return outer.cancelled_caught

    if "wrong" in str(tree):
        with pytest.raises((ValueError, BaseExceptionGroup)) as caught:
            trio.run(main)
        assert isinstance(caught.value, ValueError) or caught.group_contains(ValueError)
    else:
        assert trio.run(main) == (outer_is_cancelled and "cancelled" in str(tree))


# Cancellation


async def test_an_outer_cancellation_is_no_failed_attempt(autojump_clock: trio.testing.MockClock) -> None:
    attempts = 0
    with trio.move_on_after(1.5) as scope:
        async for attempt in trio_dgram.retry(timeout=1, jitter=0):  # pragma: no branch -- cancellation ends it
            with attempt:
                attempts += 1
                await trio.sleep_forever()
    assert (attempts, scope.cancelled_caught, trio.current_time()) == (2, True, 1.5)
    assert autojump_clock.autojump_threshold == 0


async def test_an_outer_cancellation_beside_a_refusal_is_not_swallowed() -> None:
    with trio.CancelScope() as outer:
        with await anext(trio_dgram.retry()):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                outer.cancel()
                raise error()
    assert outer.cancelled_caught


async def test_the_wait_between_two_attempts_can_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(0.5) as scope:
        async for attempt in trio_dgram.retry(timeout=1, jitter=0):
            with attempt:
                raise error()
    assert (scope.cancelled_caught, trio.current_time()) == (True, 0.5)
    assert autojump_clock.autojump_threshold == 0


async def test_each_step_of_the_loop_is_a_checkpoint(autojump_clock: trio.testing.MockClock) -> None:
    attempts = trio_dgram.retry(timeout=1, attempts=3, jitter=0)
    with trio.testing.assert_checkpoints():
        first = await anext(attempts)
    with first:
        await trio.sleep_forever()
    with trio.testing.assert_checkpoints():
        second = await anext(attempts)
    with second:
        raise error()
    with trio.testing.assert_checkpoints():
        third = await anext(attempts)
    with third:
        pass
    with trio.testing.assert_checkpoints(), pytest.raises(StopAsyncIteration):
        await anext(attempts)
    assert autojump_clock.autojump_threshold == 0


def test_the_loop_can_be_cancelled_at_every_point() -> None:
    async def loop() -> int:
        count = 0
        async for attempt in trio_dgram.retry(timeout=0.1, attempts=4):
            with attempt:
                count += 1
                await trio.lowlevel.checkpoint()
                if count == 1:
                    await trio.sleep_forever()
                if count == 2:
                    raise error()
        return count

    async def check(count: int | None) -> None:
        assert count in (3, None)

    async def scenario(_: sim.Network) -> int:
        return await cancel_everywhere(loop, check)

    assert sim.run(scenario) > 8


# Mistakes


async def test_an_attempt_that_was_not_entered_is_an_error() -> None:
    rounds = 0
    with pytest.raises(RuntimeError, match="with attempt"):
        async for _ in trio_dgram.retry():
            rounds += 1
    assert rounds == 1


async def test_an_attempt_within_another_is_an_error() -> None:
    attempts = trio_dgram.retry()
    with await anext(attempts):
        with pytest.raises(RuntimeError, match="with attempt"):
            await anext(attempts)


async def test_an_attempt_is_entered_once() -> None:
    attempt = await anext(trio_dgram.retry())
    with attempt:
        pass
    with pytest.raises(RuntimeError):
        attempt.__enter__()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timeout": "1"}, "timeout must be a number"),
        ({"timeout": -1}, "timeout must be at least 0"),
        ({"timeout": float("inf")}, "timeout must be at least 0 and finite"),
        ({"factor": 0.9}, "factor must be at least 1"),
        ({"attempts": 0}, "attempts must be from 1"),
        ({"attempts": 1.5}, "attempts must be an integer"),
        ({"jitter": -0.1}, "jitter must be at least 0"),
    ],
)
def test_a_wrong_argument_raises_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        trio_dgram.retry(**arguments)


def test_the_attempts_are_an_async_iterator() -> None:
    attempts = trio_dgram.retry()
    assert isinstance(attempts, AsyncIterator)
    assert aiter(attempts) is attempts


# With sockets


async def test_a_server_that_is_being_restarted_is_reached(udp: Family) -> None:
    async with trio_dgram.open_socket(udp.type, port=0, host=udp.loopback) as sock:
        port = sock.address.port
    attempts = 0
    async with trio.open_nursery() as nursery, trio_dgram.open_connection(udp.loopback, port) as peer:
        async for attempt in trio_dgram.retry(timeout=0.05, factor=1, attempts=100):
            with attempt:
                attempts += 1
                if attempts == 3:
                    nursery.start_soon(trio_dgram.serve, shout, port)
                    await trio.testing.wait_all_tasks_blocked()
                await peer.send(b"hello")
                assert await peer.receive() == b"HELLO"
        nursery.cancel_scope.cancel()
    assert attempts >= 3


@pytest.mark.long
def test_retry_overcomes_a_bad_network_or_raises_too_slow_error() -> None:
    async def ask() -> bytes:
        async with trio_dgram.open_connection("server", 7) as peer:
            async for attempt in trio_dgram.retry():
                with attempt:
                    await peer.send(b"hello")
                    return await peer.receive()
        raise AssertionError

    async def scenario(network: sim.Network) -> bytes | None:
        client, server = network.host("client"), network.host("server")
        network.path(client, server, symmetric=True, delay=0.05, jitter=0.04, keep_order=False, loss=0.3, duplicate=0.2)
        async with trio.open_nursery() as nursery:
            with server.active():
                await nursery.start(trio_dgram.serve, shout, 7)
            try:
                return await client.run(ask)
            except trio.TooSlowError:
                return None
            finally:
                nursery.cancel_scope.cancel()

    answers = [sim.run(scenario, seed=seed) for seed in range(200)]
    assert set(answers) == {b"HELLO", None}
    assert answers.count(None) < 30
