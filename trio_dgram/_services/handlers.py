"""Running one handler for each peer that listeners accept."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import trio

from .._socket.interrupts import interruptibly_awaited
from .._values.addresses import Address
from .._values.arguments import describe_value
from .draining import drain_request
from .log import RateLimitedLog, cause_of

# ruff: noqa: SLF001 -- the channels hide from programs what is for their handlers

_log = logging.getLogger("trio_dgram")

HandlerErrors: TypeAlias = Literal["log", "raise"]


class Channel(Protocol):
    """A channel that a handler serves."""

    @property
    def address(self) -> Address:
        """The peer's address."""
        ...

    @property
    def _ended(self) -> bool:
        """Whether the channel has ended, so that sending raises ``trio.BrokenResourceError``."""
        ...

    def _handler_starts(self, scope: trio.CancelScope) -> None:
        """Note that a handler runs for it in ``scope``, which is cancelled when its place is needed."""

    def _handler_ended(self) -> None:
        """Note that the handler has returned."""

    def close(self) -> None:
        """Close the channel."""


ChannelT = TypeVar("ChannelT", bound=Channel)
ChannelT_co = TypeVar("ChannelT_co", bound=Channel, covariant=True)


class Listener(Protocol[ChannelT_co]):
    """What accepts channels."""

    async def accept(self) -> ChannelT_co:
        """Wait for the next peer."""
        ...

    def close(self) -> None:
        """Accept no more."""


def check_handler(handler: object, handler_errors: object, handler_nursery: object) -> None:
    """Raise what is wrong with an argument of ``serve``."""
    if not callable(handler):
        raise TypeError(f"handler must be an async function of one argument, not {describe_value(handler)}")
    if handler_errors not in ("log", "raise"):
        raise ValueError(f'handler_errors must be "log" or "raise", not {describe_value(handler_errors)}')
    if handler_nursery is not None and not hasattr(handler_nursery, "start_soon"):
        raise TypeError(f"handler_nursery must be a nursery, not {describe_value(handler_nursery)}")


@trio.lowlevel.enable_ki_protection
async def serve_listeners(
    handler: Callable[[ChannelT], Awaitable[object]],
    listeners: Sequence[Listener[ChannelT]],
    handler_nursery: trio.Nursery | None,
    handler_errors: HandlerErrors,
    task_status: trio.TaskStatus[Any],
) -> None:
    """Call ``handler`` with each channel that ``listeners`` accept; close the listeners at the end.

    The arguments are those of :func:`trio_dgram.serve`.
    """
    log = RateLimitedLog(_log) if handler_errors == "log" else None
    drains = drain_request.can_be_received
    try:
        with drain_request.service() if drains else nullcontext():
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(_accept_all, listener, handler, handler_nursery or nursery, log)
                if drains:
                    nursery.start_soon(_drain_on_request, listeners, nursery)
                task_status.started(listeners)
    finally:
        for listener in listeners:
            listener.close()


@trio.lowlevel.enable_ki_protection
async def _drain_on_request(listeners: Sequence[Listener[Any]], nursery: trio.Nursery) -> None:
    """End this worker's part of the service: unread datagrams stay in the sockets for its successor."""
    await drain_request.wait()
    for listener in listeners:
        drain = getattr(listener, "_drain", None)
        if drain is None:
            # Its channels have a state that no successor knows, so they are closed.
            nursery.cancel_scope.cancel()
        else:
            drain()


@trio.lowlevel.enable_ki_protection
async def _accept_all(
    listener: Listener[ChannelT],
    handler: Callable[[ChannelT], Awaitable[object]],
    nursery: trio.Nursery,
    log: RateLimitedLog | None,
) -> None:
    while True:
        try:
            channel = await listener.accept()
        except trio.ClosedResourceError:
            if drain_request.is_made:
                return
            raise
        nursery.start_soon(_handle, handler, channel, log, name=handler)


@trio.lowlevel.enable_ki_protection
async def _handle(
    handler: Callable[[ChannelT], Awaitable[object]], channel: ChannelT, log: RateLimitedLog | None
) -> None:
    scope = trio.CancelScope()
    channel._handler_starts(scope)
    try:
        with scope:
            await interruptibly_awaited(handler, channel)
    except BaseException as error:
        failure, rest = _split(error)
        if failure is not None and not (channel._ended and is_only_of_ended(failure)):
            if log is None:
                raise
            log.report(cause_of(failure), "the handler of %s failed", channel.address, exc_info=failure)
        if rest is error:
            raise
        if rest is not None:
            raise rest from None
    finally:
        channel._handler_ended()
        channel.close()


def _split(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Return what a handler raises, and the rest: a nursery raises both in one group when it is cancelled."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(Exception)
    return (error, None) if isinstance(error, Exception) else (None, error)


def is_only_of_ended(error: BaseException) -> bool:
    """Return whether the error consists only of what an ended channel raises."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_only_of_ended, error.exceptions))
    return isinstance(error, trio.BrokenResourceError | trio.EndOfChannel)
