"""The hosts of a network, the paths between them, and changes over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, Unpack

import attrs
import trio

from ..._values.arguments import describe_value
from .._path.conditions import Knobs, change
from .._path.fabric import Fabric
from .._path.pipe import Pipe
from .._trace.report import FailureReport
from .._values.places import check_address, directed_broadcast
from .host import Host
from .invariants import Invariants
from .names import Resolver, canonical_name
from .observable import Observable

AnyHost: TypeAlias = Host | str
"""A host or its name."""


class Topology(Observable):
    """The part of a network that has its hosts and paths."""

    def __init__(
        self,
        nursery: trio.Nursery,
        fabric: Fabric,
        resolver: Resolver,
        report: FailureReport,
        invariants: Invariants,
    ) -> None:
        super().__init__(nursery, fabric, report, invariants)
        self._resolver = resolver
        self._hosts: dict[str, Host] = {}

    # Hosts and paths

    def host(self, name: str, *, names: Iterable[str] = (), addresses: Iterable[str] = ()) -> Host:
        """Return the host ``name``, a new one the first time.

        Args:
          name: its name in the trace; it also resolves to its addresses.
          names: further names that resolve to its addresses.
          addresses: numeric IPv4 and IPv6 addresses, with a prefix length if it is not 24 or 64: ``"198.18.1.1/16"``.
            The last address of an IPv4 network is its broadcast address. In a family without an address, one derived
            from the name is assigned, in 10.0.0.0/8 for IPv4.

        Raises:
          TypeError, ValueError: if a name is not text, an address is not numeric or belongs to another host, the host
            exists already and names or addresses are given, or a NAT has that name.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(f"name must be the name of a host, not {describe_value(name)}")
        for given, value in (("names", names), ("addresses", addresses)):
            if isinstance(value, str):
                raise TypeError(f"{given} must be several of them, such as [{value!r}], not {describe_value(value)}")
        given_addresses = [check_address(address) for address in addresses]
        own = tuple(str(address.ip) for address in given_addresses)
        aliases = tuple(names)
        if name in self._hosts:
            if own or aliases:
                raise ValueError(f"names and addresses cannot be given for {name!r}, a host that exists already")
            return self._hosts[name]
        if name in self._fabric.nat_names:
            raise ValueError(f"name must be free: {name!r} is a NAT's")
        for address in own:
            if holder := self._fabric.holder(address):
                raise ValueError(f"addresses must be free: {address} is {holder}'s")
        machine = self._fabric.add(name, own, filter(None, map(directed_broadcast, given_addresses)))
        for alias in (name, *aliases):
            self._resolver.addresses[canonical_name(alias)] = machine.addresses
        host = self._hosts[name] = Host(machine, self._nursery, self.report)
        return host

    @property
    def hosts(self) -> tuple[Host, ...]:
        """Every host, in order of creation."""
        return tuple(self._hosts.values())

    def path(self, a: AnyHost, b: AnyHost, *, symmetric: bool = False, **knobs: Unpack[Knobs]) -> Pipe:
        """Configure the path from host ``a`` to host ``b``; omitted conditions get their defaults.

        Args:
          a: the sending end: a host or its name.
          b: the receiving end.
          symmetric: whether the path back gets the same conditions.
          **knobs: the conditions, documented in :class:`Knobs`.

        Returns:
          The pipe from ``a`` to ``b``, whose ``set`` changes single knobs later.
        """
        conditions = attrs.asdict(change(knobs), recurse=False)
        there = self.pipe(a, b)
        for pipe in (there, self.pipe(b, a)) if symmetric else (there,):
            pipe.set(**conditions)
        return there

    def defaults(self, **knobs: Unpack[Knobs]) -> None:
        """Configure every path that has no conditions of its own, set by ``path`` or ``pipe.set``.

        Args:
          **knobs: the conditions, documented in :class:`Knobs`; omitted ones get their defaults.
        """
        self._fabric.set_default(change(knobs))

    def pipe(self, a: AnyHost, b: AnyHost) -> Pipe:
        """Return the pipe from host ``a`` to host ``b``."""
        sender, receiver = self._named(a).name, self._named(b).name
        if sender == receiver:
            raise ValueError(f"a host has no path to itself, and both ends are {sender!r}")
        return self._fabric.pipe(sender, receiver)

    def _named(self, which: AnyHost) -> Host:
        if isinstance(which, Host):
            return which
        if which not in self._hosts:
            raise ValueError(f"there is no host {which!r}: make it with network.host({which!r})")
        return self._hosts[which]

    # Changes in time

    def at(self, time: float, function: Callable[..., object], *args: Any) -> None:
        """Call ``function(*args)`` at a time.

        Args:
          time: when, in seconds since the network was opened.
          function: a function that is not async.
          args: its positional arguments.

        Its exceptions propagate from :func:`open_network`.
        """
        if not isinstance(time, int | float) or math.isnan(time) or time < self.time:
            raise ValueError(f"time must be seconds since the network was opened, from {self.time} on, not {time!r}")

        def act() -> None:
            with self.report.attaching():
                function(*args)

        self._fabric.schedule(time, act)

    def schedule(self, changes: Iterable[tuple[float, Pipe, Knobs]], *, repeat: float | None = None) -> None:
        """Change the conditions of pipes over time.

        Args:
          changes: for each change its time in seconds from now, the pipe, and the knobs to set.
          repeat: the period in seconds with which all changes are repeated; None for no repetition.
        """
        planned = list(changes)
        longest = max((time for time, _, _ in planned), default=0.0)
        if repeat is not None and not (repeat > 0 and repeat >= longest):
            raise ValueError(f"repeat must be seconds, at least the {longest} of the last change, not {repeat!r}")
        start = self.time

        def plan(start: float) -> None:
            for time, pipe, knobs in planned:
                self.at(start + time, lambda pipe=pipe, knobs=knobs: pipe.set(**knobs))
            if repeat is not None:
                self.at(start + repeat, plan, start + repeat)

        plan(start)
