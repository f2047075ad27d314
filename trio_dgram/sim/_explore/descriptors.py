"""The open descriptors of this process."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

_LISTING: Final = "/proc/self/fd"


def open_descriptors() -> dict[int, str]:
    """Return the target of each open descriptor of this process (Linux, proc_pid_fd(5)); empty on other systems.

    It is called twice for each point of a scenario, and with pathlib it would take more than twice as long.
    """
    found: dict[int, str] = {}
    try:
        names = os.listdir(_LISTING)  # noqa: PTH208
    except FileNotFoundError:  # pragma: no cover -- Linux has it
        return found
    for name in names:
        # The listing includes the descriptor that lists the directory, which is closed by now.
        with suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"{_LISTING}/{name}")  # noqa: PTH115
    return found
