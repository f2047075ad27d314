"""The programs that are measured and those that measure: finding, compiling and running them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
C_PROGRAMS = ("load", "flood", "echo")


def compile_c() -> tuple[Path | None, str]:
    """Compile the C programs; return where they are, or why they are not."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None, "no C compiler (cc, gcc, clang) is installed"
    if sys.platform != "linux":
        return None, "the C programs are written for Linux"
    folder = Path(tempfile.mkdtemp(prefix="trio_dgram-benchmarks-"))
    for name in C_PROGRAMS:
        command = [compiler, "-O2", "-o", str(folder / name), str(HERE / "c" / f"{name}.c")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return None, f"{name}.c does not compile: {done.stderr.strip()}"
    return folder, ""


def missing(needs: Sequence[str]) -> str:
    """Return what of ``needs`` is not here: programs by name, Python modules as ``python:name``."""
    for need in needs:
        kind, _, name = need.rpartition(":")
        found = importlib.util.find_spec(name) if kind == "python" else shutil.which(name)
        if found is None:
            return f"{name} is not installed"
    return ""


def cores() -> tuple[set[int], set[int]]:
    """Return the core for the server and the one for the load; the same where there is only one."""
    if not hasattr(os, "sched_getaffinity"):
        return set(), set()
    available = sorted(os.sched_getaffinity(0))
    return {available[0]}, {available[-1]}


@contextmanager
def running(command: Sequence[str], core: set[int]) -> Generator[subprocess.Popen[str]]:
    """Run a program on ``core`` and end it with the block."""

    def pin() -> None:
        if core:
            os.sched_setaffinity(0, core)

    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=pin)  # noqa: PLW1509 -- no threads here
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the next line that the program prints; an error if it ends instead."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"{process.args!r} ended with {process.wait()} instead of answering")
    return line
