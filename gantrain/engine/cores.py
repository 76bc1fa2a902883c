"""How many cores there are to compute on."""

import os


def num_cores() -> int:
    """Count the cores that this process may run on; a quota of their time, as containers have, is not seen."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
