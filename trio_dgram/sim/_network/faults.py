"""Faults of a network that a program asks for: partitions, and paths that are held."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Final, Literal, TypeAlias

from ..._values.arguments import check_bool, check_choice, check_number
from .._path.fabric import Fabric
from .._path.pipe import Pipe
from .topology import AnyHost, Topology

Direction: TypeAlias = Literal["both", "there", "back"]


def cut_paths(fabric: Fabric, pipes: Iterable[Pipe], sides: str) -> Callable[[], None]:
    """Begin a partition, and return the function that ends it.

    Args:
      fabric: the fabric of the network.
      pipes: the paths that are cut.
      sides: the description of its sides.
    """
    cut = tuple(pipes)
    for pipe in cut:
        pipe.cut()
    fabric.note("", f"partition: {sides}", "fault")

    def end() -> None:
        for pipe in cut:
            pipe.mend()
        fabric.note("", f"the partition ends: {sides}", "fault")

    return end


class Faults(Topology):
    """The part of a network that has its faults."""

    @contextmanager
    def partition(
        self,
        a: Iterable[AnyHost],
        b: Iterable[AnyHost],
        *,
        direction: Direction = "both",
        drop_in_flight: bool = False,
    ) -> Generator[None]:
        """Drop every datagram between the hosts ``a`` and the hosts ``b`` while the ``with`` block runs.

        Args:
          a: hosts on one side.
          b: hosts on the other.
          direction: ``"both"``, or only from ``a`` to ``b``, ``"there"``, or only ``"back"``.
          drop_in_flight: whether to drop datagrams that are in flight when the block begins; by default they arrive.
        """
        check_choice("direction", direction, ("both", "there", "back"))
        check_bool("drop_in_flight", drop_in_flight)
        a, b = tuple(a), tuple(b)
        pairs = [(one, other) for one in a for other in b]
        cut = [self.pipe(one, other) for one, other in pairs] if direction != "back" else []
        cut += [self.pipe(other, one) for one, other in pairs] if direction != "there" else []
        end = cut_paths(self._fabric, cut, f"{_format_hosts(a)} {_ARROWS[direction]} {_format_hosts(b)}")
        if drop_in_flight:
            self._fabric.drop_in_flight(cut)
        try:
            yield
        finally:
            end()

    def hold(self, a: AnyHost, b: AnyHost) -> None:
        """Hold every datagram that enters the path from ``a`` to ``b``, until :meth:`release` was called as often."""
        pipe = self.pipe(a, b)
        pipe.hold()
        self._fabric.note("", f"hold {pipe.name}", "fault")

    def release(self, a: AnyHost, b: AnyHost) -> None:
        """End one :meth:`hold` from ``a`` to ``b``. The end of the last one releases all held datagrams, in order.

        Args:
          a: the host that sends, or its name.
          b: the host that receives, or its name.

        Raises:
          RuntimeError: if there is none.
        """
        self._fabric.note("", f"release {self.pipe(a, b).name}", "fault")
        self._fabric.release(self._named(a).name, self._named(b).name)

    def swizzle_clog(self, hosts: Iterable[AnyHost], *, seconds: float) -> None:
        """Hold the datagrams to and from each of ``hosts``, one host after another, and release them in another order.

        Args:
          hosts: the hosts or their names.
          seconds: the total duration; each hold begins and ends at a random time.
        """
        if check_number("seconds", seconds, 0) == 0:
            raise ValueError("seconds must be more than 0")
        names = [self._named(host).name for host in hosts]
        choices = self._fabric.choices
        draw = choices.stream("swizzle", *names, self.time).random
        begin = self.time
        for name in names:
            clogged = begin + choices.at(f"swizzle {name}: hold", draw, neutral=0.0)() * seconds / 2
            release = choices.at(f"swizzle {name}: release", lambda: 1 + draw(), neutral=0.0)()
            if not release:
                continue
            unclogged = begin + release * seconds / 2
            for other in self._hosts:
                if other != name:
                    self._clog(name, other, clogged, unclogged)
                    self._clog(other, name, clogged, unclogged)

    def _clog(self, sender: str, receiver: str, begin: float, end: float) -> None:
        self.at(begin, self.hold, sender, receiver)
        self.at(end, self.release, sender, receiver)


_ARROWS: Final = {"both": "|", "there": "-/->", "back": "<-/-"}


def _format_hosts(hosts: Iterable[AnyHost]) -> str:
    return ", ".join(host if isinstance(host, str) else host.name for host in hosts)
