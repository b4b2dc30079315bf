"""The warp of bounded displacement and its gradients by Pallas kernels for TPUs.

The door to two kernels: `warp_window` reads, for the value and for the gradient of the
displacement, and `warp_adjoint` adds, for the gradient of the image. What `supports` says yes to
they take.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from warp_translate.ops import warp_grad_image, warp_tiles, warp_window
from warp_translate.ops.warp_tiles import LANES, ROWS
from warp_translate.types import Array, DType

_DTYPES = ("float32", "bfloat16")
_MOST_CHANNELS = 4  # All neighbours of 8 x 128 pixels have to stay in registers.


@functools.partial(jax.jit, static_argnames=("bound", "interpret"))
def warp(image: Array, displacement: Array, bound: int, *, interpret: Any = False) -> Array:
    """`bilinear_warp` for displacements up to a bound, on a TPU.

    Within the bound the values are those of `bilinear_warp` up to rounding. A displacement beyond
    the bound is clipped to it, and NaN counts as ``-bound``: neither reads outside of the image,
    but in an image larger than the bound not at its border either.

    May be mapped with `jax.vmap` and with `jax.shard_map(check_vma=False)`. Has no gradient of its
    own: `slopes` and `adjoint` are the two, and they have none.

    Args:
      image: ``[B, H, W, C]``, float32 or bfloat16.
      displacement: ``[B, H, W, 2]``, float32, ``(dx, dy)`` in pixels.
      bound: of ``|dx|`` and ``|dy|`` in pixels, at least 1.
      interpret: run on any platform, slowly: True, or `pltpu.InterpretParams` to find races.

    Returns:
      ``[B, H, W, C]`` of the image's type.

    Raises:
      ValueError: what `supports` says no to, or the shapes do not agree.
    """
    _check(image, displacement, bound)

    def run(image: Array, displacement: Array) -> Array:
        planes = warp_window.blend_planes(image, displacement, bound, interpret)
        return jnp.moveaxis(planes, 1, -1).astype(image.dtype)

    return warp_tiles.mapped_over_batch(run)(image, displacement)


@functools.partial(jax.jit, static_argnames=("bound", "interpret"))
def slopes(
    image: Array, displacement: Array, cotangent: Array, bound: int, *, interpret: Any = False
) -> Array:
    """The gradient of `warp` in the displacement.

    Beyond the bound, where `warp` clips, it is zero, as beyond the border; at the bound exactly it
    is that of `bilinear_warp`.

    Args:
      image: as for `warp`.
      displacement: as for `warp`.
      cotangent: ``[B, H, W, C]``, of what `warp` returned, float32 or bfloat16.
      bound: as for `warp`.
      interpret: as for `warp`.

    Returns:
      ``[B, H, W, 2]``, float32.

    Raises:
      ValueError: as for `warp`.
    """
    _check(image, displacement, bound)
    if cotangent.shape != image.shape:
        raise ValueError(f"cotangent {cotangent.shape} is not of the image's shape {image.shape}")

    def run(image: Array, displacement: Array, cotangent: Array) -> Array:
        planes = warp_window.slope_planes(image, displacement, cotangent, bound, interpret)
        return jnp.moveaxis(planes, 1, -1)

    return warp_tiles.mapped_over_batch(run)(image, displacement, cotangent)


@functools.partial(jax.jit, static_argnames=("bound", "interpret"))
def adjoint(cotangent: Array, displacement: Array, bound: int, *, interpret: Any = False) -> Array:
    """The gradient of `warp` in the image.

    A cotangent that is NaN or infinite spoils the gradient in a surrounding of its pixel.

    Args:
      cotangent: ``[B, H, W, C]``, of what `warp` returned, float32 or bfloat16.
      displacement: as for `warp`.
      bound: as for `warp`.
      interpret: as for `warp`.

    Returns:
      ``[B, H, W, C]``, float32.

    Raises:
      ValueError: as for `warp`.
    """
    _check(cotangent, displacement, bound)

    def run(cotangent: Array, displacement: Array) -> Array:
        planes = warp_grad_image.add_planes(cotangent, displacement, bound, interpret)
        return jnp.moveaxis(planes, 1, -1)

    return warp_tiles.mapped_over_batch(run)(cotangent, displacement)


def supports(shape: tuple[Any, ...], dtype: DType, bound: int) -> bool:
    """Whether the kernels handle such an image and gain anything.

    Args:
      shape: ``(B, H, W, C)``; with sizes that are not known, as in `jax.export`, the answer is no.
      dtype: of the image.
      bound: of the displacement in pixels.

    Returns:
      False for a shape or type that they do not take, where no window fits into VMEM, and for
      images smaller than 8 x 128, of which most lanes would be padding.
    """
    if len(shape) != 4 or not all(isinstance(size, int) and size > 0 for size in shape):
        return False
    if jnp.dtype(dtype).name not in _DTYPES or bound < 1:
        return False
    _, height, width, channels = shape
    if height < ROWS or width < LANES or channels > _MOST_CHANNELS:
        return False
    reads = warp_window.make_plan(shape, bound, with_cotangent=True)
    return reads is not None and warp_grad_image.make_plan(shape, bound) is not None


def _check(image: Any, displacement: Any, bound: int) -> None:
    if image.ndim != 4 or displacement.shape != (*image.shape[:3], 2):
        raise ValueError(
            "an image [B, H, W, C] and a displacement [B, H, W, 2] are needed, got "
            f"{image.shape} and {displacement.shape}"
        )
    if image.dtype.name not in _DTYPES or displacement.dtype != jnp.float32:
        raise ValueError(
            f"the image must be one of {_DTYPES} and the displacement float32, got {image.dtype} "
            f"and {displacement.dtype}"
        )
    if bound < 1:
        raise ValueError(f"the bound must be at least 1 px, got {bound}")
