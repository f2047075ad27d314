"""A simulated network: unmodified programs run on it under configurable conditions, in virtual time, reproducibly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import presets
from ._explore.explorer import cancel_everywhere
from ._network.host import Host, HostStoppedError
from ._network.invariants import InvariantError
from ._network.nat_handle import NatHandle
from ._network.network import Network, open_network
from ._network.trio_internals import ThreadStartedError
from ._network.trio_socket import SimulatedSocket
from ._path.conditions import Conditions, Knobs
from ._path.losses import Burst, DropList, GilbertElliott, Markov4
from ._path.pipe import Pipe
from ._run.comparison import NotDeterministicError
from ._run.running import run
from ._run.watch import StuckError
from ._trace.trace import Trace
from ._values.records import Note, Packet, Record, Report

if TYPE_CHECKING:
    from . import strategies

__all__ = [
    "Burst",
    "Conditions",
    "DropList",
    "GilbertElliott",
    "Host",
    "HostStoppedError",
    "InvariantError",
    "Knobs",
    "Markov4",
    "NatHandle",
    "Network",
    "NotDeterministicError",
    "Note",
    "Packet",
    "Pipe",
    "Record",
    "Report",
    "SimulatedSocket",
    "StuckError",
    "ThreadStartedError",
    "Trace",
    "cancel_everywhere",
    "open_network",
    "presets",
    "run",
    "strategies",
]


def __getattr__(name: str) -> Any:
    # The strategies need Hypothesis; the rest of the subpackage does not.
    if name == "strategies":
        from importlib import import_module  # noqa: PLC0415 -- for this alone

        return import_module(".strategies", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# Public objects report their public module, not the private one that defines them.
def _show_public_names() -> None:
    for name in __all__:
        public = globals().get(name)
        if getattr(public, "__module__", "").startswith(f"{__name__}."):
            public.__module__ = __name__


_show_public_names()
