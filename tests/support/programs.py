"""Programs of the distribution that our sockets are tried against."""

from __future__ import annotations

import os
import shutil

import pytest


def find_program(name: str) -> str:
    """Return the path of a program; skip the test where it is missing, which on CI is a failure."""
    # Administration's programs may not be on an ordinary user's path.
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"program: {name} is not installed")
    return found
