"""The warp and its gradients on one CPU core, compared with PyTorch and OpenCV.

    taskset -c 0 python -m experiments.benchmarks.warp_cpu --output=warp_cpu.json

The peers' coordinates are computed beforehand, normalized for torch and absolute for OpenCV; the
warp adds the displacement itself. Three channels, float32. A gradient's pass includes the forward
pass: paired training needs that of the displacement, cycle training both. ``copy`` moves as many
bytes as the forward pass and computes nothing.
"""

from collections.abc import Callable
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags

from experiments.benchmarks import measure, warp_passes

_SIZES = flags.DEFINE_list(
    "sizes",
    ["1x256x256", "8x256x256", "1x1024x1024", "1x2160x3840"],
    "Comma-separated BATCHxHEIGHTxWIDTH.",
)
_FIELDS = flags.DEFINE_list("fields", list(warp_passes.FIELDS), "Kinds of displacement.")
_PASSES = flags.DEFINE_list("passes", ["forward", "displacement", "both"], "Passes.")

# Upper bounds of the share of a peer's time. With a smooth field at 4K the forward pass has another
# one: the pages of a new output cost as much as the warp.
_OF_TORCH = {"forward": 0.65, "displacement": 0.90, "both": 1.25}
_OF_OPENCV, _LARGE_SMOOTH, _LARGE = 1.05, 0.45, 2**22


def benchmark(repeats: int) -> measure.Table:
    """Times all passes."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows, goals = [], []
    for size in _SIZES.value:
        shape = tuple(map(int, size.split("x")))
        image = np.random.default_rng(0).uniform(-1, 1, (*shape, 3)).astype(np.float32)
        for kind in _FIELDS.value:
            field = warp_passes.displacement(kind, *shape)
            for name in _PASSES.value:
                title = f"{size}, {kind}, {name}"
                shares = _shares(name, image, field, repeats, title)
                copy = shares.pop("copy", None)
                rows.append(
                    {"images": size, "field": kind, "pass": name}
                    | {f"/ {peer}": shares.get(peer) for peer in ("torch", "OpenCV")}
                    | {"copy / warp": copy and 1 / copy[0]}
                )
                bounds = {"torch": _OF_TORCH.get(name), "OpenCV": _OF_OPENCV}
                if name == "forward" and kind == "smooth" and shape[1] * shape[2] > _LARGE:
                    bounds = {"torch": _LARGE_SMOOTH}
                for peer, bound in bounds.items():
                    if bound and peer in shares:
                        goals.append(measure.goal(f"{title} / {peer}", shares[peer][0], bound))
    return measure.Table(rows, ["torch", "opencv-python-headless"], goals=goals)


def _shares(
    name: str, image: np.ndarray, field: np.ndarray, repeats: int, title: str
) -> dict[str, measure.Ratio]:
    """Returns the warp's time as a share of each peer's."""
    arrays = jnp.asarray(image), jnp.asarray(field)
    functions = {
        "warp": warp_passes.ours(name, *arrays, with_value=True),
        "torch": warp_passes.torchs(name, image, field, with_value=True),
    }
    if name == "forward":
        functions |= {"OpenCV": _opencv(image, field), "copy": warp_passes.copy(name, *arrays)[0]}
    seconds = measure.interleave(functions, repeats, round_seconds=0.02, title=title)
    mine = seconds.pop("warp")
    return {peer: measure.ratio(mine, times) for peer, times in seconds.items()}


def _opencv(image: np.ndarray, field: np.ndarray) -> Callable[[], Any]:
    ys, xs = np.mgrid[: image.shape[1], : image.shape[2]].astype(np.float32)
    maps = [(xs + each[..., 0], ys + each[..., 1]) for each in field]

    def run() -> None:
        for each, (x, y) in zip(image, maps, strict=True):
            cv2.remap(each, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    return run


if __name__ == "__main__":
    measure.run(benchmark)
