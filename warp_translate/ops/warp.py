"""Backward warp and its fusion, with hand-written gradients, on every platform.

``out[y, x] = in[y + dy, x + dx]``, like SciPy's ``map_coordinates(order=1, mode="nearest")`` and
PyTorch's ``grid_sample(padding_mode="border", align_corners=True)``.

The implementation is chosen per platform when a program is lowered; a program exported for several
platforms holds them all. `warp_pixels` is for CPUs, `warp_gpu` for GPUs, `warp_planes` for TPUs,
`warp_kernels` for TPUs with a bounded displacement. All have the same values. The cubic form
(`warp_cubic`) has the gradients of plain gathers.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from warp_translate.constants import Sampling
from warp_translate.ops import (
    sampling,
    unrolled_sum,
    warp_cubic,
    warp_gpu,
    warp_kernels,
    warp_pixels,
    warp_planes,
)
from warp_translate.ops.fuse import MaskWeights, fuse
from warp_translate.ops.resize import box_blur
from warp_translate.types import Array


class _Options(NamedTuple):
    """Static arguments, see `bilinear_warp` and `warp_and_fuse`."""

    deterministic: bool = False
    bound: int | None = None
    mask_weights: MaskWeights = "pretranslated"
    sampling: Sampling = "bilinear"
    blur: int = 0


def _warp(image: Array, displacement: Array, options: _Options, rows: Array | None = None) -> Array:
    """In float32; ``rows`` are those of the displacement, None for all."""
    rule, gpu = sampling.warp, warp_gpu.warp
    if options.sampling == "cubic":
        rule = warp_cubic.warp
        gpu = functools.partial(rule, warp_pixels.read_by_index)
    cpu = functools.partial(rule, warp_pixels.read_by_views)
    tpu: Callable[..., Array] = functools.partial(rule, warp_planes.read)
    if rows is None:
        rows = sampling.all_rows(image.shape[1])
        if options.sampling == "bilinear":  # The kernels are for this and for whole images.
            tpu = _or_kernel(tpu, _kernel, image, options)
    return lax.platform_dependent(image, displacement, rows, cpu=cpu, tpu=tpu, default=gpu)


def _kernel(image: Array, displacement: Array, rows: Array, bound: int) -> Array:
    return warp_kernels.warp(image, displacement, bound).astype(jnp.float32)


def _grad_displacement(
    image: Array, displacement: Array, cotangent: Array, options: _Options
) -> Array:
    """In float32."""
    if options.sampling == "cubic":
        return _cubic_transpose(image, displacement)(cotangent)[1]
    tpu = functools.partial(sampling.grad_displacement, warp_planes.read)
    return lax.platform_dependent(
        image,
        displacement,
        cotangent,
        cpu=warp_pixels.grad_displacement_cpu,
        tpu=_or_kernel(tpu, warp_kernels.grad_displacement, image, options),
        default=warp_gpu.grad_displacement,
    )


def _grad_image(cotangent: Array, displacement: Array, options: _Options) -> Array:
    """In float32."""
    if options.sampling == "cubic":  # Linear in the image, so that any image will do.
        return _cubic_transpose(jnp.zeros_like(cotangent), displacement)(cotangent)[0]
    gpu = warp_gpu.grad_image
    if options.deterministic:  # CPUs and TPUs always are.
        gpu = warp_gpu.grad_image_in_fixed_point
    return lax.platform_dependent(
        cotangent,
        displacement,
        cpu=warp_pixels.grad_image_cpu,
        tpu=_or_kernel(warp_planes.grad_image, warp_kernels.grad_image, cotangent, options),
        default=gpu,
    )


def _cubic_transpose(image: Array, displacement: Array) -> Callable[[Array], tuple[Array, Array]]:
    """Maps a cotangent to the gradients of image and displacement."""

    def run(image: Array, displacement: Array) -> Array:
        rows = sampling.all_rows(image.shape[1])
        return warp_cubic.warp(warp_pixels.read_by_index, image, displacement, rows)

    return jax.vjp(run, image.astype(jnp.float32), displacement)[1]


def _or_kernel(
    plain: Callable[..., Array], kernel: Callable[..., Array], image: Array, options: _Options
) -> Callable[..., Array]:
    """The kernel, with the gradient of ``plain``, if it supports the image and the bound."""
    bound = options.bound
    if bound is None or not warp_kernels.supports(image.shape, image.dtype, bound):
        return plain

    @jax.custom_vjp
    def run(*arguments: Any) -> Array:
        return kernel(*arguments, bound)

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
    # Without the barrier XLA would merge the gradients with the forward pass and keep indices and
    # weights in memory. The compiler drops an unused gradient with its scatter or gathers.
    image, displacement = lax.optimization_barrier(residuals)
    cotangent = cotangent.astype(jnp.float32)
    return (
        _grad_image(cotangent, displacement, options).astype(image.dtype),
        _grad_displacement(image, displacement, cotangent, options),
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
    # The warped image is recomputed: less memory, and hardly more time.
    original, pretranslated, mask, displacement = lax.optimization_barrier(residuals)
    of_output, of_warped = (each.astype(jnp.float32) for each in cotangents)
    weight = mask.astype(jnp.float32)
    if options.mask_weights == "pretranslated":
        weight = 1.0 - weight
    into_warped = of_output * weight + of_warped
    difference = _warp(original, displacement, options) - pretranslated.astype(jnp.float32)
    to_weight = unrolled_sum.dot(of_output, difference)[..., None]
    gradients = (
        _grad_image(into_warped, displacement, options).astype(original.dtype),
        (of_output * (1.0 - weight)).astype(pretranslated.dtype),
        (to_weight if options.mask_weights == "warped" else -to_weight).astype(mask.dtype),
        _grad_displacement(box_blur(original, options.blur), displacement, into_warped, options),
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
    """Samples ``image`` at every pixel's position plus its displacement.

    ``out[b, y, x] = image[b, y + dy, x + dx]`` with ``(dx, dy) = displacement[b, y, x]``, bilinear
    between ``floor`` and ``floor + 1``, coordinates clamped to the border; a non-finite coordinate
    reads the border. Blends in float32 whatever the image's type.

    Differentiable any number of times in reverse mode, in the image and in the displacement. At an
    integer coordinate, where the surface has a kink, the slope towards the next pixel is used;
    beyond the border the gradient of the displacement is zero.

    Args:
      image: ``[B, H, W, C]``, float32, bfloat16, float16 or uint8, ``H, W, C >= 1``.
      displacement: ``[B, H, W, 2]``, ``(dx, dy)`` in pixels, floating point, cast to float32.
      deterministic: sums the image's gradient in fixed point on GPUs (see
        ``warp_gpu.grad_image_in_fixed_point``), where its last bits differ from run to run
        otherwise; costs one more scatter. All other results are always deterministic.
      bound: a promise that ``|dx|`` and ``|dy|`` do not exceed it, in pixels, for faster kernels on
        TPUs, which clip larger values and NaN to the bound. Second derivatives use
        no kernels.

    Returns:
      ``[B, H, W, C]`` of the image's type; uint8 is rounded to nearest and has no gradient.

    Raises:
      ValueError: a rank, shape or type is wrong, the image is empty, or it has more pixels than
        int32 can index.
    """
    _check(image, displacement)
    displacement = displacement.astype(jnp.float32)
    if jnp.issubdtype(image.dtype, jnp.integer):
        return jnp.round(_warp(image, displacement, _Options())).astype(image.dtype)
    return _differentiable_warp(image, displacement, _Options(deterministic, bound))


@functools.partial(
    jax.jit, static_argnames=("mask_weights", "sampling", "blur", "deterministic", "bound")
)
def warp_and_fuse(
    original: Array,
    pretranslated: Array,
    mask: Array,
    displacement: Array,
    *,
    mask_weights: MaskWeights = "pretranslated",
    sampling: Sampling = "bilinear",
    blur: int = 0,
    deterministic: bool = False,
    bound: int | None = None,
) -> tuple[Array, Array]:
    """Warp and `fuse` in one pass; gradients recompute the warped image.

    Args:
      original: ``[B, H, W, C]``, floating point.
      pretranslated: ``[B, H, W, C]``, floating point.
      mask: ``[B, H, W, 1]`` in [0, 1].
      displacement: ``[B, H, W, 2]``, see `bilinear_warp`.
      mask_weights: see `fuse`.
      sampling: "bilinear" as `bilinear_warp`, or "cubic" as `warp_cubic`.
      blur: radius in pixels of a `box_blur` of the original in the displacement's gradient.
      deterministic: see `bilinear_warp`; without effect on cubic sampling, as is ``bound``.
      bound: see `bilinear_warp`.

    Returns:
      The output and the warped image, ``[B, H, W, C]`` of the original's type.

    Raises:
      ValueError: see `bilinear_warp` and `fuse`, or a type is not floating point.
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
    options = _Options(deterministic, bound, mask_weights, sampling, blur)
    return _differentiable_fusion(inputs, options)


def warp_and_fuse_rows(
    original: Array,
    pretranslated: Array,
    mask: Array,
    displacement: Array,
    rows: Array,
    *,
    mask_weights: MaskWeights = "pretranslated",
    sampling: Sampling = "bilinear",
) -> tuple[Array, Array]:
    """`warp_and_fuse` for some rows of the output, for inference.

    Args:
      original: ``[B, H, W, C]``, all rows.
      pretranslated: ``[B, R, W, C]``.
      mask: ``[B, R, W, 1]``.
      displacement: float32 ``[B, R, W, 2]``.
      rows: int32 ``[R]``, the rows of the output.
      mask_weights: see `fuse`.
      sampling: see `warp_and_fuse`.

    Returns:
      ``R`` rows of the output and of the warped image, of the original's type.
    """
    inputs = original, pretranslated, mask, displacement
    options = _Options(mask_weights=mask_weights, sampling=sampling)
    return _warp_and_fuse(inputs, options, rows)
