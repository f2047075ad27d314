"""The C library, for the calls that the socket module lacks."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


@cache
def c_library() -> ctypes.CDLL:
    """Return the C library; ``ctypes.get_errno`` returns the errno of its calls."""
    return ctypes.CDLL(None, use_errno=True)


def c_function(name: str) -> Any:
    """Return a function of the C library, ``None`` where the platform lacks it."""
    try:
        return getattr(c_library(), name, None)
    except (OSError, TypeError):
        # Windows has no library of that kind.
        return None
