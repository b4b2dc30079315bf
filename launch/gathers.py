"""Finds gathers and scatters that move too many memory tiles.

A TPU stores arrays in tiles of 8 x 128 numbers. A gather whose indices run along the tiled axes may
move dozens of tiles per pixel; nothing but the run time shows it. So every gather and scatter of a
step is compiled alone, and the bytes that the compiler counts are compared with a bound.
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

_GATHER, _SCATTER = "gather", "scatter"  # Also "scatter-add" and the like.
_TILE_ROWS, _TILE_BYTES = 8, 8 * 128 * 4
SMALL_BYTES = 2**20  # Smaller operations are negligible and skipped.


@dataclasses.dataclass(frozen=True)
class Moved:
    """A gather or scatter."""

    name: str  # The operation and its shapes.
    count: int  # Number of occurrences in the step.
    floor: int  # Bytes of all operands and results.
    bound: int  # Acceptable bytes, see `bound_bytes`.
    moved: int  # Bytes that the compiler counts for the operation alone.

    @property
    def blows_up(self) -> bool:
        """Whether it moves more than its bound."""
        return self.moved > self.bound


def bound_bytes(floor: int, slices: int, slice_size: int, *, scatter: bool) -> int:
    """Returns the bytes of all operands, results and touched tiles.

    In the best layout a slice touches one tile for every eight of its numbers. A gather reads and
    writes these tiles; a scatter moves the old values, the updates and the result.

    Args:
      floor: bytes of operands and results.
      slices: number of slices read or written.
      slice_size: numbers in each slice.
      scatter: whether the operation is a scatter.
    """
    tiles = math.ceil(slice_size / _TILE_ROWS)
    return floor + slices * tiles * _TILE_BYTES * (3 if scatter else 2)


def moved_by_gathers(
    jaxpr: core.ClosedJaxpr, device: jax.Device, log: Callable[[str], None]
) -> list[Moved]:
    """Compiles each gather and scatter of a step alone.

    Args:
      jaxpr: the traced step.
      device: the device to compile for.
      log: receives a line before each compilation.

    Returns:
      Those of at least `SMALL_BYTES`, most bytes first.
    """
    found: dict[tuple[str, str, str, bool], tuple[Any, int]] = {}
    for equation, count, filled in _equations(_without_dead_code(jaxpr.jaxpr), device.platform):
        if not equation.primitive.name.startswith((_GATHER, _SCATTER)):
            continue
        shapes = ", ".join(str(variable.aval) for variable in equation.invars)
        key = (equation.primitive.name, shapes, str(equation.params), filled)
        found[key] = (equation, found.get(key, (None, 0))[1] + count)
    moved = []
    for (name, shapes, _, filled), (equation, count) in found.items():
        floor = sum(
            variable.aval.size * variable.aval.dtype.itemsize
            for variable in (*equation.invars, *equation.outvars)
        )
        if floor < SMALL_BYTES:
            continue
        log(f"compiling {name} of {shapes} alone")
        slices, slice_size = _slices(equation)
        moved.append(
            Moved(
                name=f"{name} {shapes}{' from a constant' if filled else ''}",
                count=count,
                floor=floor,
                bound=bound_bytes(floor, slices, slice_size, scatter=name != _GATHER),
                moved=_compiled_bytes(equation, device, filled=filled),
            )
        )
    return sorted(moved, key=lambda each: -each.moved * each.count)


def _without_dead_code(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """Removes unused equations, as lowering does."""
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def _equations(jaxpr: core.Jaxpr, platform: str) -> Iterator[tuple[Any, int, bool]]:
    """Yields every equation, its trip count, and whether its first operand is a filled constant.

    Of a choice by platform, only the branch of ``platform`` is followed.
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
    if platforms is None:
        yield from core.jaxprs_in_params(params)
        return
    branches = zip(params["branches"], platforms, strict=True)
    chosen = [branch for branch, names in branches if names and platform in names]
    yield (chosen or [params["branches"][-1]])[0].jaxpr  # The last branch is the default.


def _slices(equation: Any) -> tuple[int, int]:
    """Returns the number of slices that an operation moves and the numbers in each."""
    indices = equation.invars[1].aval
    slices = indices.size // indices.shape[-1]
    moved = equation.outvars[0].aval if len(equation.invars) == 2 else equation.invars[2].aval
    return slices, moved.size // slices


def _compiled_bytes(equation: Any, device: jax.Device, *, filled: bool) -> int:
    sharding = SingleDeviceSharding(device)
    inputs = [
        jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype, sharding=sharding)
        for variable in equation.invars
    ]

    def alone(first: jax.Array, *others: jax.Array) -> Any:
        # The compiler treats a scatter into zeros differently from one into an array.
        first = jnp.zeros_like(first) if filled else first
        return equation.primitive.bind(first, *others, **equation.params)

    cost = jax.jit(alone).lower(*inputs).compile().cost_analysis()
    return int(cost["bytes accessed"]) if cost else 0
