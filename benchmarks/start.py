"""Become another program, on one core and for a limited time: ``start.py CORES SECONDS COMMAND...``.

Done in a process of its own, so that what starts the programs stays where it is. The time limit outlives the runner.
"""

import os
import signal
import sys

cores, seconds, *command = sys.argv[1:]
if cores:
    os.sched_setaffinity(0, map(int, cores.split(",")))
signal.alarm(int(seconds))
try:
    os.execvp(command[0], command)  # noqa: S606 -- what to run is the benchmarks' own choice
except OSError as error:
    sys.exit(f"{command[0]}: {error.strerror}")
