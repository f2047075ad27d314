"""What descriptors this process has open."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


def open_descriptors() -> dict[int, str]:
    """Return what each open descriptor of this process refers to (Linux, proc_pid_fd(5))."""
    found: dict[int, str] = {}
    for entry in Path("/proc/self/fd").iterdir():
        # The one that lists the directory is in the list, and is closed by now.
        with suppress(FileNotFoundError):
            found[int(entry.name)] = str(entry.readlink())
    return found


@contextmanager
def same_descriptors() -> Generator[None]:
    """Fail if the descriptors that are open after the block are not those from before it."""
    before = open_descriptors()
    yield
    assert open_descriptors() == before
