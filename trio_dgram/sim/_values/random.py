"""Randomness: a random source of its own for each kind of decision.

Rule 1: a source derives from its key alone: other sources and other draws change nothing.
Rule 2: sequences are the same on every machine, Python version and hash seed: only ``Random.random`` is used, whose
sequence Python promises to keep, with the arithmetic that IEEE 754 fixes.
"""

from __future__ import annotations

import hashlib
import random
from typing import TypeAlias

from ..._values.arguments import describe_value

Seed: TypeAlias = "int | str | bytes"
"""The types of seeds."""


def check_seed(name: str, value: object) -> Seed:
    """Return ``value`` if random sources can be made from it."""
    if not isinstance(value, (int, str, bytes)):
        raise TypeError(f"{name} must be an integer, a string or bytes, not {describe_value(value)}")
    return value


def stream(*key: object) -> random.Random:
    """Return the random source of a key: equal keys have equal sources, and all others unrelated ones.

    Args:
      key: any number of integers, floats, strings, bytes, None and tuples of those.

    Raises:
      TypeError: for a part of any other type, which may not look the same in another process.
    """
    digest = hashlib.blake2b(_encode(key), digest_size=32, person=b"trio_dgram.sim")
    return random.Random(int.from_bytes(digest.digest()))


def _encode(part: object) -> bytes:
    """Return an unambiguous encoding: no other part, and no sequence of parts, has the same."""
    if isinstance(part, tuple):
        kind, content = b"t", b"".join(map(_encode, part))
    elif isinstance(part, str):
        kind, content = b"s", part.encode(errors="surrogatepass")
    elif isinstance(part, bytes):
        kind, content = b"b", part
    elif part is None or isinstance(part, (int, float)):
        kind, content = type(part).__name__.encode(), repr(part).encode()
    else:
        raise TypeError(f"key must be of integers, floats, strings, bytes, None and tuples, not {describe_value(part)}")
    return b"%s%d:%s" % (kind, len(content), content)
