"""Chips to compile for: the local ones, or a slice of TPUs that need not be there."""

import dataclasses
import os
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from warp_translate.errors import UserError

LOCAL = "local"


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of chip.

    Attributes:
      hbm_bytes: its memory.
      hbm_bandwidth: bytes per second.
      slices: the shapes that are offered.
    """

    hbm_bytes: int
    hbm_bandwidth: float
    slices: tuple[str, ...]


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
# "Key chip specifications" and the slice shapes of cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}.
# A GB of memory there is 2**30 bytes, a GB/s of bandwidth 10**9. v4 and v5p come larger than here.
CHIPS = {
    "v4": Chip(32 * 2**30, 1228e9, _CUBES),
    "v5e": Chip(16 * 2**30, 819e9, _FLAT),
    "v5p": Chip(95 * 2**30, 2765e9, _CUBES),
    "v6e": Chip(32 * 2**30, 1640e9, _FLAT),
}
# A v4 has two cores. That programs see one device, as in training, has to be asked for.
_OPTIONS = {"v4": {"chip_config_name": "megacore"}}

# So that the library asks nobody which machine this is; what is compiled for follows from the name.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """What a program is compiled for.

    Attributes:
      name: as it was asked for.
      devices: all devices, one for each chip.
      chip: their kind; None where it is not in the table, as a CPU is not.
    """

    name: str
    devices: Sequence[jax.Device]
    chip: Chip | None

    @property
    def platform(self) -> str:
        """The platform by the name that programs are lowered for: tpu, cpu, cuda or rocm."""
        platform = self.devices[0].platform
        return "cuda" if platform == "gpu" else platform


def open_topology(name: str) -> Topology:
    """Finds the devices of a topology.

    With a name it takes the library of TPUs, which one process at a time may hold, and makes the
    CPU this process's own platform: no TPU is looked for.

    Args:
      name: "local" for the devices of this machine, or kind and shape of a slice, "v5e:2x2".

    Raises:
      UserError: there is no such topology, the library is missing or another process holds it.
    """
    if name == LOCAL:
        devices = jax.local_devices()
        return Topology(name, devices, CHIPS.get(_kind(devices[0].device_kind)))
    kind, _, shape = name.partition(":")
    if kind not in CHIPS or shape not in CHIPS[kind].slices:
        known = "; ".join(f"{kind}:{{{','.join(chip.slices)}}}" for kind, chip in CHIPS.items())
        raise UserError(f"--topology={name} does not exist; there are {LOCAL}; {known}")
    os.environ.update(_ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    try:
        devices = topologies.get_topology_desc(name, "tpu", **_OPTIONS.get(kind, {})).devices
    except RuntimeError as error:
        words = str(error)
        if "lockfile" in words:
            raise UserError(
                f"--topology={name}: another process is using libtpu, which only one can: wait for "
                "it to end; if there is none, remove the lock file /tmp/libtpu_lockfile"
            ) from error
        if "not installed" in words:
            raise UserError(
                f"--topology={name} is compiled for with the package libtpu, which is not "
                "installed: install the extra plan, pip install 'warp-translate[plan]'"
            ) from error
        raise UserError(f"--topology={name} cannot be opened: {words.splitlines()[0]}") from error
    return Topology(name, devices, CHIPS[kind])


def _kind(device_kind: str) -> str:
    """The table's name of what a device calls itself."""
    return {
        "TPU v4": "v4",
        "TPU v5 lite": "v5e",
        "TPU v5": "v5p",
        "TPU v5p": "v5p",
        "TPU v6 lite": "v6e",
    }.get(device_kind, device_kind)
