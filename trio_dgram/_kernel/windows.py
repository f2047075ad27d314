"""Windows: a socket that does not fail a receive because of an earlier send to another peer (WSAIoctl)."""

from __future__ import annotations

import ctypes
from typing import Any, Final

SIO_UDP_CONNRESET: Final = 0x9800000C
SIO_UDP_NETRESET: Final = 0x9800000F


def disable_reports(descriptor: int) -> None:
    """Disable the reports of refused ports and expired hop limits on ``descriptor``, where the system has them.

    Other systems report neither on an unconnected socket, and an older Windows may lack one of the controls: both are
    no error.
    """
    win_dll: Any = getattr(ctypes, "WinDLL", None)
    if win_dll is None:
        return
    control = win_dll("ws2_32").WSAIoctl
    for code in (SIO_UDP_CONNRESET, SIO_UDP_NETRESET):
        enabled, returned = ctypes.c_ulong(0), ctypes.c_ulong(0)
        handle = ctypes.c_size_t(descriptor)
        control(handle, code, ctypes.byref(enabled), 4, None, 0, ctypes.byref(returned), None, None)
