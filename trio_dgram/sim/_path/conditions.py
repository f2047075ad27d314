"""The conditions of a path: every knob of one direction, checked."""

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
"""What becomes of a packet that is larger than the path takes."""

SMALLEST_MTU: Final = 68
"""What every link must take whole, in bytes (RFC 791, 3.2)."""
LARGEST_MTU: Final = 65575
"""The largest packet with a UDP datagram, over IPv6, in bytes."""
_MOST: Final = 2**63 - 1


class Knobs(TypedDict, total=False):
    """The keyword arguments of a path; what is left out keeps its default, or what it was."""

    delay: float
    """Seconds from the end of a packet's sending to its arrival. Default: 0.001."""
    jitter: float
    """How much the delay varies, in seconds; what exactly that means depends on ``distribution``. Default: 0."""
    distribution: Distribution
    """How the delay varies. Default: ``"uniform"``."""
    keep_order: bool
    """Whether a later datagram never overtakes an earlier one, however the delays vary. Default: True."""
    loss: Loss
    """Which packets are lost: a probability, a model, or a function of the packet. Default: 0."""
    duplicate: float
    """How likely a datagram is sent twice, 0 to 1. Default: 0."""
    reorder: float
    """How likely a datagram overtakes by having no delay at all, 0 to 1. Default: 0."""
    gap: int
    """At least every how many datagrams ``reorder`` may take one: 5 has at least 4 delayed in between. Default: 1."""
    corrupt: float
    """How likely a datagram has a wrong checksum on arrival, which drops it there, 0 to 1. Default: 0."""
    corrupt_undetected: float
    """How likely a datagram arrives with one bit of its payload flipped, 0 to 1. Default: 0."""
    rate: float | None
    """Bits a second, IP and UDP headers counted. Default: None, unlimited."""
    queue: int
    """The bytes that can wait for their sending where there is a ``rate``; what finds no room is dropped.
    Default: 150,000."""
    queue_delay: float | None
    """The seconds that a packet may have to wait for its sending; if given, ``queue`` does not count.
    Default: None."""
    mtu: int
    """The largest packet that passes whole, IP header included: 68 to 65,575 bytes. Default: 1500."""
    too_big: TooBig
    """What becomes of larger ones: ``"fragment"`` cuts them, whatever the family and the sender's wish, and they are
    reassembled; ``"icmp"`` cuts what may be cut (IPv4 without "don't fragment") and reports others to the sender;
    ``"blackhole"`` drops them in silence. Default: ``"fragment"``."""
    seed: Seed | None
    """What this path's random sources are made from. Default: None, the network's."""


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
    """Keep what somebody may change later as it is now."""
    value: Any = distribution
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else distribution


@attrs.frozen(kw_only=True)
class Conditions:
    """What one direction of a path is like. :class:`Knobs` tells what each means.

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
    """Return the knobs that differ and their values after, in words."""
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
