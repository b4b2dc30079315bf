"""The forms that a warp can have on a TPU, by what its compiler counts; no TPU is needed.

    python -m experiments.benchmarks.warp_tpu --output=warp_tpu.json

Needs the package ``libtpu`` (the extra ``plan``). Each form is compiled by itself:

* read: the four neighbours of every pixel and their blend.
* add: the adjoint, four shares of every pixel added to its neighbours.
* warp, image, displacement: `bilinear_warp` as it is, and its gradients.

Bytes are those of ``cost_analysis``, and the time is what they take at the chip's bandwidth.
Nothing is measured. Two forms that end in the very same machine code can be counted differently,
and a scalar scatter may well take longer than its bytes: on a TPU, time it.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.scipy import ndimage
from jax.sharding import SingleDeviceSharding

from experiments.benchmarks import measure
from launch.topology import open_topology
from warp_translate.ops import bilinear_warp, warp
from warp_translate.types import Array

_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "Slice to compile for; one chip is used.")
_SHAPES = flags.DEFINE_list("shapes", ["2x256", "8x256", "1x1024"], "Images x side in pixels.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the table.")

_CHANNELS = 3
_IN_BOUNDS = "promise_in_bounds"


def main(argv: Sequence[str]) -> None:
    """Compiles and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"flags only, got {argv[1:]}")
    topology = open_topology(_TOPOLOGY.value)
    assert topology.chip is not None  # Every slice is of a chip in the table.
    place = SingleDeviceSharding(topology.devices[0])
    rows = []
    for shape in _SHAPES.value:
        batch, size = map(int, shape.split("x"))
        image = jax.ShapeDtypeStruct((batch, size, size, _CHANNELS), jnp.float32, sharding=place)
        field = jax.ShapeDtypeStruct((batch, size, size, 2), jnp.float32, sharding=place)
        for what, form, function in _FORMS:
            compiled: Any = jax.jit(function).lower(image, field).compile()
            cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
            rows.append(
                {
                    "images": shape,
                    "what": what,
                    "form": form,
                    "GB": cost["bytes accessed"] / 1e9,
                    "ms by bytes": cost["bytes accessed"] / topology.chip.hbm_bandwidth * 1e3,
                    "temporaries MiB": memory.temp_size_in_bytes / 2**20,
                }
            )
            print(f"compiled {shape}, {what}, {form}", file=sys.stderr, flush=True)
    measure.publish(measure.environment(topology=topology.name), rows, _OUTPUT.value)


def _read_by(form: Callable[..., Sequence[Array]], image: Array, field: Array) -> Array:
    samples = warp._samples(field)
    upper_left, upper_right, lower_left, lower_right = form(image, samples)
    across, down = samples.weight_x[..., None], samples.weight_y[..., None]
    upper = warp._lerp(upper_left, upper_right, across)
    return warp._lerp(upper, warp._lerp(lower_left, lower_right, across), down)


def _four_gathers_of_planes(image: Array, samples: warp._Samples) -> Sequence[Array]:
    planes = jnp.moveaxis(image, -1, 0).reshape(_CHANNELS, -1)
    return [jnp.moveaxis(planes.at[:, row].get(mode=_IN_BOUNDS), 0, -1) for row in samples.rows]


def _gathers_of_scalars(image: Array, samples: warp._Samples) -> Sequence[Array]:
    planes = jnp.moveaxis(image, -1, 0).reshape(_CHANNELS, -1)
    return [
        jnp.stack([plane.at[row].get(mode=_IN_BOUNDS) for plane in planes], -1)
        for row in samples.rows
    ]


def _map_coordinates(image: Array, field: Array) -> Array:
    ys, xs = jnp.mgrid[: image.shape[1], : image.shape[2]]

    def one(plane: Array, dx: Array, dy: Array) -> Array:
        return ndimage.map_coordinates(plane, [ys + dy, xs + dx], order=1, mode="nearest")

    over_channels = jax.vmap(one, in_axes=(-1, None, None), out_axes=-1)
    return jax.vmap(over_channels)(image, field[..., 0], field[..., 1])


def _add_by(form: Callable[..., Array], cotangent: Array, field: Array) -> Array:
    samples = warp._samples(field)
    across, down = samples.weight_x[..., None], samples.weight_y[..., None]
    upper, lower = cotangent * (1 - down), cotangent * down
    shares = (upper * (1 - across), upper * across, lower * (1 - across), lower * across)
    return form(shares, samples)


def _four_scatters_of_planes(shares: Sequence[Array], samples: warp._Samples) -> Array:
    added = jnp.zeros((_CHANNELS, shares[0].size // _CHANNELS), jnp.float32)
    for row, share in zip(samples.rows, shares, strict=True):
        added = added.at[:, row].add(jnp.moveaxis(share, -1, 0), mode=_IN_BOUNDS)
    return jnp.moveaxis(added.reshape(_CHANNELS, *shares[0].shape[:3]), 0, -1)


def _chained_scatters_of_scalars(shares: Sequence[Array], samples: warp._Samples) -> Array:
    planes = []
    for channel in range(_CHANNELS):
        plane = jnp.zeros(shares[0].size // _CHANNELS, jnp.float32)
        for row, share in zip(samples.rows, shares, strict=True):
            plane = plane.at[row].add(share[..., channel], mode=_IN_BOUNDS)
        planes.append(plane.reshape(shares[0].shape[:3]))
    return jnp.stack(planes, -1)


def _gradient(argument: int) -> Callable[[Array, Array], Array]:
    return jax.grad(lambda image, field: jnp.square(bilinear_warp(image, field)).sum(), argument)


_FORMS: list[tuple[str, str, Callable[[Array, Array], Array]]] = [
    ("read", "pixels, four gathers (default)", functools.partial(_read_by, warp._read_pixels)),
    ("read", "scalars, twelve gathers", functools.partial(_read_by, _gathers_of_scalars)),
    ("read", "planes, four gathers", functools.partial(_read_by, _four_gathers_of_planes)),
    ("read", "map_coordinates", _map_coordinates),
    ("read", "planes, one gather (TPU)", functools.partial(_read_by, warp._read_planes)),
    ("add", "pixels, four scatters (default)", functools.partial(_add_by, warp._add_pixels)),
    ("add", "planes, four scatters", functools.partial(_add_by, _four_scatters_of_planes)),
    (
        "add",
        "scalars, four on each plane",
        functools.partial(_add_by, _chained_scatters_of_scalars),
    ),
    ("add", "scalars, twelve from zeros (TPU)", functools.partial(_add_by, warp._add_planes)),
    ("warp", "as it is", bilinear_warp),
    ("image", "as it is", _gradient(0)),
    ("displacement", "as it is", _gradient(1)),
]


if __name__ == "__main__":
    app.run(main)
