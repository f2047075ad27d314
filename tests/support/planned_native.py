"""The compiled layer on planned messages: built once more, with a recvmmsg(2) that a ``PlannedSocket`` answers."""

from __future__ import annotations

import atexit
import importlib.machinery
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import trio_dgram
from trio_dgram._codecs.families import Family
from trio_dgram._kernel import compiled_calls as _compiled_calls
from trio_dgram._kernel.local_address_cache import cached_local_info
from trio_dgram._kernel.python_calls import PythonCalls

from .planned import Message, PlannedSocket

HERE: Final = Path(__file__).parent
PACKAGE: Final = Path(_compiled_calls.__file__).parent
COMPILER: Final = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
CAN_PLAN: Final = (
    trio_dgram.capabilities().compiled and (PACKAGE / "native.c").exists() and shutil.which(COMPILER[0]) is not None
)
"""Whether it can be built here: an installed wheel lacks the source."""


@cache
def build() -> Any:
    """Return the extension module, built with the environment's ``CFLAGS``, such as those of a sanitizer."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    library = str(Path(folder) / "native.so")
    flags = ["-std=c11", "-O1", "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}", f"-I{PACKAGE}"]
    flags += shlex.split(os.environ.get("CFLAGS", ""))
    subprocess.run([*COMPILER, *flags, str(HERE / "planned_native.c"), "-o", library], check=True)
    spec = importlib.util.spec_from_file_location("native", library)
    assert spec is not None
    native: Any = importlib.util.module_from_spec(spec)
    native.configure(trio_dgram.Datagram, cached_local_info)
    vars(sys)["planned_recvmmsg"] = _recvmmsg
    return native


@cache
def _sockets() -> list[PlannedSocket]:
    """Return the planned sockets, each at the index that is its descriptor."""
    return []


class _Descriptor:
    """What the compiled layer gets instead of the standard library's socket."""

    def __init__(self, sock: PlannedSocket) -> None:
        self._sock = self
        self._number = len(_sockets())
        _sockets().append(sock)
        self._planned = sock

    def fileno(self) -> int:
        return self._number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._planned, name)


def _recvmmsg(descriptor: int, most: int) -> int | list[tuple[bytes, bytes, bytes, int]]:
    """Return an errno, or the messages: what recvmmsg(2) returns for a planned socket."""
    sock = _sockets()[descriptor]
    first = sock.queue[0] if sock.queue else None
    size = len(first.packed) if isinstance(first, Message) else 0
    try:
        payloads, sources, control, flags = sock.recvmmsg(most, size, ancillary=True)
    except OSError as error:
        assert error.errno is not None
        return error.errno
    split: Sequence[bytes] = [sources[start : start + size] for start in range(0, len(sources), size)]
    nothing = [b""] * len(payloads), [0] * len(payloads)
    return list(zip(payloads, split, control or nothing[0], flags or nothing[1], strict=True))


def create_planned_calls(sock: Any, family: Family) -> PythonCalls:
    """Return the hot calls of a planned socket, compiled for the families that the compiled layer has."""
    if not family.is_internet:
        return PythonCalls(sock, family)
    with patch.object(_compiled_calls, "native", build()):
        return _compiled_calls.CompiledCalls(_Descriptor(sock), family)
