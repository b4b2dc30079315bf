"""The warp and its gradients here and in PyTorch, and copies of as many bytes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional

from experiments.benchmarks.peers import warp_generator
from warp_translate.ops import bilinear_warp, sampling, warp_pixels
from warp_translate.types import Array

PASSES = {"forward": (), "image": (0,), "displacement": (1,), "both": (0, 1)}
"""Arguments of the warp, image and displacement, whose gradients a pass computes."""

FIELDS = ("smooth", "random")
CHANNELS = 3
_REACH = 32.0  # Pixels: the bound of the default generator at factor 2.


def displacement(kind: str, batch: int, height: int, width: int) -> np.ndarray:
    """Returns a field, float32 ``[B, H, W, 2]``, ``(dx, dy)`` of at most 32 pixels.

    "smooth" is waves of some hundred pixels, "random" draws every pixel independently.
    """
    rng = np.random.default_rng(0)
    if kind == "random":
        return rng.uniform(-_REACH, _REACH, (batch, height, width, 2)).astype(np.float32)
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, (batch, 1, 1, 2)).astype(np.float32)
    waves = np.sin(xs[None, ..., None] / 97 + ys[None, ..., None] / 131 + phases)
    return (_REACH * waves).astype(np.float32)


def plain(image: Array, field: Array) -> Array:
    """The warp by four gathers, whose gradients are JAX's own."""
    return sampling.warp(warp_pixels.read_by_index, image, field, sampling.all_rows(image.shape[1]))


def ours(
    name: str,
    image: Array,
    field: Array,
    *,
    with_value: bool = False,
    warp: Callable[[Array, Array], Array] = bilinear_warp,
) -> Callable[[], Any]:
    """Returns a pass of the warp, compiled.

    Args:
      name: key of `PASSES`.
      image: float32 ``[B, H, W, 3]``.
      field: displacement, float32 ``[B, H, W, 2]``.
      with_value: whether a gradient's pass also returns the warped image.
      warp: the function.
    """
    wanted = PASSES[name]

    def run(image: Array, field: Array, cotangent: Array) -> Any:
        if not wanted:
            return warp(image, field)
        arguments = [image, field]

        def warp_chosen(*chosen: Array) -> Array:
            values = list(arguments)
            for index, value in zip(wanted, chosen, strict=True):
                values[index] = value
            return warp(*values)

        value, pull = jax.vjp(warp_chosen, *(arguments[index] for index in wanted))
        return (value, *pull(cotangent)) if with_value else pull(cotangent)

    return functools.partial(jax.jit(run), image, field, jnp.ones_like(image))


def torchs(
    name: str,
    image: np.ndarray,
    field: np.ndarray,
    device: str = "cpu",
    *,
    with_value: bool = False,
) -> Callable[[], Any]:
    """Returns the same pass of ``grid_sample``, whose normalized grid is computed beforehand."""

    def planes(values: np.ndarray) -> torch.Tensor:
        return torch.tensor(values, device=device).permute(0, 3, 1, 2).contiguous()

    grid = warp_generator.grid(planes(field)).contiguous()
    arguments = [planes(image), grid]
    cotangent = torch.ones_like(arguments[0])
    leaves = [arguments[index].requires_grad_() for index in PASSES[name]]

    def forward() -> torch.Tensor:
        return functional.grid_sample(*arguments, padding_mode="border", align_corners=True)

    if not leaves:
        return torch.inference_mode()(forward)
    if with_value:
        return lambda: torch.autograd.grad(forward(), leaves, cotangent)
    value = forward()
    return lambda: torch.autograd.grad(value, leaves, cotangent, retain_graph=True)


def copy(name: str, image: Array, field: Array) -> tuple[Callable[[], Any], int]:
    """Returns a program that reads and writes as much as a pass must, and its bytes."""
    copies: dict[str, tuple[Callable[..., Any], int]] = {
        "forward": (lambda x, f, c: x + channel_sum(f), 8),
        "image": (lambda x, f, c: c + channel_sum(f), 8),
        "displacement": (lambda x, f, c: f + channel_sum(x) + channel_sum(c), 10),
        "both": (lambda x, f, c: (x + channel_sum(f) + c, f + x[..., :2]), 13),
    }
    function, values = copies[name]
    run = functools.partial(jax.jit(function), image, field, jnp.ones_like(image))
    return run, values * (image.size // CHANNELS) * image.dtype.itemsize


def channel_sum(values: Array) -> Array:
    """Sums over channels term by term, which fuses with other operations; ``[B, H, W, 1]``."""
    return functools.reduce(jnp.add, jnp.split(values, values.shape[-1], axis=-1))
