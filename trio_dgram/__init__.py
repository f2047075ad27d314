"""A Trio-native structured-concurrency datagram toolkit.

Sockets live in a nursery, ``bind`` and ``send`` are awaited, ``receive`` is iterated, and the events of a socket arrive
in channels.

A public name or submodule is imported when it is first used, so a program loads only the parts that it uses.
"""

from __future__ import annotations

import os as _os
import sys as _sys
from importlib import import_module as _import_module

_SUBMODULES = {"dtls", "lowlevel", "quic", "sim", "workers"}
# The public names by module. Type checkers read them in __init__.pyi.
_NAMES = {
    "_codecs.families": ["SocketType"],
    "_kernel.capabilities": ["Capabilities", "capabilities"],
    "_kernel.interfaces": ["Interface", "interfaces"],
    "_kernel.memberships": ["Membership"],
    "_nursery": ["DatagramNursery", "open_nursery", "open_socket"],
    "_peers.channel": ["DatagramChannel"],
    "_peers.connection": ["open_connection"],
    "_peers.exchange": ["Exchange", "open_exchange"],
    "_peers.limits": ["ListenerOptions", "PeerOptions"],
    "_peers.listener": ["DatagramListener", "open_listeners"],
    "_peers.retry": ["retry"],
    "_peers.serving": ["serve"],
    "_socket.buggify": ["buggify"],
    "_socket.config": ["SocketOptions"],
    "_socket.datagram_socket": ["DatagramSocket"],
    "_socket.event_channel": ["ChannelOptions", "EventChannel"],
    "_socket.resolution": ["resolve"],
    "_socket.socket_group": ["SocketGroup"],
    "_socket.trio_socket": ["as_trio_socket"],
    "_values.addresses": ["Address", "ProxiedAddress", "UnixAddress"],
    "_values.datagrams": ["Credentials", "Datagram", "PacketInfo", "ProxyHeader"],
    "_values.errors": [
        "AddressBlockedError",
        "AlreadyBoundError",
        "AlreadyConnectedError",
        "AmplificationLimitError",
        "DatagramError",
        "NotBoundError",
        "NotConnectedError",
        "PeerUnreachable",
        "ProxyHeaderError",
        "SendManyError",
        "SocketStateError",
    ],
    "_values.events": ["Closed", "Connected", "Event", "Failure", "Listening"],
    "_values.statistics": [
        "ChannelStatistics",
        "ExchangeStatistics",
        "ListenerStatistics",
        "PeerStatistics",
        "SocketStatistics",
    ],
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}
__all__ = tuple(sorted(_MODULE_OF))  # pyright: ignore[reportUnsupportedDunderAll] -- it reads __init__.pyi


def __getattr__(name: str) -> object:
    """Import a public name or submodule (PEP 562)."""
    if name in _SUBMODULES:
        value = _import_module(f"{__name__}.{name}")
    elif name in _MODULE_OF:
        value = globals()[name] = getattr(_import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _show_public_names()
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _show_public_names() -> None:
    """Set the module of loaded classes to the public one, for documentation and tracebacks."""
    for name, module in _MODULE_OF.items():
        public = getattr(_sys.modules.get(module), name, None)
        if getattr(public, "__module__", "") == module:
            public.__module__ = __name__


if "LISTEN_FDS" in _os.environ:  # pragma: no cover -- tests import it so in processes of their own
    # Read before the program opens descriptors: a missing one would have the number of another.
    __import__(f"{__name__}.workers")
