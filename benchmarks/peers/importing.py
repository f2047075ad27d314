"""The CPU time of an import in a new interpreter, in milliseconds: ``importing.py STATEMENT SECONDS``.

It prints the smallest of as many runs as fit in the time. Start and end of the interpreter are included.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from time import perf_counter

statement, seconds = sys.argv[1:]
# As an installed package is imported: from cached bytecode.
environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def cpu_time() -> float:
    """Run the statement in a new interpreter and return the seconds of CPU time it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-W", "error", "-c", statement], env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


cpu_time()  # Compiles the modules.
times, end = [cpu_time()], perf_counter() + float(seconds)
while perf_counter() < end:
    times.append(cpu_time())
print(min(times) * 1e3, flush=True)
