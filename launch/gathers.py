"""Whether the gathers and scatters of a step blow up where memory comes in tiles.

A TPU holds an array in tiles of 8 x 128 numbers. A gather whose places lie along the tiled axes can
make it move tiles by the dozen for every pixel, which is no error and shows in nothing but the
time. So every gather and scatter of a step is compiled by itself, and what the compiler counts is
held against what the places themselves need.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import partial_eval
from jax.sharding import SingleDeviceSharding

_GATHER, _SCATTER = "gather", "scatter"  # And "scatter-add" and the like.
_TILE_ROWS, _TILE_BYTES = 8, 8 * 128 * 4
SMALL_BYTES = 2**20  # Operations on less than this cannot matter and are left out.


@dataclasses.dataclass(frozen=True)
class Moved:
    """One gather or scatter, and how often it occurs.

    Attributes:
      name: the operation and the shapes it works on.
      count: how often the step has the very same.
      floor: bytes of all operands and results, each once.
      bound: bytes that it may move, see `bound_bytes`.
      moved: bytes that the compiler counts for it alone.
    """

    name: str
    count: int
    floor: int
    bound: int
    moved: int

    @property
    def blows_up(self) -> bool:
        """Whether it moves more than it may."""
        return self.moved > self.bound


def bound_bytes(floor: int, places: int, slice_size: int, *, scatter: bool) -> int:
    """What a gather or scatter may move: everything once, and for each place the tiles it touches.

    A slice over planes, the best form there is, touches one tile for every eight numbers of it. A
    gather moves them in and out; a scatter the old values, the new ones and the result.

    Args:
      floor: bytes of operands and results.
      places: how many slices are read or written.
      slice_size: numbers in each.
      scatter: whether it writes.
    """
    tiles = math.ceil(slice_size / _TILE_ROWS)
    return floor + places * tiles * _TILE_BYTES * (3 if scatter else 2)


def moved_by_gathers(
    jaxpr: core.ClosedJaxpr, device: jax.Device, say: Callable[[str], None]
) -> list[Moved]:
    """Compiles each gather and scatter of a step alone.

    Args:
      jaxpr: the step as it is traced.
      device: what to compile for.
      say: is told what comes.

    Returns:
      Those of more than `SMALL_BYTES`, the most bytes first.
    """
    found: dict[tuple[str, str, str, bool], tuple[Any, int]] = {}
    for equation, count, filled in _equations(_without_dead(jaxpr.jaxpr), device.platform):
        if not equation.primitive.name.startswith((_GATHER, _SCATTER)):
            continue
        shapes = ", ".join(str(variable.aval) for variable in equation.invars)
        key = (equation.primitive.name, shapes, str(equation.params), filled)
        found[key] = (equation, found.get(key, (None, 0))[1] + count)
    moved = []
    for (name, shapes, _, filled), (equation, count) in found.items():
        floor = sum(_bytes(variable) for variable in (*equation.invars, *equation.outvars))
        if floor < SMALL_BYTES:
            continue
        say(f"compiling {name} of {shapes} alone")
        places, slice_size = _places(equation)
        moved.append(
            Moved(
                name=f"{name} {shapes}{' from a constant' if filled else ''}",
                count=count,
                floor=floor,
                bound=bound_bytes(floor, places, slice_size, scatter=name != _GATHER),
                moved=_counted(equation, device, filled=filled),
            )
        )
    return sorted(moved, key=lambda each: -each.moved * each.count)


def _without_dead(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """Leaves out what no result needs, as lowering does: gradients that nobody asked for."""
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def _equations(jaxpr: core.Jaxpr, platform: str) -> Iterator[tuple[Any, int, bool]]:
    """Every equation, how often it runs, and whether its first operand is filled with a constant.

    Of a choice by platform only the branch of this one.
    """
    filled = set()
    for equation in jaxpr.eqns:
        first = equation.invars[0] if equation.invars else None
        if equation.primitive.name == "broadcast_in_dim" and isinstance(first, core.Literal):
            filled.update(equation.outvars)
        yield equation, 1, not isinstance(first, core.Literal) and first in filled
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in _inner(equation.params, platform):
            for each, count, is_filled in _equations(inner, platform):
                yield each, count * repeats, is_filled


def _inner(params: Mapping[str, Any], platform: str) -> Iterator[core.Jaxpr]:
    platforms = params.get("branches_platforms")
    if platforms is not None:
        branches = params["branches"]
        chosen = [
            branch
            for branch, names in zip(branches, platforms, strict=True)
            if names is not None and platform in names
        ]
        yield (chosen or [branches[-1]])[0].jaxpr  # The last is the default.
        return
    yield from core.jaxprs_in_params(params)


def _bytes(variable: Any) -> int:
    return variable.aval.size * variable.aval.dtype.itemsize


def _places(equation: Any) -> tuple[int, int]:
    """How many slices an operation moves, and the numbers in each."""
    indices = equation.invars[1].aval
    places = indices.size // indices.shape[-1]
    moved = equation.outvars[0].aval if len(equation.invars) == 2 else equation.invars[2].aval
    return places, moved.size // places


def _counted(equation: Any, device: jax.Device, *, filled: bool) -> int:
    place = SingleDeviceSharding(device)
    inputs = [
        jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype, sharding=place)
        for variable in equation.invars
    ]

    def alone(first: jax.Array, *others: jax.Array) -> Any:
        # What is added to zeros is compiled to something else than what is added to an array.
        first = jnp.zeros_like(first) if filled else first
        return equation.primitive.bind(first, *others, **equation.params)

    cost = jax.jit(alone).lower(*inputs).compile().cost_analysis()
    return int(cost["bytes accessed"]) if cost else 0
