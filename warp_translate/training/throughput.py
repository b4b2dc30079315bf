"""Step times, rates, model FLOPs utilization, peak memory and profiles of a training."""

import contextlib
import dataclasses
import resource
import sys
import time
from collections.abc import Callable, Iterator

import jax

from warp_translate import storage

_GIB = 2**30

# Peak FLOP/s in dense bfloat16 by the prefix of the device kind, from the vendors' data sheets.
_PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
}


def peak_flops(kind: str) -> float | None:
    """Peak FLOP/s in dense bfloat16 of a ``jax.Device.device_kind``; None if unknown."""
    for name in sorted(_PEAK_FLOPS, key=len, reverse=True):
        if kind.startswith(name):
            return _PEAK_FLOPS[name]
    return None


@dataclasses.dataclass
class StepClock:
    """Splits the time between two reports into parts, which add up to ``time/step_ms``.

    - ``time/data_ms``: waiting for the next batch;
    - ``time/dispatch_ms``: dispatching a step, the host's overhead; on CPUs the step itself may run
      in here;
    - ``time/wait_ms``: waiting for the devices to finish, once a report;
    - ``time/host_ms``: everything else, such as logging.

    Attributes:
      batch_size: images in a step, over all devices and processes.
      flops_per_step: floating-point operations of a step over all devices, for the rate and the
        model FLOPs utilization (MFU: the rate over the peak in bfloat16); None omits both.
      devices: number of devices of all processes.
      device_kind: see `peak_flops`.
      clock: seconds from any origin.
    """

    batch_size: int
    flops_per_step: float | None = None
    devices: int = 1
    device_kind: str = ""
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._spent = {"data": 0.0, "dispatch": 0.0, "wait": 0.0}
        self._steps = 0
        self._since: float | None = None
        self._active = 0.0

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Counts the time inside as ``part``: "data", "dispatch" or "wait"."""
        begin = self.clock()
        if self._since is None:
            self._since = begin
        try:
            yield
        finally:
            self._spent[part] += self.clock() - begin

    def pause(self) -> None:
        """Stops the clock until the next `measure`."""
        if self._since is not None:
            self._active += self.clock() - self._since
            self._since = None

    def count(self, steps: int) -> None:
        """Counts finished steps."""
        self._steps += steps

    def report(self) -> dict[str, float]:
        """Means per step since the last report, and rates; empty without steps.

        Call it when the devices have finished, so that their time is included.
        """
        running = self._since is not None
        self.pause()
        steps, total, spent = self._steps, self._active, dict(self._spent)
        self._reset()
        if running:
            self._since = self.clock()
        if not steps or total <= 0:
            return {}
        spent["host"] = max(total - sum(spent.values()), 0.0)
        scalars = {f"time/{name}_ms": 1000 * value / steps for name, value in spent.items()}
        scalars["time/step_ms"] = 1000 * total / steps
        scalars["rate/steps_per_second"] = steps / total
        scalars["rate/images_per_second"] = steps * self.batch_size / total
        if self.flops_per_step is not None:
            rate = self.flops_per_step * steps / total / self.devices
            scalars["rate/gflops_per_device"] = rate / 1e9
            peak = peak_flops(self.device_kind)
            if peak is not None:
                scalars["rate/mfu"] = rate / peak
        return scalars


def peak_memory() -> dict[str, float]:
    """Peak memory in GiB of this process and, if known, of its fullest device."""
    # ru_maxrss counts kilobytes on Linux and bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    scalars = {
        "memory/host_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB
    }
    statistics = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [found["peak_bytes_in_use"] for found in statistics if "peak_bytes_in_use" in found]
    if peaks:
        scalars["memory/device_peak_gib"] = max(peaks) / _GIB
    return scalars


class StepProfiler:
    """Records a profile of some steps for TensorBoard or Perfetto."""

    def __init__(self, folder: str, start: int, count: int) -> None:
        """Records nothing yet.

        Args:
          folder: destination, on a disk or in a bucket.
          start: steps done before the first recorded one.
          count: steps to record.
        """
        self._folder, self._start, self._end = folder, start, start + count
        self._writing: contextlib.ExitStack | None = None

    def __call__(self, done: int) -> str | None:
        """Starts or ends the record after ``done`` steps; devices may still be busy.

        Returns:
          A line for the user when the record is complete.
        """
        if self._writing is None and self._start <= done < self._end:
            self._writing = contextlib.ExitStack()
            local = self._writing.enter_context(storage.written_locally(self._folder))
            jax.profiler.start_trace(local)
        elif self._writing is not None and done >= self._end:
            return self.close()
        return None

    def close(self) -> str | None:
        """Ends a running record."""
        if self._writing is None:
            return None
        jax.profiler.stop_trace()
        self._writing.close()
        self._writing = None
        return f"profile of steps {self._start} to {self._end} in {self._folder}"
