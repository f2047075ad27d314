"""The event hub of a socket: its subscriptions, and what is announced to them."""

from __future__ import annotations

from collections.abc import Callable

from .._values.addresses import Address
from .._values.datagrams import Datagram
from .._values.events import Event, Failure
from .event_channel import Subscription
from .interrupts import defer_interrupts


@defer_interrupts
class EventHub:
    """The subscriptions of one socket."""

    __slots__ = ("_subscriptions", "changed")

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self.changed: Callable[[Subscription], None] = _ignore
        """Called when a datagram was taken from a subscription, or its channel was closed."""

    def add(self, subscription: Subscription) -> None:
        """Announce events to ``subscription`` from now on."""
        self._subscriptions.append(subscription)

    def remove(self, subscription: Subscription) -> bool:
        """Announce nothing more to ``subscription``; return whether it was subscribed."""
        if subscription not in self._subscriptions:
            return False
        self._subscriptions.remove(subscription)
        return True

    def announce(self, event: Event) -> None:
        """Offer ``event`` to every subscription."""
        for subscription in self._subscriptions:
            subscription.offer(event)

    def report(self, error: OSError, operation: str, address: Address | None) -> bool:
        """Announce an error that no call raises; return whether a subscription takes it."""
        self.announce(Failure(error, operation, address))
        return self.takes_failures

    @property
    def takes_failures(self) -> bool:
        """Whether a subscription takes :class:`Failure`."""
        return any(Failure in subscription.types for subscription in self._subscriptions)

    @property
    def datagram_subscriptions(self) -> list[Subscription]:
        """The subscriptions that take datagrams."""
        return [subscription for subscription in self._subscriptions if Datagram in subscription.types]

    def end(self) -> None:
        """End every subscription: the socket was closed."""
        for subscription in self._subscriptions:
            subscription.end()
        self._subscriptions.clear()
        # References to each other would leave a closed socket to the garbage collector.
        self.changed = _ignore


def _ignore(_subscription: Subscription) -> None:
    """Do nothing: no reader depends on the subscriptions of a closed socket."""
