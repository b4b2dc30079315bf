"""NVIDIA GPUs that XLA can compile for without one, by the vendor's figures.

XLA reads a description of the device (``GpuTargetConfigProto`` in text form) in place of the device
itself. Autotuning needs the device, so that a program compiled here may differ in the algorithms of
its convolutions and matrix products.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A kind of GPU; sizes in bytes."""

    name: str  # ``jax.Device.device_kind``.
    capability: tuple[int, int]
    memory: int
    bandwidth: int  # Bytes per second.
    cores: int
    units: int  # Floating-point units of a core.
    gigahertz: float
    l2: int
    shared: int  # Of a core; a block can have 1 KiB less.

    def target(self) -> str:
        """XLA's description of the device."""
        major, minor = self.capability
        features = "ACCELERATED_FEATURES" if major >= 9 else "NONE"
        return f"""
            gpu_device_info {{
              name: "{self.name}"
              device_vendor: "NVIDIA Corporation"
              cuda_compute_capability {{
                major: {major} minor: {minor} feature_extension: {features}
              }}
              core_count: {self.cores}
              fpus_per_core: {self.units}
              clock_rate_ghz: {self.gigahertz}
              device_memory_size: {self.memory}
              memory_bandwidth: {self.bandwidth}
              l2_cache_size: {self.l2}
              shared_memory_per_core: {self.shared}
              shared_memory_per_block_optin: {self.shared - 1024}
              shared_memory_per_block: 49152
              threads_per_block_limit: 1024
              threads_per_core_limit: 2048
              threads_per_warp: 32
              registers_per_core_limit: 65536
              registers_per_block_limit: 65536
              block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
              thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
              device_address_bits: 64
              driver_version: "13.0.0"
              runtime_version: "12.8.0"
              compile_time_toolkit_version: "12.8.0"
              dnn_version: "9.10.0"
            }}
            platform_name: "CUDA"
            dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
            device_description_str: "{self.name}"
        """


_H100 = Gpu(
    "NVIDIA H100 80GB HBM3",
    capability=(9, 0),
    memory=84_942_979_072,
    bandwidth=3_352_320_000_000,
    cores=132,
    units=128,
    gigahertz=1.98,
    l2=50 * 2**20,
    shared=228 * 2**10,
)
GPUS = {
    "a100": Gpu(
        "NVIDIA A100-SXM4-80GB",
        capability=(8, 0),
        memory=85_100_068_864,
        bandwidth=2_039_040_000_000,
        cores=108,
        units=64,
        gigahertz=1.41,
        l2=40 * 2**20,
        shared=164 * 2**10,
    ),
    "h100": _H100,
    "h200": dataclasses.replace(
        _H100, name="NVIDIA H200", memory=151_397_597_184, bandwidth=4_800_000_000_000
    ),
}
"""By the names of ``plan --topology``."""
