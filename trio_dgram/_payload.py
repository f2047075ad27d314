"""Payloads: from what the program hands to ``send`` to the bytes of one datagram."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from ._addresses import Address, ReceivedAddress, check_address
from ._arguments import check_integer, describe_value
from ._datagrams import Datagram

if TYPE_CHECKING:
    from typing_extensions import Buffer

Payload: TypeAlias = "Buffer | str | Sequence[Buffer | str]"
"""What the payload of one datagram can be made of; text is sent as UTF-8, parts are joined."""

_data_of: Final[Callable[[Datagram], bytes]] = itemgetter(0)
_address_of: Final[Callable[[Datagram], Address]] = itemgetter(1)


class Outgoing(NamedTuple):
    """What one call of ``send`` asks for."""

    payload: bytes
    to: Address | None
    """The destination; none for the peer of a connected socket."""
    brought: bool = False
    """Whether the destination came with a datagram, not with the call."""


def check_outgoing(value: object, to: object, offset: object = 0, length: object = None) -> Outgoing:
    """Return what ``send`` with these arguments asks for, or raise what is wrong with them."""
    if not isinstance(value, Datagram):
        return Outgoing(encode(value, offset, length), None if to is None else check_address("to", to))
    if to is not None:
        raise TypeError(f"a Datagram brings its own address: to must be left out, not {describe_value(to)}")
    address = check_address("the address of the datagram", value.address)
    return Outgoing(encode(value.data, offset, length), address, brought=True)


def check_datagrams(datagrams: object) -> tuple[list[bytes], list[tuple[int, Address]]]:
    """Return what ``send_many`` is given, or raise what is wrong with it.

    It is the payloads, and for each run of them to one address where it begins, and the address.
    """
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
    runs: list[tuple[int, Address]] = []
    given: object = None
    last: Address | None = None
    for index, address in enumerate(map(_address_of, items)):
        # Most often it is the same object as the one before.
        if address is given and last is not None:
            continue
        given = address
        if type(address) is not ReceivedAddress:
            address = check_address(f"the address of item {index} of datagrams", address)  # noqa: PLW2901
        # Equal addresses differ all the same if the program chose one and the network the other.
        if address != last or type(address) is not type(last):
            runs.append((index, address))
            last = address
    return payloads, runs


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
