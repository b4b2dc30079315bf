"""The warp and its gradients on a GPU, beside PyTorch's ``grid_sample`` and a copy, in turns.

    python -m experiments.benchmarks.warp_gpu --output=warp_gpu.json

Meant for an NVIDIA GPU that both frameworks see; without one it measures nothing, unless
``--any_device`` asks for a try on whatever is there, with small ``--shapes``.

* forward; the gradient of the image, of the displacement, and both: `ops.bilinear_warp`, float32,
  against ``grid_sample`` (bilinear, border, align_corners) and its gradients. PyTorch's grid lies
  ready: our pixels would have to be brought to its coordinates first, which is not counted.
* warp and fuse: with a mask and a second image, the end of every translation.
* copy: a program that reads and writes as many bytes as the computation must, and nothing else.
* The whole translation of one image by the default paired experiment's generator in bfloat16.

Fields are smooth, waves of some pixels, or random, where neighbours read from anywhere within
sixteen pixels. A turn is many calls, handed to the device without waiting, and one wait at the end.
"""

import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import app, flags
from torch.nn import functional

from experiments import paired
from experiments.benchmarks import fields, measure
from experiments.benchmarks.peers import warp_generator
from warp_translate.experiment import build
from warp_translate.models import translate
from warp_translate.ops import bilinear_warp, warp_and_fuse
from warp_translate.types import Array

_SHAPES = flags.DEFINE_list(
    "shapes",
    ["1x1024x1024", "16x1024x1024", "1x2160x3840", "16x2160x3840"],
    "BATCHxHEIGHTxWIDTH.",
)
_TRANSLATION = flags.DEFINE_string(
    "translation", "1x2160x3840", "Shape of the whole translation; empty for none."
)
_FACTOR = flags.DEFINE_integer("factor", 8, "How many times smaller the trunk's image is.")
_REPEATS = flags.DEFINE_integer("repeats", 15, "Turns that are timed.")
_TURN = flags.DEFINE_float("turn", 0.1, "Seconds that the calls of a turn should take together.")
_ANY_DEVICE = flags.DEFINE_bool("any_device", False, "Measure without a GPU too.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the table.")

_CHANNELS = 3
_OF_TORCH = 0.7
_OF_COPY = 2.0
_MILLISECONDS = 3.0
_MOST_CALLS = 1000


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"flags only, got {argv[1:]}")
    # Both frameworks share the card: jax would take three quarters of its memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    on_gpu = torch.cuda.is_available() and jax.default_backend() == "gpu"
    rows: list[dict[str, Any]] = []
    milliseconds = None
    if on_gpu or _ANY_DEVICE.value:
        for shape in _SHAPES.value:
            for field in fields.KINDS:
                rows += _rows(shape, field, "cuda" if on_gpu else "cpu")
        if _TRANSLATION.value:
            milliseconds = _translation(_TRANSLATION.value)
    else:
        print(
            f"not measured: PyTorch {'sees' if torch.cuda.is_available() else 'sees no'} CUDA "
            f"device and jax runs on {jax.default_backend()}; both need an NVIDIA GPU "
            "(--any_device measures on this one)"
        )
    about = measure.environment(
        "torch",
        torch_device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        repeats=_REPEATS.value,
        translation_ms_here=milliseconds,
    )
    measure.publish(about, rows, _OUTPUT.value, list(_goals(rows, milliseconds)))


def _goals(rows: Sequence[dict[str, Any]], milliseconds: float | None) -> Iterator[str]:
    """The worst row decides."""
    warps = [row["/ torch"][0] for row in rows if row["/ torch"]]
    yield measure.goal("warp / grid_sample, worst row", max(warps, default=None), _OF_TORCH)
    fused = [row["/ copy"][0] for row in rows if row["what"] == "warp and fuse"]
    yield measure.goal("warp and fuse / copy, worst row", max(fused, default=None), _OF_COPY)
    what = f"translation of {_TRANSLATION.value} at factor {_FACTOR.value}, ms"
    yield measure.goal(what, milliseconds, _MILLISECONDS)


def _rows(shape: str, kind: str, device: str) -> list[dict[str, Any]]:
    batch, height, width = map(int, shape.split("x"))
    rng = np.random.default_rng(0)
    host = [
        rng.uniform(-1, 1, (batch, height, width, channels)).astype(np.float32)
        for channels in (_CHANNELS, _CHANNELS, _CHANNELS, 1)
    ]
    field = fields.displacement(kind, batch, height, width)
    image, cotangent, pretranslated, mask = map(jnp.asarray, host)
    ours = _ours(image, jnp.asarray(field), cotangent, pretranslated, jnp.abs(mask))
    theirs = _theirs(host[0], field, host[1], device)
    rows = []
    for what, (function, copy, moved) in ours.items():
        timed = {"ours": _many(function), "copy": _many(copy)}
        if what in theirs:
            timed["torch"] = _many(theirs[what], device)
        # Every turn's seconds are of one call: the number of calls differs.
        seconds = {
            name: [each / timed[name][1] for each in turns]
            for name, turns in measure.take_turns(
                {name: run for name, (run, _) in timed.items()}, _REPEATS.value
            ).items()
        }
        per_copy = statistics.median(seconds["copy"])
        rows.append(
            {
                "images": shape,
                "field": kind,
                "what": what,
                "us here": 1e6 * statistics.median(seconds["ours"]),
                "/ torch": measure.ratio(seconds["ours"], seconds["torch"])
                if "torch" in seconds
                else None,
                "/ copy": measure.ratio(seconds["ours"], seconds["copy"]),
                "copy GB/s here": moved / per_copy / 1e9,
            }
        )
    return rows


def _ours(
    image: Array, field: Array, cotangent: Array, pretranslated: Array, mask: Array
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any], int]]:
    """By name: the computation, a copy of as many bytes, and how many bytes those are."""

    def pull(image: Array, field: Array, cotangent: Array) -> tuple[Array, Array]:
        return jax.vjp(bilinear_warp, image, field)[1](cotangent)

    def both_copied(image: Array, field: Array, cotangent: Array) -> tuple[Array, Array]:
        return image + _sum(field) + cotangent, field + image[..., :2]

    def fused(image: Array, field: Array, pretranslated: Array, mask: Array) -> Array:
        return warp_and_fuse(image, pretranslated, mask, field)[0]

    def fused_copied(image: Array, field: Array, pretranslated: Array, mask: Array) -> Array:
        return image + _sum(field) + pretranslated + mask

    pixels, size = image.size // _CHANNELS, image.dtype.itemsize
    warp_args, pull_args = (image, field), (image, field, cotangent)
    fuse_args = (image, field, pretranslated, mask)

    def entry(
        function: Callable[..., Any], copy: Callable[..., Any], args: Sequence[Array], values: int
    ) -> tuple[Callable[[], Any], Callable[[], Any], int]:
        return (
            functools.partial(jax.jit(function), *args),
            functools.partial(jax.jit(copy), *args),
            values * pixels * size,
        )

    return {
        "forward": entry(bilinear_warp, lambda x, f: x + _sum(f), warp_args, 8),
        # Its values do not depend on the image's.
        "gradient of the image": entry(
            lambda x, f, c: pull(x, f, c)[0], lambda x, f, c: c + _sum(f), pull_args, 8
        ),
        "gradient of the displacement": entry(
            lambda x, f, c: pull(x, f, c)[1],
            lambda x, f, c: f + _sum(x) + _sum(c),
            pull_args,
            10,
        ),
        "both gradients": entry(pull, both_copied, pull_args, 13),
        "warp and fuse": entry(fused, fused_copied, fuse_args, 12),
    }


def _sum(values: Array) -> Array:
    """The sum over channels, term by term, which fuses with what follows; ``[B, H, W, 1]``."""
    return sum(
        (values[..., channel : channel + 1] for channel in range(1, values.shape[-1])),
        values[..., :1],
    )


def _theirs(
    image: np.ndarray, field: np.ndarray, cotangent: np.ndarray, device: str
) -> dict[str, Callable[[], Any]]:
    def planes(values: np.ndarray) -> torch.Tensor:
        return torch.tensor(values, device=device).permute(0, 3, 1, 2).contiguous()

    x, c = planes(image).requires_grad_(), planes(cotangent)
    grid = warp_generator.grid(planes(field)).contiguous().requires_grad_()
    sample = functools.partial(
        functional.grid_sample, mode="bilinear", padding_mode="border", align_corners=True
    )

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return sample(x, grid)

    def gradient(wanted: Sequence[torch.Tensor]) -> Callable[[], Any]:
        # Run once beforehand; each graph holds nothing but the wanted gradients' part.
        made = sample(
            x if any(each is x for each in wanted) else x.detach(),
            grid if any(each is grid for each in wanted) else grid.detach(),
        )
        return lambda: torch.autograd.grad(made, wanted, c, retain_graph=True)

    return {
        "forward": forward,
        "gradient of the image": gradient([x]),
        "gradient of the displacement": gradient([grid]),
        "both gradients": gradient([x, grid]),
    }


def _many(function: Callable[[], Any], torch_device: str = "") -> tuple[Callable[[], Any], int]:
    """Repeats a call until it takes as long as a turn should, and waits once at the end.

    Args:
      function: hands work to the device.
      torch_device: torch's name of it, empty for jax.

    Returns:
      The turn, and how many calls it is.
    """

    def turn(calls: int) -> None:
        for _ in range(calls):
            made = function()
        if torch_device == "cuda":
            torch.cuda.synchronize()
        elif not torch_device:
            jax.block_until_ready(made)

    turn(1)  # Compiles.
    begin = time.perf_counter()
    turn(3)
    once = (time.perf_counter() - begin) / 3
    calls = min(max(round(_TURN.value / once), 1), _MOST_CALLS)
    return functools.partial(turn, calls), calls


def _translation(shape: str) -> float:
    """Milliseconds of a whole translation, images float32 on the device."""
    config = paired.get_config()
    config.generator.dtype = "bfloat16"
    training = build.generator_training(config)
    batch, height, width = map(int, shape.split("x"))
    image = jax.random.uniform(jax.random.key(0), (batch, height, width, 3), minval=-1.0)
    params = build.initial_state(training, config).generator.params
    run = jax.jit(lambda p, x: translate(training.generator, p, x, _FACTOR.value).output)
    turn, calls = _many(functools.partial(run, params, image))
    seconds = measure.take_turns({"translation": turn}, _REPEATS.value)["translation"]
    return 1000 * statistics.median(seconds) / calls


if __name__ == "__main__":
    app.run(main)
