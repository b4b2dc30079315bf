"""Bilinear backward warp and its fusion, with hand-written gradients, on every platform.

``out[y, x] = in[y + dy, x + dx]``: sampling pulls. The values are those of SciPy's
``map_coordinates(order=1, mode="nearest")`` and of PyTorch's
``grid_sample(padding_mode="border", align_corners=True)``.

How a warp is computed best depends on the platform. It is chosen where the program is compiled for
one, so a caller need not know, and one that is exported for several holds them all. The forms are
held to the same values: `warp_pixels` for CPUs and GPUs, `warp_planes` for TPUs, and for TPUs where
the displacement has a bound `warp_kernels`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from warp_translate.ops import sampling, unrolled_sum, warp_kernels, warp_pixels, warp_planes
from warp_translate.ops.fuse import MaskWeights, fuse
from warp_translate.types import Array


class _Options(NamedTuple):
    """What is fixed when a warp is traced, see `bilinear_warp` and `warp_and_fuse`."""

    deterministic: bool = False
    bound: int | None = None
    mask_weights: MaskWeights = "pretranslated"


def _warp(image: Array, displacement: Array, options: _Options, rows: Array | None = None) -> Array:
    """In float32; ``rows`` are those of the displacement, None for all."""
    tpu: Callable[..., Array] = warp_planes.warp
    # The kernels are for whole images.
    if rows is None and (bound := _bound_for_kernels(image, options)) is not None:
        tpu = _kernel_for(functools.partial(_warp_by_kernel, bound), tpu)
    return lax.platform_dependent(
        image,
        displacement,
        sampling.all_rows(image.shape[1]) if rows is None else rows,
        cpu=warp_pixels.warp_cpu,
        tpu=tpu,
        default=warp_pixels.warp_gpu,
    )


def _warp_by_kernel(bound: int, image: Array, displacement: Array, rows: Array) -> Array:
    del rows
    return warp_kernels.warp(image, displacement, bound).astype(jnp.float32)


def _slopes(image: Array, displacement: Array, cotangent: Array, options: _Options) -> Array:
    """The displacement's gradient, float32."""
    tpu = warp_planes.slopes
    if (bound := _bound_for_kernels(image, options)) is not None:
        tpu = _kernel_for(functools.partial(_slopes_by_kernel, bound), tpu)
    return lax.platform_dependent(
        image,
        displacement,
        cotangent,
        cpu=warp_pixels.slopes_cpu,
        tpu=tpu,
        default=warp_pixels.slopes_gpu,
    )


def _slopes_by_kernel(bound: int, image: Array, displacement: Array, cotangent: Array) -> Array:
    return warp_kernels.slopes(image, displacement, cotangent, bound)


def _adjoint(cotangent: Array, displacement: Array, options: _Options) -> Array:
    """The image's gradient, float32."""
    # CPUs and TPUs add in one order always.
    gpu = warp_pixels.adjoint_in_fixed_point if options.deterministic else warp_pixels.adjoint_gpu
    tpu = warp_planes.adjoint
    if (bound := _bound_for_kernels(cotangent, options)) is not None:
        tpu = _kernel_for(functools.partial(_adjoint_by_kernel, bound), tpu)
    return lax.platform_dependent(
        cotangent, displacement, cpu=warp_pixels.adjoint_cpu, tpu=tpu, default=gpu
    )


def _adjoint_by_kernel(bound: int, cotangent: Array, displacement: Array) -> Array:
    return warp_kernels.adjoint(cotangent, displacement, bound)


def _bound_for_kernels(image: Array, options: _Options) -> int | None:
    """The bound of the displacement, if there are kernels for it and such an image."""
    bound = options.bound
    if bound is None or not warp_kernels.supports(image.shape, image.dtype, bound):
        return None
    return bound


def _kernel_for(kernel: Callable[..., Array], plain: Callable[..., Array]) -> Callable[..., Array]:
    """A kernel, which has no gradient, with that of the plain form of the same function."""

    @jax.custom_vjp
    def run(*arguments: Any) -> Array:
        return kernel(*arguments)

    def forward(*arguments: Any) -> tuple[Array, tuple[Any, ...]]:
        return run(*arguments), arguments

    def backward(arguments: tuple[Any, ...], cotangent: Array) -> tuple[Any, ...]:
        return jax.vjp(plain, *arguments)[1](cotangent)

    run.defvjp(forward, backward)
    return run


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _differentiable_warp(image: Array, displacement: Array, options: _Options) -> Array:
    return _warp(image, displacement, options).astype(image.dtype)


def _warp_forward(
    image: Array, displacement: Array, options: _Options
) -> tuple[Array, tuple[Array, Array]]:
    return _differentiable_warp(image, displacement, options), (image, displacement)


def _warp_backward(
    options: _Options, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    # The barrier keeps XLA from merging what follows with the forward pass and holding indices and
    # weights in memory in between. Whichever gradient nobody asks for is dropped by the compiler,
    # its scatter or gathers included.
    image, displacement = lax.optimization_barrier(residuals)
    cotangent = cotangent.astype(jnp.float32)
    return (
        _adjoint(cotangent, displacement, options).astype(image.dtype),
        _slopes(image, displacement, cotangent, options),
    )


_differentiable_warp.defvjp(_warp_forward, _warp_backward)

_Inputs = tuple[Array, Array, Array, Array]  # Original, pretranslated, mask, displacement.


def _warp_and_fuse(
    inputs: _Inputs, options: _Options, rows: Array | None = None
) -> tuple[Array, Array]:
    """Output and warped image; ``rows`` are those of all inputs but the original."""
    original, pretranslated, mask, displacement = inputs
    with jax.named_scope("warp"):
        warped = _warp(original, displacement, options, rows)
    with jax.named_scope("fuse"):
        output = fuse(
            mask.astype(jnp.float32),
            pretranslated.astype(jnp.float32),
            warped,
            mask_weights=options.mask_weights,
        )
    return output.astype(original.dtype), warped.astype(original.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _differentiable_fusion(inputs: _Inputs, options: _Options) -> tuple[Array, Array]:
    return _warp_and_fuse(inputs, options)


def _fusion_forward(inputs: _Inputs, options: _Options) -> tuple[tuple[Array, Array], _Inputs]:
    return _differentiable_fusion(inputs, options), inputs


def _fusion_backward(
    options: _Options, residuals: _Inputs, cotangents: tuple[Array, Array]
) -> tuple[_Inputs]:
    # The warped image is no residual, but read anew: less memory, and hardly more time.
    original, pretranslated, mask, displacement = lax.optimization_barrier(residuals)
    of_output, of_warped = (each.astype(jnp.float32) for each in cotangents)
    weight = mask.astype(jnp.float32)
    if options.mask_weights == "pretranslated":
        weight = 1.0 - weight
    into_warped = of_output * weight + of_warped
    difference = _warp(original, displacement, options) - pretranslated.astype(jnp.float32)
    to_weight = unrolled_sum.dot(of_output, difference)[..., None]
    gradients = (
        _adjoint(into_warped, displacement, options).astype(original.dtype),
        (of_output * (1.0 - weight)).astype(pretranslated.dtype),
        (to_weight if options.mask_weights == "warped" else -to_weight).astype(mask.dtype),
        _slopes(original, displacement, into_warped, options),
    )
    return (gradients,)


_differentiable_fusion.defvjp(_fusion_forward, _fusion_backward)


def _check(image: Any, displacement: Any) -> None:
    if image.ndim != 4 or displacement.ndim != 4 or displacement.shape[-1] != 2:
        raise ValueError(
            "bilinear_warp takes an image [B, H, W, C] and a displacement [B, H, W, 2], got "
            f"{image.shape} and {displacement.shape}"
        )
    if image.shape[:3] != displacement.shape[:3]:
        raise ValueError(
            "image and displacement must agree in batch, height and width, got "
            f"{image.shape} and {displacement.shape}"
        )
    if 0 in image.shape:
        raise ValueError(f"cannot warp an empty image of shape {image.shape}")
    if not jnp.issubdtype(displacement.dtype, jnp.floating):
        raise ValueError(f"displacement must be floating point, got {displacement.dtype}")
    if not (image.dtype == jnp.uint8 or jnp.issubdtype(image.dtype, jnp.floating)):
        raise ValueError(f"image must be floating point or uint8, got {image.dtype}")
    if image.size // image.shape[-1] > jnp.iinfo(jnp.int32).max:
        raise ValueError(
            f"image {image.shape} has more than 2**31 - 1 pixels, which int32 indices cannot "
            "reach: split the batch"
        )


@functools.partial(jax.jit, static_argnames=("deterministic", "bound"))
def bilinear_warp(
    image: Array,
    displacement: Array,
    *,
    deterministic: bool = False,
    bound: int | None = None,
) -> Array:
    """Samples ``image`` at every pixel's own position plus its displacement.

    ``out[b, y, x] = image[b, y + dy, x + dx]`` with ``(dx, dy) = displacement[b, y, x]``, bilinear
    between ``floor`` and ``floor + 1``, coordinates clamped to the border. A coordinate that is NaN
    or infinite reads the border. Blending is done in float32 whatever the image's type.

    Differentiable once and more in reverse mode, in the image and in the displacement. Where
    the bilinear surface has a kink (an integer coordinate) the slope towards the next pixel is
    used; beyond the border the gradient of the displacement is zero.

    Args:
      image: ``[B, H, W, C]``, float32, bfloat16, float16 or uint8, ``H, W, C >= 1``.
      displacement: ``[B, H, W, 2]``, ``(dx, dy)`` in pixels, floating point, taken to float32.
      deterministic: on GPUs the image's gradient is summed in an order left to chance, so its last
        bits differ from run to run; true has it summed in fixed point (see
        ``warp_pixels.adjoint_in_fixed_point``), at the price of one more scatter. The other
        gradient, the value, and other platforms are the same on every run in any case.
      bound: a promise that ``|dx|`` and ``|dy|`` are no larger, in pixels, by which TPUs have
        faster kernels. What breaks it they clip to the bound, NaN as well. The first gradients
        come from kernels too, further ones from the form without.

    Returns:
      ``[B, H, W, C]`` of the image's type; uint8 is rounded to nearest and has no gradient.

    Raises:
      ValueError: a rank, shape or type is wrong, the image is empty, or it holds more pixels than
        int32 can index.
    """
    _check(image, displacement)
    displacement = displacement.astype(jnp.float32)
    if jnp.issubdtype(image.dtype, jnp.integer):
        return jnp.round(_warp(image, displacement, _Options())).astype(image.dtype)
    return _differentiable_warp(image, displacement, _Options(deterministic, bound))


@functools.partial(jax.jit, static_argnames=("mask_weights", "deterministic", "bound"))
def warp_and_fuse(
    original: Array,
    pretranslated: Array,
    mask: Array,
    displacement: Array,
    *,
    mask_weights: MaskWeights = "pretranslated",
    deterministic: bool = False,
    bound: int | None = None,
) -> tuple[Array, Array]:
    """Warps the original and blends it with the pretranslated image, in one pass.

    The values of `bilinear_warp` and `fuse`. The warped image is not kept for the gradients, but
    read from the original anew.

    Args:
      original: ``[B, H, W, C]``, floating point.
      pretranslated: ``[B, H, W, C]``, floating point.
      mask: ``[B, H, W, 1]`` in [0, 1].
      displacement: ``[B, H, W, 2]``, as in `bilinear_warp`.
      mask_weights: the image that is multiplied by the mask.
      deterministic: as in `bilinear_warp`.
      bound: as in `bilinear_warp`.

    Returns:
      The output and the warped image, ``[B, H, W, C]`` of the original's type. What is not used is
      not computed.

    Raises:
      ValueError: as `bilinear_warp`, or the shapes do not fit together, a type is not floating
        point, or the convention is unknown.
    """
    _check(original, displacement)
    if pretranslated.shape != original.shape or mask.shape != (*original.shape[:3], 1):
        raise ValueError(
            "warp_and_fuse takes two images of one shape [B, H, W, C] and a mask [B, H, W, 1], got "
            f"{original.shape}, {pretranslated.shape} and {mask.shape}"
        )
    for name, each in (("original", original), ("pretranslated", pretranslated), ("mask", mask)):
        if not jnp.issubdtype(each.dtype, jnp.floating):
            raise ValueError(f"{name} must be floating point, got {each.dtype}")
    inputs = original, pretranslated, mask, displacement.astype(jnp.float32)
    return _differentiable_fusion(inputs, _Options(deterministic, bound, mask_weights))


def warp_and_fuse_rows(
    original: Array,
    pretranslated: Array,
    mask: Array,
    displacement: Array,
    rows: Array,
    *,
    mask_weights: MaskWeights = "pretranslated",
) -> tuple[Array, Array]:
    """`warp_and_fuse` for some rows of the output, for inference: its gradient is not written out.

    Args:
      original: ``[B, H, W, C]``, all of it.
      pretranslated: ``[B, R, W, C]``.
      mask: ``[B, R, W, 1]``.
      displacement: float32 ``[B, R, W, 2]``.
      rows: int32 ``[R]``, which rows these are.
      mask_weights: the image that is multiplied by the mask.

    Returns:
      ``R`` rows of the output and of the warped image, of the original's type.
    """
    inputs = original, pretranslated, mask, displacement
    return _warp_and_fuse(inputs, _Options(mask_weights=mask_weights), rows)
