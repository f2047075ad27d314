"""Payloads: from what the program hands to ``send`` to the bytes of one datagram."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from .._values.addresses import Address, check_host
from .._values.arguments import check_integer, describe_value
from .._values.datagrams import Datagram, PacketInfo, ReceivedPacketInfo, answering
from .families import Family, is_literal

if TYPE_CHECKING:
    from typing_extensions import Buffer

Payload: TypeAlias = "Buffer | str | Sequence[Buffer | str]"
"""What the payload of one datagram can be made of; text is sent as UTF-8, parts are joined."""


_data_of: Final[Callable[[Datagram], bytes]] = itemgetter(0)
_address_of: Final[Callable[[Datagram], Address]] = itemgetter(1)
_info_of: Final[Callable[[Datagram], PacketInfo | None]] = itemgetter(2)


class Outgoing(NamedTuple):
    """What one call of ``send`` asks for."""

    payload: bytes
    to: Address | None
    """The destination; none for the peer of a connected socket."""
    info: PacketInfo | None = None
    """What is to go with it."""
    brought: bool = False
    """Whether the destination came with a datagram, not with the call."""


def check_outgoing(family: Family, value: object, to: object, offset: object = 0, length: object = None) -> Outgoing:
    """Return what ``send`` with these arguments asks for, or raise what is wrong with them."""
    if not isinstance(value, Datagram):
        return Outgoing(encode(value, offset, length), None if to is None else family.check_address("to", to))
    if to is not None:
        raise TypeError(f"a Datagram brings its own address: to must be left out, not {describe_value(to)}")
    address = family.check_address("the address of the datagram", value.address)
    info = _check_info("the info of the datagram", value.info, address)
    return Outgoing(encode(value.data, offset, length), address, info, brought=True)


Run: TypeAlias = tuple[int, Address, PacketInfo | None]
"""Where datagrams begin that all go to one address, with the same info."""


def check_datagrams(family: Family, datagrams: object) -> tuple[list[bytes], list[Run]]:
    """Return what ``send_many`` is given, as payloads and runs of them, or raise what is wrong with it."""
    if not isinstance(datagrams, Iterable):
        raise TypeError(f"datagrams must be an iterable of Datagram, not {describe_value(datagrams)}")
    items: list[Datagram] = list(datagrams)
    # What they have in common is looked at once: where the kernel takes many at a time, a look at each would cost
    # more than sending it.
    if not all(issubclass(kind, Datagram) for kind in set(map(type, items))):
        index, wrong = next((index, item) for index, item in enumerate(items) if not isinstance(item, Datagram))
        raise TypeError(f"item {index} of datagrams must be a Datagram, not {describe_value(wrong)}")
    payloads = list(map(_data_of, items))
    if not set(map(type, payloads)) <= {bytes}:
        payloads = list(map(encode, payloads))
    infos = list(map(_info_of, items))
    informed = infos.count(None) < len(infos)
    runs: list[Run] = []
    sender: object = family.sender
    given: object = items
    last: Address | None = None
    info = last_info = None
    for index, address in enumerate(map(_address_of, items)):
        # Most often it is the same object as the one before.
        if address is given and not informed:
            continue
        given = address
        wanted: Address = address
        if type(address) is not sender:
            wanted = family.check_address(f"the address of item {index} of datagrams", address)
        if informed:
            info = _check_info(f"the info of item {index} of datagrams", infos[index], wanted)
        # Equal addresses differ all the same if the program chose one and the network the other.
        if wanted != last or type(wanted) is not type(last) or info != last_info:
            runs.append((index, wanted, info))
            last, last_info = wanted, info
    return payloads, runs


def _check_info(name: str, info: object, peer: Address) -> PacketInfo | None:
    if info is None:
        return None
    if not isinstance(info, PacketInfo):
        raise TypeError(f"{name} must be a PacketInfo or None, not {describe_value(info)}")
    if isinstance(info, ReceivedPacketInfo):
        # The network chose it: what goes with an answer is all of it that is sent.
        return answering(info, peer)
    if info.local_address is not None:
        host = check_host(f"the local_address of {name}", info.local_address)
        if not any(is_literal(host.partition("%")[0], kind) for kind in (socket.AF_INET, socket.AF_INET6)):
            raise ValueError(f"the local_address of {name} must be a numeric address, not {host!r}")
    for field, lowest, highest in (("interface", 1, 2**31 - 1), ("ecn", 0, 2), ("dscp", 0, 63), ("hop_limit", 1, 255)):
        value = getattr(info, field)
        if value is not None:
            check_integer(f"the {field} of {name}", value, lowest, highest)
    return info


def encode(value: object, offset: object = 0, length: object = None) -> bytes:
    """Return the payload that ``value`` stands for, from ``offset`` on and ``length`` bytes long.

    What can change after the call is copied.
    """
    payload = b"".join(map(_encode_part, value)) if isinstance(value, list | tuple) else _encode_part(value)
    if offset == 0 and length is None and not isinstance(offset, bool):
        return payload
    start = _check_extent("offset", offset, len(payload), len(payload))
    if length is None:
        return payload[start:]
    return payload[start : start + _check_extent("length", length, len(payload) - start, len(payload))]


def _encode_part(part: Any) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, str):
        return part.encode()
    try:
        view = memoryview(part)
    except TypeError:
        raise TypeError(
            f"the payload must be bytes-like, a string, or a list or tuple of those, not {describe_value(part)}"
        ) from None
    return view.tobytes()


def _check_extent(name: str, value: object, highest: int, size: int) -> int:
    return check_integer(f"{name} (in a payload of {size} bytes)", value, 0, highest)
