"""Build the compiled layer where that is possible: on Linux with CPython, its headers and a C compiler.

Anywhere else, or with ``TRIO_DGRAM_PURE=1``, the same package is built without it, in pure Python.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE: Final = "trio_dgram/_kernel/native.c"
EXTENSION: Final = "trio_dgram/_kernel/native.abi3.so"
TAG: Final = "cp311-abi3"
"""The stable ABI of Python 3.11, as ``Py_LIMITED_API`` in the source."""


class CompiledLayer(BuildHookInterface):
    """Add the extension module to a wheel, or to this folder for an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 -- editable or not
        """Compile the extension module; where that fails, the wheel is a pure one."""
        pure = os.environ.get("TRIO_DGRAM_PURE", "0") not in ("", "0")
        if pure or sys.platform != "linux" or sys.implementation.name != "cpython":
            return
        root = Path(self.root)
        # Replaced at once, because a process may be using the one that is there.
        new = root / f"{EXTENSION}.{os.getpid()}"
        compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
        command = [
            *shlex.split(compiler),
            *("-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", f"-I{sysconfig.get_path('include')}"),
            *shlex.split(os.environ.get("CFLAGS", "")),
            *(str(root / SOURCE), "-o", str(new)),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            self.app.display_info(f"built without the compiled layer: {error}")
            return
        if done.returncode:
            self.app.display_info(f"built without the compiled layer: {done.stderr}")
            return
        new.replace(root / EXTENSION)
        build_data["artifacts"].append(EXTENSION)
        build_data["pure_python"] = False
        build_data["tag"] = f"{TAG}-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
