"""The conditions of a path: every knob of one direction, validated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias, TypedDict, get_args

import attrs

from ..._values.arguments import (
    check_bool,
    check_choice,
    check_integer,
    check_number,
    check_probability,
)
from .._values.random import Seed, check_seed
from .delays import Distribution, check_distribution
from .losses import Loss, check_loss

TooBig: TypeAlias = Literal["fragment", "icmp", "blackhole"]
"""The treatment of packets that are larger than the MTU of the path."""

SMALLEST_MTU: Final = 68
"""The smallest MTU of a link, in bytes (RFC 791, 3.2)."""
LARGEST_MTU: Final = 65575
"""The largest packet with a UDP datagram, over IPv6, in bytes."""
_MOST: Final = 2**63 - 1


class Knobs(TypedDict, total=False):
    """The keyword arguments of a path; omitted ones keep their default or their current value."""

    delay: float
    """Seconds from the end of a packet's transmission to its arrival. Default: 0.001."""
    jitter: float
    """The variation of the delay, in seconds, as defined by ``distribution``. Default: 0."""
    distribution: Distribution
    """The distribution of the delay. Default: ``"uniform"``."""
    keep_order: bool
    """Whether a later datagram never overtakes an earlier one, however the delays vary. Default: True."""
    loss: Loss
    """Which packets are lost: a probability, a model, or a function of the packet. Default: 0."""
    duplicate: float
    """The probability that a datagram is duplicated, 0 to 1. Default: 0."""
    reorder: float
    """The probability that a datagram overtakes others by having no delay at all, 0 to 1. Default: 0."""
    gap: int
    """The smallest distance between reordered datagrams: 5 keeps at least 4 delayed ones in between. Default: 1."""
    corrupt: float
    """The probability that a datagram arrives with a wrong checksum, and so is dropped, 0 to 1. Default: 0."""
    corrupt_undetected: float
    """The probability that one bit of a datagram's payload is flipped, 0 to 1. Default: 0."""
    rate: float | None
    """The bandwidth in bits per second, IP and UDP headers included. Default: None, unlimited."""
    queue: int
    """The size of the queue in front of a link with a ``rate``, in bytes; packets beyond it are dropped. Default:
    150,000."""
    queue_delay: float | None
    """The longest queueing delay in seconds; if given, ``queue`` is ignored. Default: None."""
    mtu: int
    """The MTU: the largest packet that is not fragmented, IP header included: 68 to 65,575 bytes. Default: 1500."""
    too_big: TooBig
    """The treatment of larger packets: ``"fragment"`` fragments them, even against family and "don't fragment", and
    reassembles them; ``"icmp"`` fragments where it is allowed (IPv4 without "don't fragment") and reports the others to
    the sender; ``"blackhole"`` drops them silently. Default: ``"fragment"``."""
    seed: Seed | None
    """The seed of this path's random sources. Default: None, the network's."""


def _checked(check: Callable[..., object], *bounds: object) -> Callable[[object, attrs.Attribute[Any], object], None]:
    def validate(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        check(attribute.name, value, *bounds)

    return validate


def _check_rate(name: str, value: object) -> None:
    if check_number(name, value, 0) == 0:
        raise ValueError(f"{name} must be more than 0 bits a second; for a path that carries nothing, set loss to 1")


def _optional(validator: Callable[..., None]) -> Callable[..., None]:
    return attrs.validators.optional(validator)


def _freeze(distribution: Distribution) -> Distribution:
    """Copy a value that the caller could change later."""
    value: Any = distribution
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else distribution


@attrs.frozen(kw_only=True)
class Conditions:
    """The conditions of one direction of a path, documented in :class:`Knobs`.

    Raises:
      TypeError: if a knob has a value of the wrong type.
      ValueError: if one is out of its bounds.
    """

    delay: float = attrs.field(default=0.001, validator=_checked(check_number, 0))
    jitter: float = attrs.field(default=0, validator=_checked(check_number, 0))
    distribution: Distribution = attrs.field(
        default="uniform", converter=_freeze, validator=_checked(check_distribution)
    )
    keep_order: bool = attrs.field(default=True, validator=_checked(check_bool))
    loss: Loss = attrs.field(default=0, validator=_checked(check_loss))
    duplicate: float = attrs.field(default=0, validator=_checked(check_probability))
    reorder: float = attrs.field(default=0, validator=_checked(check_probability))
    gap: int = attrs.field(default=1, validator=_checked(check_integer, 1, _MOST))
    corrupt: float = attrs.field(default=0, validator=_checked(check_probability))
    corrupt_undetected: float = attrs.field(default=0, validator=_checked(check_probability))
    rate: float | None = attrs.field(default=None, validator=_optional(_checked(_check_rate)))
    queue: int = attrs.field(default=150_000, validator=_checked(check_integer, 0, _MOST))
    queue_delay: float | None = attrs.field(default=None, validator=_optional(_checked(check_number, 0)))
    mtu: int = attrs.field(default=1500, validator=_checked(check_integer, SMALLEST_MTU, LARGEST_MTU))
    too_big: TooBig = attrs.field(default="fragment", validator=_checked(check_choice, get_args(TooBig)))
    seed: Seed | None = attrs.field(default=None, validator=_optional(_checked(check_seed)))


KNOBS: Final = tuple(field.name for field in attrs.fields(Conditions))
"""The names of all knobs."""
_PERFECT: Final = Conditions()


def differences(before: Conditions, after: Conditions) -> str:
    """Return the changed knobs and their new values, in words."""
    values = attrs.asdict(after, recurse=False)
    return ", ".join(f"{name}={value!r}" for name, value in values.items() if value != getattr(before, name))


def change(knobs: Knobs, before: Conditions = _PERFECT) -> Conditions:
    """Return ``before`` with some knobs changed.

    Raises:
      TypeError: if there is no such knob, or for a value of the wrong type.
      ValueError: for a value out of its bounds.
    """
    unknown = [name for name in knobs if name not in KNOBS]
    if unknown:
        raise TypeError(f"there is no knob {', '.join(map(repr, unknown))}; there are {', '.join(KNOBS)}")
    return attrs.evolve(before, **knobs)
