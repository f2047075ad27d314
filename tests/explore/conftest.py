"""The fixture of the plugin's tests, here too."""

from __future__ import annotations

from tests.sim.conftest import run

__all__ = ["run"]
