"""Words of messages."""

from __future__ import annotations


def plural(number: object, noun: str) -> str:
    """Return ``noun``, with an s unless ``number`` is 1."""
    return noun if number == 1 else f"{noun}s"
