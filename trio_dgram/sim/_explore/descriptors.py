"""The open descriptors of this process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_LISTING = Path("/proc/self/fd")


def open_descriptors() -> dict[int, str]:
    """Return the target of each open descriptor of this process (Linux, proc_pid_fd(5)); empty on other systems."""
    found: dict[int, str] = {}
    if not _LISTING.is_dir():  # pragma: no cover -- Linux has it
        return found
    for entry in _LISTING.iterdir():
        # The listing includes the descriptor that lists the directory, which is closed by now.
        with suppress(FileNotFoundError):
            found[int(entry.name)] = str(entry.readlink())
    return found
