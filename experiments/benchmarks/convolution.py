"""Convolutions of ``ops/convolution.py`` compared with XLA's and PyTorch's.

    taskset -c 0 python -m experiments.benchmarks.convolution --repeats=20

* stem: 7x7 from 3 to ``--width`` channels at ``--size`` / 2, value and both gradients.
* penalty: gradient with respect to the parameters of R1 (squared image gradient of the score).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags
from torch.nn import functional

from experiments.benchmarks import measure
from warp_translate.models import Discriminator
from warp_translate.ops import convolution
from warp_translate.types import Array, PyTree

_SIZE = flags.DEFINE_integer("size", 64, "Side of the images in pixels.")
_BATCH = flags.DEFINE_integer("batch", 4, "Images per batch.")
_WIDTH = flags.DEFINE_integer("width", 24, "Channels of the stem; the discriminator's are 32.")


def benchmark(repeats: int) -> measure.Table:
    """Times both cases."""
    torch.set_num_threads(measure.machine()["cores_allowed"])
    rng = np.random.default_rng(0)
    half = _SIZE.value // 2
    padded = rng.normal(size=(_BATCH.value, half + 6, half + 6, 3)).astype(np.float32)
    kernel = rng.normal(size=(7, 7, 3, _WIDTH.value)).astype(np.float32)
    images = rng.normal(size=(_BATCH.value, _SIZE.value, _SIZE.value, 3)).astype(np.float32)
    plain = Discriminator(width=32, layers=3, scales=1, spectral_norm=False)
    params = jax.jit(plain.init)(jax.random.key(0), images)["params"]
    cases = {
        "stem": {
            "XLA": _stem(convolution._by_xla, padded, kernel),
            "by blocks": _stem(convolution._by_blocks, padded, kernel),
            "torch": _torch_stem(padded, kernel),
        },
        "penalty": {
            "XLA": _penalty(plain, params, images),
            "by patches": _penalty(plain.clone(by_patches=True), params, images),
            "torch": _torch_penalty(params["scale_0"], images),
        },
    }
    rows = []
    for case, functions in cases.items():
        seconds = measure.interleave(functions, repeats)
        rows += [
            {"case": case, "form": name, "time / XLA": measure.ratio(times, seconds["XLA"])}
            for name, times in seconds.items()
        ]
    return measure.Table(rows, ["torch"])


def _stem(
    convolve: Callable[[Array, Array], Array], images: np.ndarray, kernel: np.ndarray
) -> Callable[[], PyTree]:
    step = jax.jit(jax.value_and_grad(lambda x, k: jnp.square(convolve(x, k)).sum(), (0, 1)))
    return functools.partial(step, images, kernel)


def _torch_stem(images: np.ndarray, kernel: np.ndarray) -> Callable[[], object]:
    x, k = _planes(images).requires_grad_(), _weight(kernel)
    return lambda: torch.autograd.grad(functional.conv2d(x, k).square().sum(), (x, k))


def _penalty(model: Discriminator, params: PyTree, images: np.ndarray) -> Callable[[], PyTree]:
    def penalty(params: PyTree) -> Array:
        def score(x: Array) -> Array:
            return model.apply({"params": params}, x).logits[0].mean((1, 2, 3)).sum()

        return jnp.square(jax.grad(score)(jnp.asarray(images))).sum()

    return functools.partial(jax.jit(jax.grad(penalty)), params)


def _torch_penalty(layers: PyTree, images: np.ndarray) -> Callable[[], object]:
    weights = [_weight(layers[name]["kernel"]) for name in sorted(layers)]
    x = _planes(images).requires_grad_()

    def run() -> object:
        hidden = x
        for index, weight in enumerate(weights):
            if index:
                hidden = functional.leaky_relu(hidden, 0.2)
            stride = 2 if index < len(weights) - 2 else 1
            hidden = functional.conv2d(hidden, weight, stride=stride, padding=1)
        (slope,) = torch.autograd.grad(hidden.mean((1, 2, 3)).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weights)

    return run


def _planes(images: np.ndarray) -> torch.Tensor:
    return torch.tensor(images).permute(0, 3, 1, 2).contiguous()


def _weight(kernel: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.asarray(kernel)).permute(3, 2, 0, 1).contiguous().requires_grad_()


if __name__ == "__main__":
    measure.run(benchmark, repeats=20)
