"""The compiled layer: an extension module, ``native``, that is built where there is a C compiler, on Linux.

Without it, or with ``TRIO_DGRAM_PURE=1`` in the environment, everything is done in Python.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Final

from .._values.datagrams import Datagram
from .local_address_cache import cached_local_info


def _load() -> Any:
    if os.environ.get("TRIO_DGRAM_PURE", "0") in ("", "0"):
        try:
            module: Any = importlib.import_module(".native", __package__)
        except ImportError:  # pragma: no cover -- depends on the installation
            return None
        module.configure(Datagram, cached_local_info)
        return module
    return None  # pragma: no cover -- the session tests_portable runs it


native: Final[Any] = _load()
"""The extension module, ``None`` without it."""
