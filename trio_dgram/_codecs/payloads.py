"""Payloads: from the arguments of ``send`` and ``send_many`` to the bytes of datagrams."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from .._values.addresses import Address, ProxiedAddress, check_host
from .._values.arguments import check_integer, describe_value
from .._values.datagrams import Datagram, PacketInfo, ReceivedPacketInfo, info_for_reply
from .families import Family, is_literal

if TYPE_CHECKING:
    from typing_extensions import Buffer

Payload: TypeAlias = "Buffer | str | Sequence[Buffer | str]"
"""The payload of one datagram; text is sent as UTF-8, the parts of a sequence are joined."""

START: Final = 0
"""The default offset of ``send``, which recognises it by its identity."""
_LARGEST: Final = 65535
"""More than any UDP payload, in bytes."""
_TOO_LARGE: Final = bytes(_LARGEST + 1)
"""A stand-in for a larger payload, which the kernel refuses alike: copying the payload first would take a time that
depends on its size."""

_MOST_PARTS: Final = 8192
"""The most parts of one payload: to join them takes a time that depends on their number."""

_data_of: Final[Callable[[Datagram], bytes]] = itemgetter(0)
_address_of: Final[Callable[[Datagram], Address]] = itemgetter(1)
_info_of: Final[Callable[[Datagram], PacketInfo | None]] = itemgetter(2)


class Outgoing(NamedTuple):
    """The checked arguments of one ``send``."""

    payload: bytes
    to: Address | None
    """The destination; ``None`` for the peer of a connected socket."""
    info: PacketInfo | None = None
    from_datagram: bool = False
    """Whether the destination is the address of a Datagram, not the argument ``to``."""


def check_outgoing(family: Family, value: object, to: object, offset: object = 0, length: object = None) -> Outgoing:
    """Return the checked arguments of ``send``, or raise what is wrong with them."""
    if not isinstance(value, Datagram):
        payload = encode(family, value, offset, length)
        return Outgoing(payload, None if to is None else family.check_address("to", to))
    if to is not None:
        raise TypeError(f"a Datagram has its own address: to must be omitted, not {describe_value(to)}")
    data, destination, info = tuple.__iter__(value)
    address = family.check_address("the address of the datagram", destination)
    checked = _check_info("the info of the datagram", info, address)
    return Outgoing(encode(family, data, offset, length), address, checked, from_datagram=True)


Run: TypeAlias = tuple[int, Address, PacketInfo | None]
"""The position from which on datagrams go to one address with one info."""


def check_datagrams(family: Family, items: list[Any], first: int) -> tuple[list[bytes], list[Run]]:
    """Return a part of the argument of ``send_many`` as payloads and runs, or raise what is wrong with it.

    Args:
      family: the type of the socket.
      items: the part.
      first: the position of its first item in the argument, for messages.
    """
    # Checks of all items at once: a check of each would cost more than sending it with offload.
    if not all(issubclass(kind, Datagram) for kind in set(map(type, items))):
        index, wrong = next((index, item) for index, item in enumerate(items) if not isinstance(item, Datagram))
        raise TypeError(f"item {first + index} of datagrams must be a Datagram, not {describe_value(wrong)}")
    payloads = list(map(_data_of, items))
    if set(map(type, payloads)) - {bytes}:
        payloads = [encode(family, payload) for payload in payloads]
    infos = list(map(_info_of, items))
    with_info = infos.count(None) < len(infos)
    runs: list[Run] = []
    source_type: object = family.source_type
    previous: object = items
    last: Address | None = None
    info = last_info = None
    for index, address in enumerate(map(_address_of, items)):
        # Mostly the same object as that of the item before.
        if address is previous and not with_info:
            continue
        previous = address
        wanted: Address = address
        if type(address) is not source_type:
            wanted = family.check_address(f"the address of item {first + index} of datagrams", address)
            if type(wanted) is ProxiedAddress:
                # An equal address may have another proxy.
                last = None
        if with_info:
            info = _check_info(f"the info of item {first + index} of datagrams", infos[index], wanted)
        # Equal addresses differ if the program chose one and the network the other.
        if wanted != last or type(wanted) is not type(last) or (info is not last_info and info != last_info):
            runs.append((index, wanted, info))
            last, last_info = wanted, info
    return payloads, runs


def _check_info(name: str, info: object, peer: Address) -> PacketInfo | None:
    if info is None:
        return None
    if not isinstance(info, PacketInfo):
        raise TypeError(f"{name} must be a PacketInfo or None, not {describe_value(info)}")
    if isinstance(info, ReceivedPacketInfo):
        return info_for_reply(info, peer)
    if info.local_address is not None:
        host = check_host(f"the local_address of {name}", info.local_address)
        if not any(is_literal(host.partition("%")[0], kind) for kind in (socket.AF_INET, socket.AF_INET6)):
            raise ValueError(f"the local_address of {name} must be a numeric address, not {host!r}")
    for field, lowest, highest in (("interface", 1, 2**31 - 1), ("ecn", 0, 2), ("dscp", 0, 63), ("hop_limit", 1, 255)):
        value = getattr(info, field)
        if value is not None:
            check_integer(f"the {field} of {name}", value, lowest, highest)
    return info


def encode(family: Family, value: object, offset: object = 0, length: object = None) -> bytes:
    """Return the payload ``value`` from ``offset`` on, ``length`` bytes long, as bytes that nothing else can change."""
    if type(value) is bytes and type(offset) is int and not offset and length is None:
        return value
    whole = offset == 0 and length is None and not isinstance(offset, bool)
    most = _LARGEST if whole and family.is_internet else None
    parts: list[bytes | memoryview] = []
    size = 0
    for part in _parts(value):
        view = _view(part, most)
        size += len(view) if isinstance(view, bytes) else view.nbytes
        if most is not None and size > most:
            return _TOO_LARGE
        parts.append(view)
    if not whole:
        start = _check_extent("offset", offset, size, size)
        end = size if length is None else start + _check_extent("length", length, size - start, size)
        parts, size = _cut(parts, start, end), end - start
        if size > _LARGEST and family.is_internet:
            return _TOO_LARGE
    return parts[0] if len(parts) == 1 and type(parts[0]) is bytes else b"".join(parts)


def _parts(value: object) -> Iterable[Any]:
    if not isinstance(value, list | tuple):
        return (value,)
    parts = list.__getitem__(value, slice(None)) if isinstance(value, list) else tuple.__getitem__(value, slice(None))
    if len(parts) > _MOST_PARTS:
        raise ValueError(f"the payload must have at most {_MOST_PARTS} parts, not {len(parts)}: join them first")
    return parts


def _view(part: Any, most: int | None) -> bytes | memoryview:
    """Return the bytes of ``part`` without calling the methods of a subclass.

    What is longer than ``most`` bytes is not converted: it counts by its size only.
    """
    if type(part) is bytes:
        return part
    if isinstance(part, str):
        characters = str.__len__(part)
        return _TOO_LARGE if most is not None and characters > most else str.encode(part)
    try:
        view = memoryview(part)
    except TypeError:
        raise TypeError(
            f"the payload must be bytes-like, a string, or a list or tuple of those, not {describe_value(part)}"
        ) from None
    if most is not None and view.nbytes > most:
        return _TOO_LARGE
    return view.cast("B") if view.c_contiguous and view.nbytes else view.tobytes()


def _cut(parts: list[bytes | memoryview], start: int, end: int) -> list[bytes | memoryview]:
    kept: list[bytes | memoryview] = []
    position = 0
    for part in parts:
        kept.append(part[max(0, start - position) : max(0, end - position)])
        position += len(part)
    return kept


def _check_extent(name: str, value: object, highest: int, size: int) -> int:
    return check_integer(f"{name} (in a payload of {size} bytes)", value, 0, highest)
