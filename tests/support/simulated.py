"""The simulated network as a transport for the tests of the kernel's, with a second host for the second machine."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import attrs
import trio

from trio_dgram.sim import Network, open_network

HERE: Final = {"udp4": "198.18.1.1", "udp6": "2001:db8:1::1"}
SECOND_HERE: Final = "2001:db8:1::3"
THERE: Final = {"udp4": "198.18.1.2", "udp6": "2001:db8:1::2"}

_networks: list[Network] = []


def run_simulated(async_fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Do as ``trio.run`` does, on one of two hosts of a simulated network."""

    async def main() -> Any:
        async with open_network(seed=1) as network:
            network.host("here", addresses=[*HERE.values(), SECOND_HERE])
            network.host("there", addresses=THERE.values())
            _networks.append(network)
            try:
                return await async_fn(*args)
            finally:
                _networks.pop()

    return trio.run(main, **options)


@attrs.frozen
class SimulatedLink:
    """What a ``Link`` is on real machines: the interface that every host has."""

    name: str = "eth0"
    peer_name: str = "eth0"
    here: dict[str, str] = attrs.field(factory=lambda: HERE)
    there: dict[str, str] = attrs.field(factory=lambda: THERE)
    broadcast: str = "10.255.255.255"


class SimulatedMachine:
    """What another ``Machine`` is on real ones: the host that the test is not on."""

    @contextmanager
    def active(self) -> Generator[None]:
        """Be on that machine for the block."""
        with _networks[-1].host("there").active():
            yield

    def link(self) -> SimulatedLink:
        """Return the one link that there is."""
        return SimulatedLink()
