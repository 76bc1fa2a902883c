"""Count the available CPU cores."""

import os


def num_cores() -> int:
    """Count the cores that this process may run on; limits on CPU time, such as those of containers, are ignored."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
