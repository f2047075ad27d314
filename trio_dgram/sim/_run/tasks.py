"""The tasks of a Trio run."""

from __future__ import annotations

from collections.abc import Iterator

import trio


def all_tasks() -> Iterator[trio.lowlevel.Task]:
    """Iterate over the tasks of this run, including Trio's own."""
    root = trio.lowlevel.current_root_task()
    to_visit = [root] if root is not None else []
    while to_visit:
        task = to_visit.pop()
        yield task
        for nursery in task.child_nurseries:
            to_visit.extend(nursery.child_tasks)
