"""Marks of tests that need what not every system has."""

from __future__ import annotations

from typing import Final

import pytest

needs_packet_info: Final = pytest.mark.skipif(
    "config.getoption('--portable')", reason="kernel: the portable path has no ancillary data"
)
