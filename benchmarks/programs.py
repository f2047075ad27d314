"""Finding, compiling and running the programs that are measured and those that measure."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import attrs

import trio_dgram

HERE: Final = Path(__file__).parent
C_PROGRAMS: Final = ("attack", "load", "peer")
LIMIT: Final = 30
"""How many seconds after its measurement a program counts as hanging."""


class CompilerError(Exception):
    """The C programs cannot be compiled on this machine; the text has the reason."""


class ProgramError(Exception):
    """A program failed; the text has the reason."""


def compile_c(folder: Path) -> None:
    """Compile the C programs into ``folder``."""
    if sys.platform != "linux":
        raise CompilerError("the C programs are written for Linux")
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise CompilerError("no C compiler (cc, gcc, clang) is installed")
    for name in C_PROGRAMS:
        source, program = HERE / "c" / f"{name}.c", folder / name
        command = [*shlex.split(compiler), "-std=gnu11", "-O2", "-o", str(program), str(source)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise CompilerError(f"{compiler}: {error.strerror}") from None
        if done.returncode:
            raise CompilerError(f"{name}.c does not compile: {done.stderr.strip()}")


def missing(needs: Sequence[str]) -> str:
    """Return the first of ``needs`` that is missing: programs by name, Python modules as ``python:name``."""
    for need in needs:
        if need == "the compiled layer":
            if trio_dgram.capabilities().compiled:
                continue
            return "trio_dgram is pure Python here"
        kind, _, name = need.rpartition(":")
        found = importlib.util.find_spec(name) if kind == "python" else shutil.which(name)
        if found is None:
            return f"{name} is not installed"
    return ""


def available_cores() -> list[int]:
    """Return the cores that the programs may run on, an empty list where the system offers no choice."""
    if sys.platform == "win32" or not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))


def core_count() -> int:
    """Return how many cores the programs may run on."""
    return len(available_cores()) or os.cpu_count() or 1


def cores(servers: int = 1) -> tuple[str, str]:
    """Return the cores for ``servers`` servers and the one for the load: they share it if there are too few."""
    available = available_cores()
    return ",".join(map(str, available[:servers])), ",".join(map(str, available[-1:]))


def allow_many_sockets() -> None:
    """Raise the limit of open files, which the programs inherit, as far as the system permits."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 -- Windows has none

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@attrs.frozen
class Program:
    """A running program that prints its results in lines."""

    name: str
    _process: subprocess.Popen[str]
    _errors: IO[str]

    def cpu_seconds(self) -> float | None:
        """Return how much CPU time the program has taken, user and system; None where the system does not tell."""
        try:
            # proc(5) counts in nanoseconds there, and in hundredths of a second in ``stat``.
            figures = Path(f"/proc/{self._process.pid}/schedstat").read_text(encoding="ascii")
        except OSError:
            return None
        return int(figures.split()[0]) / 1e9

    def line(self) -> str:
        """Return the next line that the program prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise ProgramError(f"{self.name}: {self._failure()}")
        return line

    def numbers(self) -> list[float]:
        """Return the numbers in the next line that the program prints."""
        return [float(word) for word in self.line().split()]

    def _failure(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        errors = self._errors.read().strip().splitlines()
        if sys.platform != "win32" and status == -signal.SIGALRM:
            return "it did not end in time"
        return errors[-1] if errors else f"it ended with status {status} instead of answering"


@contextmanager
def running(
    command: Sequence[str], core: str, seconds: float, environment: Mapping[str, str] | None = None
) -> Generator[Program]:
    """Run a program that measures for ``seconds`` on ``core``, and end it with the block."""
    name = " ".join(Path(part).name for part in command)
    if sys.platform != "win32":
        start = [sys.executable, "-I", "-S", str(HERE / "start.py"), core, str(round(seconds) + LIMIT)]
        command = [*start, *command]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(environment or {})},
        ) as process,
    ):
        try:
            yield Program(name, process, errors)
        finally:
            process.kill()
