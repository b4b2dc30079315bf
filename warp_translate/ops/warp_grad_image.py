"""A Pallas kernel for TPUs: the gradient of the image of a warp with bounded displacement.

Every pixel adds four shares of its cotangent to the pixels that it read. A TPU scatters scalars
even more slowly than it gathers them, and lanes cannot be permuted, since several pixels may add to
one. A matrix product does it: for a row of 128 pixels, the matrix with a one where pixel ``j``
reads column ``l`` moves all shares to their columns and adds them. The target rows become rows of
the other factor: the cotangent times the pixel's weight for row offset ``d``, 16 offsets at a time.
So the cost does not depend on the columns, and grows slowly with the range of ``dy``.

The matrix of zeros and ones is exact in bfloat16; the other factor is a sum of three bfloat16,
which hold all 24 bits of a float32. So products are exact, and sums are in float32.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from warp_translate.ops import warp_tiles
from warp_translate.ops.warp_tiles import LANES, ROWS, Index, Places, Plan, Ranges
from warp_translate.types import Array

_OFFSETS = 16  # Row offsets in one product, the rows of a bfloat16 register.
_PARTS = 3  # bfloat16 for a float32.
# Planes kept for 8 x 128 pixels: column, row offset, weight of the row below; then the cotangents
# times the weight of the left column, then of the right one.
_COLUMN, _OFFSET, _BELOW, _SHARES = 0, 1, 2, 3


class _Tile(NamedTuple):
    """State of a kernel step: its tile, and references to VMEM and SMEM."""

    plan: Plan
    bound: int
    place: Index
    slot: Array  # Which of the two windows has arrived.
    windows: Any  # Two of [2 + C, chunks, rows, 128]: displacement and cotangent.
    kept: Any  # [3 + 2 C, 8, 128]
    sums: Any  # [C, chunks, rows, 128]: the tile with 16 rows more on either side.
    ranges: Ranges

    @property
    def channels(self) -> int:
        return self.plan.planes - 2

    def window(self, plane: int, y: Any, x: Any) -> Array:
        rows = pl.ds(pl.multiple_of((y + 1) * ROWS, ROWS), ROWS)
        return self.windows[self.slot, plane, x, rows, :]

    def places(self, y: Any, x: Any) -> Places:
        """Where register ``(y, x)`` of the window reads."""
        row, chunk = self.plan.window_start(self.place)
        return warp_tiles.find_places(
            self.plan,
            self.bound,
            self.window(0, y, x),
            self.window(1, y, x),
            row + y * ROWS,
            chunk + x,
        )


def _kernel(plan: Plan, bound: int, *references: Any) -> None:
    source, out, windows, kept, sums, ranges, arrived = references
    index = warp_tiles.current_index()
    slot = warp_tiles.next_window(plan, index, source, windows, arrived)
    ranges = Ranges(ranges, plan.window_rows, plan.window_chunks)
    tile = _Tile(plan, bound, index, slot, windows, kept, sums, ranges)
    ranges.find(plan.window_rows // ROWS, tile.places)
    _clear(tile)

    def row(y: Array, _: None) -> None:
        lax.fori_loop(0, plan.window_chunks, lambda x, _: _add(tile, y, x), None)

    lax.fori_loop(0, plan.window_rows // ROWS, row, None)
    _hand_over(tile, out)


def _clear(tile: _Tile) -> None:
    zeros = jnp.zeros((ROWS, LANES), jnp.float32)

    def row(y: Array, _: None) -> None:
        rows = pl.ds(pl.multiple_of(y * ROWS, ROWS), ROWS)
        for channel in range(tile.channels):
            for chunk in range(tile.plan.tile_chunks):
                tile.sums[channel, chunk, rows, :] = zeros

    lax.fori_loop(0, (tile.plan.tile_rows + 2 * _OFFSETS) // ROWS, row, None)


def _hand_over(tile: _Tile, out: Any) -> None:
    def row(y: Array, _: None) -> None:
        rows = pl.ds(pl.multiple_of(y * ROWS + _OFFSETS, ROWS), ROWS)
        for channel in range(tile.channels):
            for chunk in range(tile.plan.tile_chunks):
                at = warp_tiles.registers(y, chunk)
                out[(0, channel, *at)] = tile.sums[channel, chunk, rows, :]

    lax.fori_loop(0, tile.plan.tile_rows // ROWS, row, None)


def _add(tile: _Tile, y: Array, x: Array) -> None:
    """Adds the shares of 8 x 128 pixels of the window that fall into the tile."""
    plan = tile.plan
    first_offset, last_offset, first, last = tile.ranges(y, x)
    # From here on, rows and chunks are relative to the tile.
    row = plan.window_start(tile.place)[0] + y * ROWS - tile.place[2] * plan.tile_rows
    strip = tile.place[1] * plan.tile_chunks
    first_chunk = jnp.maximum((first >> 7) - strip, 0)
    end_chunk = jnp.minimum(((last + 1) >> 7) - strip + 1, plan.tile_chunks)
    touches = (row + ROWS - 1 + last_offset + 1 >= 0) & (row + first_offset < plan.tile_rows)

    @pl.when(touches & (first_chunk < end_chunk))
    def touching() -> None:
        _keep(tile, y, x)
        groups = lax.div(last_offset + 1 - first_offset + _OFFSETS, _OFFSETS)

        def of_row(i: Array, _: None) -> None:
            def of_group(group: Array, _: None) -> None:
                offset = first_offset + group * _OFFSETS
                start = row + i + offset

                @pl.when((start > -_OFFSETS) & (start < plan.tile_rows))
                def touching_rows() -> None:
                    shares = _shares(tile, i, offset)

                    def into_chunk(chunk: Array, _: None) -> None:
                        _add_product(tile, i, chunk, start, shares)

                    lax.fori_loop(first_chunk, end_chunk, into_chunk, None)

            lax.fori_loop(0, groups, of_group, None)

        lax.fori_loop(0, ROWS, of_row, None)


def _keep(tile: _Tile, y: Array, x: Array) -> None:
    """Fills `kept`, from which single rows are read."""
    places = tile.places(y, x)
    tile.kept[_COLUMN] = places.column.astype(jnp.float32)
    tile.kept[_OFFSET] = places.row.astype(jnp.float32)
    tile.kept[_BELOW] = places.weight_y
    for channel in range(tile.channels):
        cotangent = jnp.where(places.exists, tile.window(2 + channel, y, x), 0.0)
        tile.kept[_SHARES + channel] = cotangent * (1.0 - places.weight_x)
        tile.kept[_SHARES + tile.channels + channel] = cotangent * places.weight_x


def _row(tile: _Tile, which: int, i: Array, rows: int) -> Array:
    """Row ``i`` of a kept plane, repeated."""
    return jnp.broadcast_to(tile.kept[which, pl.ds(i, 1), :], (rows, LANES))


def _shares(tile: _Tile, i: Array, offset: Array) -> Array:
    """Shares of row ``i`` for 16 rows: bfloat16, by channel, part and offset; left | right."""
    shape = (_OFFSETS, LANES)
    offsets = (lax.broadcasted_iota(jnp.int32, shape, 0) + offset).astype(jnp.float32)
    own, below = _row(tile, _OFFSET, i, _OFFSETS), _row(tile, _BELOW, i, _OFFSETS)
    weight = jnp.where(own == offsets, 1.0 - below, 0.0)
    weight = jnp.where(own + 1.0 == offsets, below, weight)
    parts = []
    for channel in range(tile.channels):
        left = _row(tile, _SHARES + channel, i, _OFFSETS)
        right = _row(tile, _SHARES + tile.channels + channel, i, _OFFSETS)
        rest = jnp.concatenate([left * weight, right * weight], axis=1)
        for _ in range(_PARTS):
            part = rest.astype(jnp.bfloat16)
            rest = rest - part.astype(jnp.float32)
            parts.append(part)
    return jnp.concatenate(parts, axis=0)


def _add_product(tile: _Tile, i: Array, chunk: Array, start: Array, shares: Array) -> None:
    first = (tile.place[1] * tile.plan.tile_chunks + chunk) * LANES
    targets = lax.broadcasted_iota(jnp.int32, (LANES, LANES), 0) + first
    targets = targets.astype(jnp.float32)
    columns = _row(tile, _COLUMN, i, LANES)
    reads = jnp.concatenate([columns == targets, columns + 1.0 == targets], axis=1)
    products = lax.dot_general(
        shares,
        jnp.where(reads, 1.0, 0.0).astype(jnp.bfloat16),
        (((1,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    rows = pl.ds(start + _OFFSETS, _OFFSETS)
    for channel in range(tile.channels):
        parts = [
            lax.slice_in_dim(products, n * _OFFSETS, (n + 1) * _OFFSETS)
            for n in range(channel * _PARTS, (channel + 1) * _PARTS)
        ]
        # The smallest first.
        share = (parts[2] + parts[1]) + parts[0]
        tile.sums[channel, chunk, rows, :] += share


def make_plan(shape: tuple[int, ...], bound: int) -> Plan | None:
    """The plan for a cotangent ``[B, H, W, C]``; None if no window fits into VMEM."""
    batch, height, width, channels = shape

    def vmem_bytes(plan: Plan) -> int:
        rows = plan.tile_rows + 2 * _OFFSETS
        sums = channels * plan.tile_chunks * rows * LANES
        blocks = 2 * channels * plan.tile_pixels
        return 2 * plan.window_bytes + 4 * (sums + blocks)

    # The reverse of reading: a pixel also adds to the row below.
    return warp_tiles.make_plan(batch, 2 + channels, height, width, bound + 1, bound, vmem_bytes)


def grad_planes(cotangent: Array, displacement: Array, bound: int, interpret: Any) -> Array:
    """`warp_kernels.grad_image` as planes ``[B, C, H, W]``, float32."""
    batch, height, width, channels = cotangent.shape
    plan = make_plan(cotangent.shape, bound)
    if plan is None:
        raise ValueError(
            f"no window of a cotangent {cotangent.shape} with displacements up to {bound} px fits "
            f"into {warp_tiles.VMEM_BUDGET} bytes of VMEM: call supports() first"
        )
    source = jnp.concatenate([displacement, cotangent.astype(jnp.float32)], axis=-1)
    pixels = batch * height * width
    sums = (channels, plan.tile_chunks, plan.tile_rows + 2 * _OFFSETS, LANES)
    # A row of 128 pixels takes at least one product for each of two chunks.
    product = 2 * channels * _PARTS * _OFFSETS * 2 * LANES * LANES
    return pl.pallas_call(
        functools.partial(_kernel, plan, bound),
        out_shape=jax.ShapeDtypeStruct((batch, channels, height, width), jnp.float32),
        grid=plan.grid,
        in_specs=[pl.BlockSpec(memory_space=pltpu.HBM)],
        out_specs=pl.BlockSpec(
            (1, channels, plan.tile_rows, plan.tile_chunks * LANES),
            lambda image, strip, tile: (image, 0, tile, strip),
        ),
        scratch_shapes=[
            pltpu.VMEM((2, *plan.window_shape), jnp.float32),
            pltpu.VMEM((_SHARES + 2 * channels, ROWS, LANES), jnp.float32),
            pltpu.VMEM(sums, jnp.float32),
            Ranges.room(plan.window_rows, plan.window_chunks),
            pltpu.SemaphoreType.DMA((2,)),
        ],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=warp_tiles.VMEM_LIMIT),
        cost_estimate=pl.CostEstimate(
            flops=2 * product * math.ceil(pixels / LANES),
            bytes_accessed=4 * channels * pixels + plan.copied_bytes,
            transcendentals=0,
        ),
        interpret=interpret,
        name="warp_grad_image",
    )(warp_tiles.in_hbm(plan, warp_tiles.planes(source), interpret))
