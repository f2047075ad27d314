"""A kernel or sandbox that refuses optional options and calls.

``socket.socket`` is replaced by a class whose options raise ENOPROTOOPT, so that the library meets the refusals where
an older kernel would raise them; calls of the C library are refused in ``c_library``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import pytest

from trio_dgram._codecs import ancillary, error_queue
from trio_dgram._kernel import c_library as _c_library
from trio_dgram._kernel import capabilities as _capabilities
from trio_dgram._kernel import options as _options
from trio_dgram._kernel import system_socket as _system
from trio_dgram._kernel.compiled_layer import native

_IP, _IPV6, _UDP, _SOCKET = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.IPPROTO_UDP, socket.SOL_SOCKET


def _fail(number: int) -> Callable[..., int]:
    """Return a function of the C library that fails with the errno ``number``."""

    def fail(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    return fail


@attrs.frozen(kw_only=True)
class Refusal:
    """One thing that a kernel, a sandbox or a platform lacks."""

    options: Sequence[tuple[int, int]] = ()
    """The socket options, by level and number, that raise ``number``."""
    number: int = errno.ENOPROTOOPT
    functions: Mapping[str, Callable[..., Any] | None] = attrs.field(factory=dict)
    """Replacements of functions of the C library, None for one that it lacks."""
    names: tuple[str, ...] = ()
    """The names that the socket module lacks."""
    methods: tuple[str, ...] = ()
    """The methods that sockets lack."""
    lost: Sequence[str] = ()
    """The capabilities that are not detected, by their names."""


_WITHOUT_BATCHES: Final = ["batches", *(["compiled"] if native is not None else [])]
"""The compiled layer receives in batches only."""

REFUSALS: Final[Mapping[str, Refusal]] = {
    "IP_MULTICAST_ALL": Refusal(options=[(_IP, _capabilities.IP_MULTICAST_ALL)], lost=["multicast_all"]),
    "IPV6_MULTICAST_ALL": Refusal(options=[(_IPV6, _capabilities.IPV6_MULTICAST_ALL)]),
    "UDP_GRO": Refusal(options=[(_UDP, ancillary.UDP_GRO)], lost=["receive_offload"]),
    "UDP_SEGMENT": Refusal(options=[(_UDP, ancillary.UDP_SEGMENT)], lost=["send_offload"]),
    "IP_RECVERR": Refusal(options=[(_IP, error_queue.IP_RECVERR)], lost=["error_queue"]),
    "IPV6_RECVERR": Refusal(options=[(_IPV6, error_queue.IPV6_RECVERR)]),
    "SO_BINDTODEVICE": Refusal(options=[(_SOCKET, 25)], lost=["bind_to_device"]),
    "no SO_BINDTODEVICE": Refusal(names=("SO_BINDTODEVICE",), lost=["bind_to_device"]),
    "SO_MEMINFO": Refusal(options=[(_SOCKET, _capabilities.SO_MEMINFO)], lost=["drop_counter"]),
    "SO_REUSEPORT": Refusal(options=[(_SOCKET, 15)], lost=["reuse_port"]),
    "no SO_REUSEPORT": Refusal(names=("SO_REUSEPORT",), lost=["reuse_port"]),
    "packet info": Refusal(
        options=[
            (_IP, ancillary.IP_PKTINFO),
            (_IP, ancillary.IP_RECVTOS),
            (_IP, ancillary.IP_RECVTTL),
            (_IPV6, ancillary.IPV6_RECVPKTINFO),
            (_IPV6, ancillary.IPV6_RECVTCLASS),
            (_IPV6, ancillary.IPV6_RECVHOPLIMIT),
        ],
        lost=["packet_info"],
    ),
    "SO_TIMESTAMPNS": Refusal(options=[(_SOCKET, ancillary.SO_TIMESTAMPNS)]),
    "IP_MTU_DISCOVER": Refusal(
        options=[
            (_IP, _capabilities.IP_MTU_DISCOVER),
            (_IP, _system.IP_MTU),
            (_IPV6, _options.IPV6_MTU_DISCOVER),
            (_IPV6, _system.IPV6_MTU),
        ],
        lost=["path_mtu"],
    ),
    "MCAST_JOIN_SOURCE_GROUP": Refusal(
        options=[
            (level, number)
            for level in (_IP, _IPV6)
            for number in (_capabilities.MCAST_JOIN_SOURCE_GROUP, _capabilities.MCAST_LEAVE_SOURCE_GROUP)
        ],
        lost=["source_membership"],
    ),
    "MCAST_JOIN_SOURCE_GROUP in a sandbox": Refusal(
        options=[(_IP, _capabilities.MCAST_JOIN_SOURCE_GROUP)], number=errno.EPERM, lost=["source_membership"]
    ),
    "recvmmsg": Refusal(functions={"recvmmsg": _fail(errno.ENOSYS)}, lost=_WITHOUT_BATCHES),
    "recvmmsg in a sandbox": Refusal(functions={"recvmmsg": _fail(errno.EPERM)}, lost=_WITHOUT_BATCHES),
    "no recvmmsg": Refusal(functions={"recvmmsg": None}, lost=_WITHOUT_BATCHES),
    "no connect": Refusal(functions={"connect": None}, lost=["disconnect"]),
    "connect in a sandbox": Refusal(functions={"connect": _fail(errno.EPERM)}, lost=["disconnect"]),
    "no recvmsg and sendmsg": Refusal(
        methods=("recvmsg", "sendmsg"), lost=["receive_offload", "send_offload", "packet_info", "error_queue"]
    ),
}
"""Every optional option and call, by name."""

ALL: Final = "everything"
NAMES: Final = (*REFUSALS, ALL)
"""The names that :func:`refuse` accepts."""


def refusals(name: str) -> list[Refusal]:
    """Return the refusals of this name: one, or all of them."""
    return list(REFUSALS.values()) if name == ALL else [REFUSALS[name]]


def lost_capabilities(name: str) -> frozenset[str]:
    """Return the names of the capabilities that are not detected under the refusal ``name``."""
    return frozenset[str]().union(*(refusal.lost for refusal in refusals(name)))


def _missing(self: object) -> Any:
    raise AttributeError("this system has no such call")


def refusing_socket(refused: list[Refusal], *, sandbox: bool) -> type[socket.socket]:
    """Return a class to stand for ``socket.socket``, which refuses the options and lacks the methods.

    A sandbox sees options but no control messages.
    """
    base = socket.socket
    options = {place: refusal.number for refusal in refused for place in refusal.options}
    ignores_segments = not sandbox and (_UDP, ancillary.UDP_SEGMENT) in options

    class RefusingSocket(base):  # type: ignore[misc, valid-type]
        __slots__ = ()

        def setsockopt(self, *arguments: Any) -> None:
            _check(arguments)
            super().setsockopt(*arguments)

        def getsockopt(self, *arguments: Any) -> Any:
            _check(arguments)
            return super().getsockopt(*arguments)

        def sendmsg(self, buffers: Any, ancillary_data: Any = (), *rest: Any) -> int:
            # An older kernel ignores control messages of this level, and would send all segments as one datagram.
            if ignores_segments:  # pragma: no cover -- a kernel whose option is refused is not asked to
                ancillary_data = [message for message in ancillary_data if message[0] != _UDP]
            sent: int = super().sendmsg(buffers, ancillary_data, *rest)
            return sent

        for _name in {name for refusal in refused for name in refusal.methods}:
            locals()[_name] = property(_missing)

    def _check(arguments: tuple[Any, ...]) -> None:
        number = options.get(arguments[:2])
        if number is not None:
            raise OSError(number, os.strerror(number))

    return RefusingSocket


class RefusingLibrary:
    """The C library, with some of its functions replaced."""

    def __init__(self, functions: Mapping[str, Callable[..., Any] | None]) -> None:
        self._functions = functions
        self._library: Any = _c_library.c_library()

    def __getattr__(self, name: str) -> Any:
        if name not in self._functions:
            return getattr(self._library, name)
        if self._functions[name] is None:
            raise AttributeError(name)
        return self._functions[name]


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, *, after_detection: bool = False) -> None:
    """Make the kernel refuse the feature ``name``.

    Args:
      monkeypatch: ends it.
      name: one of ``NAMES``.
      after_detection: whether the capabilities were found before, as where a sandbox holds for some sockets only.
    """
    refused = refusals(name)
    detected = _capabilities.detect() if after_detection else None
    functions = {key: function for refusal in refused for key, function in refusal.functions.items()}
    library = RefusingLibrary(functions)
    monkeypatch.setattr(_c_library, "c_library", lambda: library)
    if "recvmmsg" in functions:
        monkeypatch.setattr(_system, "receive_batch", _refused_batch(functions["recvmmsg"]))
    for missing in {each for refusal in refused for each in refusal.names}:
        monkeypatch.delattr(socket, missing)
    monkeypatch.setattr(socket, "socket", refusing_socket(refused, sandbox=after_detection))
    monkeypatch.setattr(_capabilities, "detected", detected)


def _refused_batch(function: Callable[..., Any] | None) -> Callable[..., Any]:
    def refused_batch(*_: object, **__: object) -> Any:
        assert function is not None, "a function that does not exist was called"
        function()
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

    return refused_batch
