"""The warp, its gradients and a translation on a GPU, compared with PyTorch and with a copy.

    python -m experiments.benchmarks.warp_gpu --output=warp_gpu.json

For an NVIDIA GPU that both frameworks see; without one it measures nothing, unless
``--any_device`` is given, with small ``--shapes``.

* forward, image, displacement, both: `ops.bilinear_warp` and the gradients without the forward
  pass, float32, compared with ``grid_sample`` (bilinear, border, align_corners). PyTorch's
  normalized grid is computed beforehand.
* warp and fuse: with a mask and a second image, the end of every translation.
* plain: four gathers and JAX's own gradients.
* copy: a program that reads and writes as many bytes as the computation must.
* The translation of one image by the default paired experiment's generator in bfloat16.

Smooth fields are waves of some hundred pixels; in random ones neighbors read from anywhere within
32 pixels.
"""

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import paired
from experiments.benchmarks import measure, warp_passes
from warp_translate.experiment import build
from warp_translate.models import translate
from warp_translate.ops import warp_and_fuse
from warp_translate.types import Array

_SHAPES = flags.DEFINE_list(
    "shapes",
    ["1x1024x1024", "16x1024x1024", "1x2160x3840", "16x2160x3840"],
    "Comma-separated BATCHxHEIGHTxWIDTH.",
)
_TRANSLATION = flags.DEFINE_string(
    "translation", "1x2160x3840", "Shape of the translated image; empty for none."
)
_FACTOR = flags.DEFINE_integer("factor", 8, "Reduction of the trunk's image.")
_ROUND = flags.DEFINE_float("turn", 0.1, "Seconds of one function's calls in a round.")
_ANY_DEVICE = flags.DEFINE_bool("any_device", False, "Measure without a GPU too.")

_OF_TORCH, _OF_COPY, _MILLISECONDS = 0.7, 2.0, 3.0  # Goals.


def benchmark(repeats: int) -> measure.Table:
    """Times all passes and the translation."""
    on_gpu = measure.share_gpu()
    rows: list[dict[str, Any]] = []
    milliseconds = None
    if on_gpu or _ANY_DEVICE.value:
        for shape in _SHAPES.value:
            for kind in warp_passes.FIELDS:
                rows += _rows(shape, kind, "cuda" if on_gpu else "cpu", repeats)
        if _TRANSLATION.value:
            milliseconds = _translation(repeats)
    notes = {"translation ms": milliseconds, "torch_device": measure.torch_device()}
    return measure.Table(rows, ["torch"], notes, list(_goals(rows, milliseconds)))


def _goals(rows: Sequence[dict[str, Any]], milliseconds: float | None) -> Iterator[str]:
    warps = [row["/ torch"][0] for row in rows if row["/ torch"]]
    yield measure.goal("warp / grid_sample, worst row", max(warps, default=None), _OF_TORCH)
    fused = [row["/ copy"][0] for row in rows if row["pass"] == "warp and fuse"]
    yield measure.goal("warp and fuse / copy, worst row", max(fused, default=None), _OF_COPY)
    name = f"translation of {_TRANSLATION.value} at factor {_FACTOR.value}, ms"
    yield measure.goal(name, milliseconds, _MILLISECONDS)


def _rows(shape: str, kind: str, device: str, repeats: int) -> list[dict[str, Any]]:
    sizes = tuple(map(int, shape.split("x")))
    host = np.random.default_rng(0).uniform(-1, 1, (*sizes, 3)).astype(np.float32)
    host_field = warp_passes.displacement(kind, *sizes)
    image, field = jnp.asarray(host), jnp.asarray(host_field)
    rows = []
    for name in (*warp_passes.PASSES, "warp and fuse"):
        if name == "warp and fuse":
            run, copy, moved = _fuse(image, field)
            functions = {"ours": run, "copy": copy}
        else:
            copy, moved = warp_passes.copy(name, image, field)
            functions = {"ours": warp_passes.ours(name, image, field), "copy": copy}
            functions["torch"] = warp_passes.torchs(name, host, host_field, device)
            functions["plain"] = warp_passes.ours(name, image, field, warp=warp_passes.plain)
        seconds = measure.interleave(functions, repeats, round_seconds=_ROUND.value)
        ratios = {
            f"/ {peer}": measure.ratio(seconds["ours"], seconds[peer]) if peer in seconds else None
            for peer in ("torch", "plain", "copy")
        }
        rows.append(
            {
                "images": shape,
                "field": kind,
                "pass": name,
                "us": 1e6 * statistics.median(seconds["ours"]),
                **ratios,
                "copy GB/s": moved / statistics.median(seconds["copy"]) / 1e9,
            }
        )
    return rows


def _fuse(image: Array, field: Array) -> tuple[Callable[[], Any], Callable[[], Any], int]:
    """Returns warp and fusion, a copy of as many bytes, and these bytes."""
    pretranslated = jnp.flip(image, 1)
    mask = jnp.abs(image[..., :1])

    def fuse(image: Array, field: Array, pretranslated: Array, mask: Array) -> Array:
        return warp_and_fuse(image, pretranslated, mask, field)[0]

    def copy(image: Array, field: Array, pretranslated: Array, mask: Array) -> Array:
        return image + warp_passes.channel_sum(field) + pretranslated + mask

    arguments = image, field, pretranslated, mask
    moved = sum(each.nbytes for each in arguments) + image.nbytes
    run, copied = (functools.partial(jax.jit(each), *arguments) for each in (fuse, copy))
    return run, copied, moved


def _translation(repeats: int) -> float:
    """Returns the milliseconds of a translation; the image is float32 on the device."""
    config = paired.get_config()
    config.generator.dtype = "bfloat16"
    training = build.generator_training(config)
    shape = (*map(int, _TRANSLATION.value.split("x")), 3)
    image = jax.random.uniform(jax.random.key(0), shape, minval=-1.0)
    params = build.initial_state(training, config).generator.params
    run = jax.jit(lambda p, x: translate(training.generator, p, x, _FACTOR.value).output)
    functions = {"translation": functools.partial(run, params, image)}
    seconds = measure.interleave(functions, repeats, round_seconds=_ROUND.value)
    return 1000 * statistics.median(seconds["translation"])


if __name__ == "__main__":
    measure.run(benchmark)
