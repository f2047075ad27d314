"""What whoever runs many scenarios decides for all of them, such as pytest for the tests of a run."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final

from .._values.random import Seed

default_seed: Final[ContextVar[Seed]] = ContextVar("trio_dgram.sim default seed", default=0)
"""The seed of a network that is given none."""

opened: Final[ContextVar[list[Any] | None]] = ContextVar("trio_dgram.sim opened networks", default=None)
"""Takes every network that is opened; ``None`` where nobody asks for them."""
