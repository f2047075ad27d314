"""What descriptors this process has open."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from trio_dgram.sim._explore.descriptors import open_descriptors


@contextmanager
def same_descriptors() -> Generator[None]:
    """Fail if the descriptors that are open after the block are not those from before it."""
    before = open_descriptors()
    yield
    assert open_descriptors() == before
