"""How many cores a process may use."""

import os
from pathlib import Path


def allowed_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: at least one, and no more than its container's share.

    Args:
      cgroup: where Linux tells of the container's share.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # Linux alone has it.
        cores = os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        if quota != "max":
            cores = max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores
