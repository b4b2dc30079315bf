"""Number of CPU cores available to this process."""

import os
from pathlib import Path


def allowed_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use, at least one, within its affinity and container quota.

    Args:
      cgroup: where Linux publishes the quota.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # Linux only.
        cores = os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        if quota != "max":
            cores = max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores
