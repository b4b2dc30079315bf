"""Memory of Linux processes, in bytes."""

from pathlib import Path


def resident(pid: int | str = "self") -> int:
    """Returns the resident memory of a process; 0 if it has ended."""
    return _status(pid, "VmRSS")


def peak(pid: int | str = "self") -> int:
    """Returns the highest resident memory since the start or `reset_peak`."""
    return _status(pid, "VmHWM")


def reset_peak(pid: int | str = "self") -> None:
    """Starts `peak` again from the present memory."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # See proc(5).


def _status(pid: int | str, name: str) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0  # A zombie has no memory.
