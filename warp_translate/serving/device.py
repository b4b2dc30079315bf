"""The machine that translates, for the choice of the factor: claims 8 and 20 of the patent."""

import collections
import dataclasses
import hashlib
import os
import platform
import re
import subprocess
from pathlib import Path

import psutil

from warp_translate.cpu_count import allowed_cores


@dataclasses.dataclass(frozen=True)
class Device:
    """The machine."""

    cpu: str  # Model of the processor, or of the board where that is not known.
    cores: int  # Usable by this process.
    megahertz: float | None = None  # Maximum, mean over the cores; None if unknown.
    kinds: tuple[tuple[int, float], ...] = ()  # Number and maximum MHz of each kind of cores.
    accelerator: str = ""  # Kind of the accelerator that computes; empty for the CPU.

    @property
    def key(self) -> str:
        """Identifies the device in file names."""
        text = f"{self.cpu}/{self.cores}/{platform.machine()}"
        if self.accelerator:
            text += f"/{self.accelerator}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def in_words(self) -> str:
        """One line for users."""
        rate = f"{self.megahertz:.0f} MHz" if self.megahertz else "unknown frequency"
        if len(self.kinds) > 1:
            rate = " and ".join(f"{count} of {most:.0f} MHz" for count, most in self.kinds)
        words = f"{self.cpu}, {self.cores} core{'s' * (self.cores > 1)} to use, {rate}"
        return f"{self.accelerator}; {words}" if self.accelerator else words


def find_device(
    proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup"), accelerator: str = ""
) -> Device:
    """Detects the machine, and the part of it that this process may use.

    Args:
      proc: where Linux describes processes and processors.
      cgroup: where Linux publishes the quota.
      accelerator: see `Device`; of the engine.
    """
    kinds = _kinds()
    total = sum(count for count, _ in kinds)
    mean = sum(count * most for count, most in kinds) / total if total else None
    return Device(_name(proc), allowed_cores(cgroup), mean, kinds, accelerator)


def _kinds() -> tuple[tuple[int, float], ...]:
    """Number and maximum MHz of each kind of the cores that this process may use, fastest first."""
    try:
        cores = psutil.cpu_freq(percpu=True) or []
    except (AttributeError, OSError, RuntimeError):
        # Some systems and virtual machines hide it.
        cores = []
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
        cores = [core for number, core in enumerate(cores) if number in allowed] or cores
    known = [core.max for core in cores if core.max]
    if not known and (now := max((core.current for core in cores), default=0.0)):
        # Without a maximum the frequencies are momentary, and say nothing about kinds.
        known = [now] * len(cores)
    return tuple((count, rate) for rate, count in sorted(collections.Counter(known).items())[::-1])


def _name(proc: Path) -> str:
    """The processor's model; on ARM, where Linux does not know it, the board's."""
    text = _read(proc / "cpuinfo")
    for field in ("model name", "Model", "Hardware"):
        if found := re.search(rf"^{field}\s*:\s*(.+)$", text, re.M):
            return found.group(1).strip()
    if board := _read(proc / "device-tree" / "model").strip("\0\n "):
        return board
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            asked = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
            return asked.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return platform.processor() or platform.machine()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
