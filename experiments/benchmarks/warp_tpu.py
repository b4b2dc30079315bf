r"""The forms that a warp can have on a TPU, by what its compiler counts; no TPU is needed.

    python -m experiments.benchmarks.warp_tpu --output=warp_tpu.json
    python -m experiments.benchmarks.warp_tpu --topologies=v5e:2x2,v6e:2x2 \
        --what=warp,displacement,image --bounds=32,64,128 \
        --shapes=32x256x256,1x1024x1024,1x2160x3840

Needs the package ``libtpu`` (the extra ``plan``). Each form is compiled by itself:

* read: the four neighbours of every pixel and their blend.
* add: the gradient of the image, four shares of every pixel added to its neighbours.
* warp, displacement, image: `bilinear_warp` as XLA compiles it, and its gradients; and the kernels
  of `warp_kernels` for the same, for each bound.

Nothing is measured. Bytes are those of ``cost_analysis`` (of a kernel those that it states itself),
beside the least possible: inputs read and results written once. Two forms that end in the very same
machine code can be counted differently.

Cycles are instructions of the compiled loops, one a cycle, times how often they run: what the
compiler estimates of the operations that it estimates, and for gathers, scatters and kernels, of
which it estimates none, the counts in `_LOOPS`, read off its final schedules. Stalls are in none of
them. Two fields are counted. In a smooth one, ``dy`` spans 4 px within 8 x 128 pixels, and half of
these read from more than 128 columns. In a rough one every displacement is drawn anew. Gathers and
scatters take the same time for both.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.scipy import ndimage
from jax.sharding import SingleDeviceSharding

from experiments.benchmarks import measure
from launch.compiled import read_program
from launch.topology import Topology, open_topology
from warp_translate.ops import (
    bilinear_warp,
    sampling,
    warp_grad_image,
    warp_kernels,
    warp_pixels,
    warp_planes,
    warp_window,
)
from warp_translate.ops.sampling import Samples
from warp_translate.ops.warp_tiles import LANES, ROWS, Plan
from warp_translate.types import Array

_TOPOLOGIES = flags.DEFINE_list("topologies", ["v5e:2x2"], "Slices; one chip of each is used.")
_SHAPES = flags.DEFINE_list(
    "shapes", ["2x256x256", "8x256x256", "1x1024x1024"], "Images x height x width."
)
_BOUNDS = flags.DEFINE_list("bounds", ["64"], "Of the displacement, in pixels, for the kernels.")
_WHAT = flags.DEFINE_list(
    "what", ["read", "add", "warp", "image", "displacement"], "What is compiled."
)
_FORM = flags.DEFINE_string("form", "", "Only forms whose name contains this, such as kernel.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the table.")

_CHANNELS = 3
_IN_BOUNDS = "promise_in_bounds"
# Floats of a pixel that a warp and its gradients must read and write.
_LEAST = {
    "read": 2 * _CHANNELS + 2,
    "add": 2 * _CHANNELS + 2,
    "warp": 2 * _CHANNELS + 2,
    "image": 2 * _CHANNELS + 2,
    "displacement": 2 * _CHANNELS + 4,
}


@dataclasses.dataclass(frozen=True)
class _Loops:
    """Instructions of the loops in the final schedules of libtpu 0.0.42.1, for three channels.

    Dumped with ``LIBTPU_INIT_ARGS="--xla_jf_dump_to=FOLDER --xla_jf_dump_llo_text=true"``; a loop
    is what lies between its ``LB:`` and its branch. A register is 8 x 128 pixels.

    Attributes:
      gather: for a pixel of the one gather of `bilinear_warp`.
      scatter: for a pixel of each of its twelve scatters; None where they are left to another core,
        the SparseCore of a v6e, whose programs were not read.
      ranges: a register's first and last offset and column.
      neighbours: to shift a register of the window.
      register: to place a register and to blend.
      portion: of 128 columns, besides its offsets.
      offsets: four of them.
      share_register: gradient of the image, to place a register and keep its shares.
      share_row: a row of it.
      share_group: sixteen of its offsets.
      share_product: of which each chunk that it touches takes one.
    """

    gather: float
    scatter: float | None
    ranges: float
    neighbours: float
    register: float
    portion: float
    offsets: float
    share_register: float
    share_row: float
    share_group: float
    share_product: float


_LOOPS = {
    "v5e": _Loops(6.0, 7.5, 39, 3.5, 49, 25, 99, 62, 13, 50, 110),
    "v6e": _Loops(5.3, None, 39, 3.6, 52, 23, 102, 60, 13, 43, 77),
}


def main(argv: Sequence[str]) -> None:
    """Compiles and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"flags only, got {argv[1:]}")
    rows = []
    for name in _TOPOLOGIES.value:
        topology = open_topology(name)
        for shape in _SHAPES.value:
            for what, form, bound, function in _forms(list(map(int, _BOUNDS.value))):
                if what in _WHAT.value and _FORM.value in form:
                    sizes = tuple(map(int, shape.split("x")))
                    rows.append(_row(topology, sizes, what, form, bound, function))
                    print(f"compiled {name}, {shape}, {what}, {form}", file=sys.stderr, flush=True)
    measure.publish(measure.environment("libtpu"), rows, _OUTPUT.value)


def _row(
    topology: Topology,
    sizes: tuple[int, ...],
    what: str,
    form: str,
    bound: int | None,
    function: Callable[[Array, Array], Array],
) -> dict[str, Any]:
    assert topology.chip is not None  # Every slice is of a chip in the table.
    place = SingleDeviceSharding(topology.devices[0])
    image = jax.ShapeDtypeStruct((*sizes, _CHANNELS), jnp.float32, sharding=place)
    field = jax.ShapeDtypeStruct((*sizes, 2), jnp.float32, sharding=place)
    compiled: Any = jax.jit(function).lower(image, field).compile()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    estimated = sum(each.cycles for each in read_program(compiled.as_text()).operations)
    kind = topology.name.partition(":")[0]
    cycles = {"smooth": "", "rough": ""}
    for rough, name in enumerate(cycles):
        more = _uncounted_cycles(kind, sizes, what, form, bound, bool(rough))
        if more is not None:
            cycles[name] = (estimated + more) / 1e6
    ms = 1e3 / topology.chip.hbm_bandwidth
    return {
        "topology": topology.name,
        "images": "x".join(map(str, sizes)),
        "what": what,
        "form": form,
        "bound": "" if bound is None else bound,
        "GB": cost["bytes accessed"] / 1e9,
        "ms by bytes": cost["bytes accessed"] * ms,
        "ms at least": 4 * _LEAST[what] * math.prod(sizes) * ms,
        "temporaries MiB": memory.temp_size_in_bytes / 2**20,
        "M cycles smooth": cycles["smooth"],
        "M cycles rough": cycles["rough"],
    }


def _uncounted_cycles(
    kind: str, sizes: tuple[int, ...], what: str, form: str, bound: int | None, rough: bool
) -> float | None:
    """Cycles of gathers, scatters and kernels; None where their loops were not read."""
    loops, pixels = _LOOPS.get(kind), math.prod(sizes)
    if loops is None:
        return None
    if bound is None:
        if form != _AS_IT_IS:
            return None
        if what == "image":
            return None if loops.scatter is None else pixels * 4 * _CHANNELS * loops.scatter
        return pixels * loops.gather
    offsets = min(2 * bound + 2, sizes[1] + ROWS) if rough else 6
    registers = sizes[0] * math.ceil(sizes[1] / ROWS) * math.ceil(sizes[2] / LANES)
    shape = (*sizes, _CHANNELS)
    if what == "image":
        plan = warp_grad_image.make_plan(shape, bound)
        assert plan is not None
        return _grad_image_cycles(loops, plan, bound, offsets, rough)
    plan = warp_window.make_plan(shape, bound, with_cotangent=what == "displacement")
    assert plan is not None
    # Of a window's rows only those that the tile reads are shifted.
    shifted = plan.window_rows if rough else min(plan.window_rows, plan.tile_rows + 16)
    neighbours = math.prod(plan.grid) * _CHANNELS * shifted // ROWS * plan.window_chunks
    portions = min(math.ceil((LANES + 2 * bound) / LANES), plan.chunks) if rough else 1.5
    return (
        registers * (loops.ranges + loops.register)
        + registers * portions * (loops.portion + math.ceil(offsets / 4) * loops.offsets)
        + neighbours * loops.neighbours
    )


def _grad_image_cycles(loops: _Loops, plan: Plan, bound: int, offsets: int, rough: bool) -> float:
    window = plan.window_rows // ROWS * plan.window_chunks
    if rough:
        added, chunks = window, min(plan.tile_chunks, math.ceil((LANES + 2 * bound + 1) / LANES))
    else:
        # Those of the tile, and around it those that it shares with its neighbours.
        around = min(plan.window_chunks, plan.tile_chunks + 1)
        added, chunks = min(window, (plan.tile_rows // ROWS + 2) * around), min(2, plan.tile_chunks)
    group = loops.share_group + chunks * loops.share_product
    # Sixteen offsets that lead out of the tile altogether are skipped.
    groups = min(math.ceil(offsets / 16), math.ceil(plan.tile_rows / 16) + 1)
    row = loops.share_row + groups * group
    return math.prod(plan.grid) * (
        window * loops.ranges + added * (loops.share_register + ROWS * row)
    )


_Neighbours = tuple[Array, Array, Array, Array]


def _samples(field: Array) -> Samples:
    return sampling.sample(field, sampling.all_rows(field.shape[1]), field.shape[1])


def _rows(samples: Samples) -> list[Array]:
    _, height, width = samples.row.shape
    return [samples.row + step for step in sampling.steps(height, width)]


def _read_by(form: Callable[[Array, Samples], _Neighbours], image: Array, field: Array) -> Array:
    samples = _samples(field)
    return sampling.blend(form(image, samples), samples)


def _four_gathers_of_planes(image: Array, samples: Samples) -> _Neighbours:
    planes = jnp.moveaxis(image, -1, 0).reshape(_CHANNELS, -1)
    a, b, c, d = (
        jnp.moveaxis(planes.at[:, row].get(mode=_IN_BOUNDS), 0, -1) for row in _rows(samples)
    )
    return a, b, c, d


def _gathers_of_scalars(image: Array, samples: Samples) -> _Neighbours:
    planes = jnp.moveaxis(image, -1, 0).reshape(_CHANNELS, -1)
    a, b, c, d = (
        jnp.stack([plane.at[row].get(mode=_IN_BOUNDS) for plane in planes], -1)
        for row in _rows(samples)
    )
    return a, b, c, d


def _map_coordinates(image: Array, field: Array) -> Array:
    ys, xs = jnp.mgrid[: image.shape[1], : image.shape[2]]

    def one(plane: Array, dx: Array, dy: Array) -> Array:
        return ndimage.map_coordinates(plane, [ys + dy, xs + dx], order=1, mode="nearest")

    over_channels = jax.vmap(one, in_axes=(-1, None, None), out_axes=-1)
    return jax.vmap(over_channels)(image, field[..., 0], field[..., 1])


def _add_by(form: Callable[[_Neighbours, Samples], Array], cotangent: Array, field: Array) -> Array:
    samples = _samples(field)
    return form(sampling.shares(cotangent, samples), samples)


def _four_scatters_of_planes(shares: _Neighbours, samples: Samples) -> Array:
    added = jnp.zeros((_CHANNELS, shares[0].size // _CHANNELS), jnp.float32)
    for row, share in zip(_rows(samples), shares, strict=True):
        added = added.at[:, row].add(jnp.moveaxis(share, -1, 0), mode=_IN_BOUNDS)
    return jnp.moveaxis(added.reshape(_CHANNELS, *shares[0].shape[:3]), 0, -1)


def _chained_scatters_of_scalars(shares: _Neighbours, samples: Samples) -> Array:
    planes = []
    for channel in range(_CHANNELS):
        plane = jnp.zeros(shares[0].size // _CHANNELS, jnp.float32)
        for row, share in zip(_rows(samples), shares, strict=True):
            plane = plane.at[row].add(share[..., channel], mode=_IN_BOUNDS)
        planes.append(plane.reshape(shares[0].shape[:3]))
    return jnp.stack(planes, -1)


def _gradient(argument: int) -> Callable[[Array, Array], Array]:
    def gradient(image: Array, field: Array) -> Array:
        # A cotangent of the right shape, as good as any; of the warp itself nothing is left.
        return jax.vjp(bilinear_warp, image, field)[1](image)[argument]

    return gradient


_AS_IT_IS = "XLA, as it is"
_FORMS: list[tuple[str, str, Callable[[Array, Array], Array]]] = [
    (
        "read",
        "pixels, four gathers (default)",
        functools.partial(_read_by, warp_pixels.read_by_index),
    ),
    ("read", "scalars, twelve gathers", functools.partial(_read_by, _gathers_of_scalars)),
    ("read", "planes, four gathers", functools.partial(_read_by, _four_gathers_of_planes)),
    ("read", "map_coordinates", _map_coordinates),
    ("read", "planes, one gather (TPU)", functools.partial(_read_by, warp_planes.read)),
    ("add", "pixels, four scatters (default)", warp_pixels.grad_image_gpu),
    ("add", "planes, four scatters", functools.partial(_add_by, _four_scatters_of_planes)),
    (
        "add",
        "scalars, four on each plane",
        functools.partial(_add_by, _chained_scatters_of_scalars),
    ),
    ("add", "scalars, twelve from zeros (TPU)", functools.partial(_add_by, warp_planes.put)),
    ("warp", _AS_IT_IS, bilinear_warp),
    ("displacement", _AS_IT_IS, _gradient(1)),
    ("image", _AS_IT_IS, _gradient(0)),
]


def _forms(
    bounds: Sequence[int],
) -> list[tuple[str, str, int | None, Callable[[Array, Array], Array]]]:
    """What, form, bound and function of an image and a displacement."""
    forms: list[tuple[str, str, int | None, Callable[[Array, Array], Array]]] = [
        (what, form, None, function) for what, form, function in _FORMS
    ]
    for bound in bounds:
        kernels = {
            "warp": functools.partial(warp_kernels.warp, bound=bound),
            "displacement": functools.partial(_kernel_grad_displacement, bound=bound),
            "image": functools.partial(warp_kernels.grad_image, bound=bound),
        }
        forms += [(what, "kernel", bound, kernel) for what, kernel in kernels.items()]
    return forms


def _kernel_grad_displacement(image: Array, field: Array, bound: int) -> Array:
    return warp_kernels.grad_displacement(image, field, image, bound)


if __name__ == "__main__":
    app.run(main)
