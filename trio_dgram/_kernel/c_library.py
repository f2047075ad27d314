"""The C library, for the calls that Python's own modules lack."""

from __future__ import annotations

import ctypes
from functools import cache


@cache
def c_library() -> ctypes.CDLL:
    """Return it; what a call has failed with, ``ctypes.get_errno`` tells."""
    return ctypes.CDLL(None, use_errno=True)
