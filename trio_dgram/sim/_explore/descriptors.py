"""What descriptors this process has open."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_LISTING = Path("/proc/self/fd")


def open_descriptors() -> dict[int, str]:
    """Return what each open descriptor of this process refers to (Linux, proc_pid_fd(5)); nothing elsewhere."""
    found: dict[int, str] = {}
    if not _LISTING.is_dir():  # pragma: no cover -- Linux has it
        return found
    for entry in _LISTING.iterdir():
        # The one that lists the directory is in the list, and is closed by now.
        with suppress(FileNotFoundError):
            found[int(entry.name)] = str(entry.readlink())
    return found
