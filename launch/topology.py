"""Devices to compile for: the local ones, or TPUs and GPUs that need not be present."""

import dataclasses
import os
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from launch.gpus import GPUS
from warp_translate.errors import UserError, reason

LOCAL = "local"


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of chip."""

    hbm_bytes: int
    hbm_bandwidth: float  # Bytes per second.
    slices: tuple[str, ...]  # Available shapes.


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
# "Key chip specifications" and the slice shapes of cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}.
# A GB of memory there is 2**30 bytes, a GB/s of bandwidth 10**9. v4 and v5p come in larger slices.
CHIPS = {
    "v4": Chip(32 * 2**30, 1228e9, _CUBES),
    "v5e": Chip(16 * 2**30, 819e9, _FLAT),
    "v5p": Chip(95 * 2**30, 2765e9, _CUBES),
    "v6e": Chip(32 * 2**30, 1640e9, _FLAT),
    # GPUs of one machine.
    **{name: Chip(gpu.memory, gpu.bandwidth, ("1", "2", "4", "8")) for name, gpu in GPUS.items()},
}
_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    **{gpu.name: name for name, gpu in GPUS.items()},
}
# The two cores of a v4 are one device only on request; training sees them so.
_OPTIONS = {"v4": {"chip_config_name": "megacore"}}

# Keep libtpu from querying which machine this is; the target follows from the topology's name.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile a program for."""

    name: str
    devices: Sequence[jax.Device]  # One for each chip.
    chip: Chip | None  # None if it is not in `CHIPS`.

    @property
    def platform(self) -> str:
        """The lowering platform: tpu, cpu, cuda or rocm."""
        platform = self.devices[0].platform
        return "cuda" if platform == "gpu" else platform


def open_topology(name: str) -> Topology:
    """Returns the devices of a topology.

    Those that are not local need only their compiler: libtpu, which one process at a time can hold,
    or JAX's plugin for CUDA. The CPU becomes this process's default platform.

    Args:
      name: "local"; kind and shape of a TPU slice, for example "v5e:2x2"; or kind and number of the
        GPUs of one machine, for example "h200:1".

    Raises:
      UserError: the topology does not exist, or its compiler is missing or held by another process.
    """
    if name == LOCAL:
        devices = jax.local_devices()
        return Topology(name, devices, CHIPS.get(_KINDS.get(devices[0].device_kind, "")))
    kind, _, shape = name.partition(":")
    if kind not in CHIPS or shape not in CHIPS[kind].slices:
        known = "; ".join(f"{kind}:{{{','.join(chip.slices)}}}" for kind, chip in CHIPS.items())
        raise UserError(f"--topology={name} does not exist; choose {LOCAL} or one of {known}")
    jax.config.update("jax_platforms", "cpu")
    devices = _gpus(name, kind, shape) if kind in GPUS else _tpus(name, kind)
    return Topology(name, devices, CHIPS[kind])


def _gpus(name: str, kind: str, count: str) -> Sequence[jax.Device]:
    try:
        described = topologies.get_topology_desc(
            platform="cuda", target_config=GPUS[kind].target(), topology=f"1x1x{count}"
        )
    except RuntimeError as error:
        raise UserError(
            f"--topology={name}: JAX's plugin for CUDA cannot be used: {reason(error)}: install "
            "the extra plan_gpu, pip install 'warp-translate[plan_gpu]'"
        ) from error
    devices: Sequence[jax.Device] = described.devices
    return devices


def _tpus(name: str, kind: str) -> Sequence[jax.Device]:
    os.environ.update(_ENVIRONMENT)
    try:
        described = topologies.get_topology_desc(name, "tpu", **_OPTIONS.get(kind, {}))
    except RuntimeError as error:
        message = str(error)
        if "lockfile" in message:
            problem = (
                "another process is using libtpu, and only one can: wait for it to end; if there "
                "is none, remove the lock file /tmp/libtpu_lockfile"
            )
        elif "not installed" in message:
            problem = (
                "the package libtpu is not installed: install the extra plan, "
                "pip install 'warp-translate[plan]'"
            )
        else:
            problem = f"cannot be opened: {message.splitlines()[0]}"
        raise UserError(f"--topology={name}: {problem}") from error
    devices: Sequence[jax.Device] = described.devices
    return devices
