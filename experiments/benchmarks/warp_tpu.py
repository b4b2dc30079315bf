"""Forms of the warp compiled for TPUs, by the compiler's figures; needs no TPU.

    python -m experiments.benchmarks.warp_tpu --output=warp_tpu.json
    python -m experiments.benchmarks.warp_tpu --topologies=v5e:2x2,v6e:2x2 \
        --what=warp,displacement,image --bounds=32,64,128 \
        --shapes=32x256x256,1x1024x1024,1x2160x3840

Needs ``libtpu`` (extra ``plan``). Each form is compiled by itself:

* read: the four neighbors of every pixel and their blend.
* add: the gradient of the image, four shares of every pixel added to its neighbors.
* warp, displacement, image: `bilinear_warp` and its gradients, by XLA and by the kernels of
  `warp_kernels` for each bound.

Nothing is run. Bytes are those of ``cost_analysis``, for kernels as the kernel states them; the
least possible ones read every input and write every result once. Two forms with the same machine
code can be counted differently. Cycles are the compiler's estimate, which leaves out gathers,
scatters and kernels.
"""

import functools
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from jax.scipy import ndimage
from jax.sharding import SingleDeviceSharding

from experiments.benchmarks import measure
from launch.compiled import read_program
from launch.topology import Topology, open_topology
from warp_translate.ops import (
    bilinear_warp,
    sampling,
    warp_gpu,
    warp_kernels,
    warp_pixels,
    warp_planes,
)
from warp_translate.ops.sampling import Samples
from warp_translate.types import Array

_TOPOLOGIES = flags.DEFINE_list(
    "topologies", ["v5e:2x2"], "Comma-separated slices; one chip of each is used."
)
_SHAPES = flags.DEFINE_list(
    "shapes", ["2x256x256", "8x256x256", "1x1024x1024"], "Comma-separated BATCHxHEIGHTxWIDTH."
)
_BOUNDS = flags.DEFINE_list("bounds", ["64"], "Bounds of the displacement in pixels, for kernels.")
_WHAT = flags.DEFINE_list(
    "what", ["read", "add", "warp", "image", "displacement"], "Computations to compile."
)
_FORM = flags.DEFINE_string("form", "", "Forms whose name contains this, for instance kernel.")

_CHANNELS = 3

Form = tuple[str, str, int | None, Callable[[Array, Array], Array]]
"""Computation, name of the form, bound, and function of image and displacement."""


def benchmark(repeats: int) -> measure.Table:
    """Compiles all forms; ``repeats`` is not used."""
    rows = []
    for name in _TOPOLOGIES.value:
        topology = open_topology(name)
        for shape in _SHAPES.value:
            for form in _forms():
                if form[0] in _WHAT.value and _FORM.value in form[1]:
                    print(f"{name}, {shape}, {form[0]}, {form[1]}", file=sys.stderr, flush=True)
                    rows.append(_row(topology, tuple(map(int, shape.split("x"))), form))
    return measure.Table(rows, ["libtpu"])


def _row(topology: Topology, sizes: tuple[int, ...], form: Form) -> dict[str, Any]:
    assert topology.chip is not None  # Every slice is of a chip in the table.
    what, name, bound, function = form
    place = SingleDeviceSharding(topology.devices[0])
    image, field = (
        jax.ShapeDtypeStruct((*sizes, channels), jnp.float32, sharding=place)
        for channels in (_CHANNELS, 2)
    )
    compiled: Any = jax.jit(function).lower(image, field).compile()
    moved = compiled.cost_analysis()["bytes accessed"]
    # An image read, one written, and the field; its gradient is written and reads a cotangent too.
    least = 4 * math.prod(sizes) * (2 * _CHANNELS + (4 if what == "displacement" else 2))
    ms = 1e3 / topology.chip.hbm_bandwidth
    operations = read_program(compiled.as_text()).operations
    return {
        "topology": topology.name,
        "images": "x".join(map(str, sizes)),
        "what": what,
        "form": name,
        "bound": bound,
        "GB": moved / 1e9,
        "ms by bytes": moved * ms,
        "ms at least": least * ms,
        "temporaries MiB": compiled.memory_analysis().temp_size_in_bytes / 2**20,
        "M cycles": sum(each.cycles for each in operations) / 1e6,
    }


def _forms() -> Iterator[Form]:
    yield "read", "pixels, four gathers", None, _reading(warp_pixels.read_by_index)
    yield "read", "planes, one gather (TPU)", None, _reading(warp_planes.read)
    yield "read", "map_coordinates", None, _map_coordinates
    yield "add", "pixels, one scatter", None, warp_gpu.grad_image
    yield "add", "scalars, twelve scatters (TPU)", None, _add_planes
    yield "warp", "XLA", None, bilinear_warp
    yield "displacement", "XLA", None, _gradient(1)
    yield "image", "XLA", None, _gradient(0)
    for bound in map(int, _BOUNDS.value):
        kernels = {
            "warp": warp_kernels.warp,
            "displacement": _kernel_grad_displacement,
            "image": warp_kernels.grad_image,
        }
        for what, kernel in kernels.items():
            yield what, "kernel", bound, functools.partial(kernel, bound=bound)


def _samples(field: Array) -> Samples:
    return sampling.sample(field, sampling.all_rows(field.shape[1]), field.shape[1])


def _reading(read: sampling.Read) -> Callable[[Array, Array], Array]:
    def run(image: Array, field: Array) -> Array:
        samples = _samples(field)
        return sampling.blend(read(image, samples.row), samples)

    return run


def _add_planes(cotangent: Array, field: Array) -> Array:
    samples = _samples(field)
    return warp_planes.put(sampling.shares(cotangent, samples), samples)


def _map_coordinates(image: Array, field: Array) -> Array:
    ys, xs = jnp.mgrid[: image.shape[1], : image.shape[2]]

    def one(plane: Array, dx: Array, dy: Array) -> Array:
        return ndimage.map_coordinates(plane, [ys + dy, xs + dx], order=1, mode="nearest")

    over_channels = jax.vmap(one, in_axes=(-1, None, None), out_axes=-1)
    return jax.vmap(over_channels)(image, field[..., 0], field[..., 1])


def _gradient(argument: int) -> Callable[[Array, Array], Array]:
    # The image serves as the cotangent.
    return lambda image, field: jax.vjp(bilinear_warp, image, field)[1](image)[argument]


def _kernel_grad_displacement(image: Array, field: Array, bound: int) -> Array:
    return warp_kernels.grad_displacement(image, field, image, bound)


if __name__ == "__main__":
    measure.run(benchmark)
