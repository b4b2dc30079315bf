"""Comparison of the training steps in PyTorch and jax from the same state and batch.

In float32 on the CPU. The images are smooth and the displacement does not start at zero: at whole
numbers, the kinks of a bilinear surface, ``grid_sample`` and this package's warp may take the slope
of either side, and both are right.
"""

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import torch

from experiments import base
from experiments.benchmarks.peers import parameters
from experiments.benchmarks.peers.training import GENERATORS, comparable, make_step
from warp_translate.experiment import build
from warp_translate.types import PyTree

# Smaller gradients, relative to the largest of the network, are rounding, for instance of a bias
# before a norm. Adam makes a whole step of them all the same.
_ROUNDING = 1e-6


def small(kind: str) -> ml_collections.ConfigDict:
    """Returns the default experiment, "paired" or "cycle", with small networks and images."""
    config = base.get_config(kind)
    config.data.size = 32
    config.generator.update(width=8, blocks=1)
    config.discriminator.update(width=8, layers=1)
    if kind == "paired":  # So that these are compared too.
        config.discriminator.spectral_norm = True
        config.losses.pyramid_levels = 2
    return config


def moved(state: PyTree) -> PyTree:
    """Sets the displacements of all generators to fractions of a pixel and more, in place."""
    for seed, name in enumerate(GENERATORS):
        if hasattr(state, name):
            for params in (getattr(state, name).params, getattr(state, name).ema):
                head = params["displacement"]
                drawn = jax.random.normal(jax.random.key(seed), head["kernel"].shape)
                head["kernel"] = 0.02 * drawn
                head["bias"] = head["bias"] + np.array([0.013, -0.021], np.float32)
    return state


def differences(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Takes one step in both frameworks, without pool and augmentations.

    Args:
      config: configuration of paired or cycle training.

    Returns:
      The largest relative differences of "losses", "gradients", "parameters", "averages" and
      "spectral" vectors; of arrays by their norms.
    """
    config = comparable(config)
    training, root = build.generator_training(config), build.root_key(config)
    state = moved(build.initial_state(training, config))
    theirs = make_step(config, state, "cpu", compiled=False, bfloat16=False)
    batch = _smooth_batch(config.data.size)
    state, metrics = jax.jit(training.step)(state, batch, root)
    losses = theirs.step({name: torch.tensor(images) for name, images in batch.items()})
    worst = dict.fromkeys(("gradients", "parameters", "averages", "spectral"), 0.0)
    worst["losses"] = max(abs(float(losses[name]) / float(metrics[name]) - 1) for name in losses)

    def compare(name: str, theirs: torch.Tensor, ours: torch.Tensor) -> None:
        worst[name] = max(worst[name], _apart(theirs.detach(), ours))

    for name, network in theirs.networks.items():
        found, generates = getattr(state, name), name in GENERATORS
        b1 = config.optim.b1 if generates else config.optim.discriminator_b1
        # After one step Adam's first moment is the gradient times 1 - b1.
        moments = dict(parameters.by_name(found.opt_state[0].mu))
        after = dict(parameters.by_name(found.params))
        averages = dict(parameters.by_name(found.ema)) if generates else {}
        least = _ROUNDING * max(map(_norm, moments.values()))
        for (leaf, value), average in zip(
            network.module.named_parameters(), network.ema, strict=True
        ):
            if _norm(moments[leaf]) >= least:
                compare("gradients", value.grad, moments[leaf] / (1 - b1))
                compare("parameters", value, after[leaf])
                if generates:
                    compare("averages", average, averages[leaf])
        for path, leaf in parameters.spectral_vectors(getattr(found, "spectral", {})):
            compare("spectral", network.module.get_buffer(path), leaf)
    return worst


def compiled_difference(
    config: ml_collections.ConfigDict,
    state: PyTree,
    batch: Mapping[str, np.ndarray],
    *,
    device: str,
    bfloat16: bool,
) -> float:
    """Compares the gradients of a step with ``torch.compile`` to those of an eager one.

    Inductor of PyTorch 2.13 on CPUs returns zeros for all of the generator below its head.

    Args:
      config: configuration of paired or cycle training, without randomness.
      state: state of jax whose displacements do not start at zero.
      batch: batch of a step.
      device: device of torch.
      bfloat16: whether the networks run under autocast.

    Returns:
      The largest relative difference, by norms, over all parameters.
    """
    placed = {name: torch.tensor(images, device=device) for name, images in batch.items()}
    gradients = []
    for compiled in (False, True):
        step = make_step(config, state, device, compiled=compiled, bfloat16=bfloat16)
        step.step(placed)
        gradients.append(
            [[leaf.grad for leaf in each.module.parameters()] for each in step.networks.values()]
        )
    torch.compiler.reset()  # Or the benchmark would count these compilations.
    worst = 0.0
    for eager, compiled_ones in zip(*gradients, strict=True):
        least = (1e-2 if bfloat16 else _ROUNDING) * max(map(_norm, eager))
        for one, other in zip(eager, compiled_ones, strict=True):
            if _norm(one) >= least:
                worst = max(worst, _apart(other, one))
    return worst


def _norm(value: torch.Tensor) -> float:
    return float(torch.linalg.norm(value))


def _apart(value: torch.Tensor, expected: torch.Tensor) -> float:
    return _norm(value - expected) / _norm(expected)


def _smooth_batch(size: int) -> dict[str, Any]:
    """Returns two waves for each domain, uint8 ``[2, size, size, 3]``."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[:size, :size][..., None] / size

    def wave() -> np.ndarray:
        across, down, phase = rng.uniform(1, 6, (3, 2, 1, 1, 3))
        return np.round(127.5 + 120 * np.sin(across * xs + down * ys + phase)).astype(np.uint8)

    return {"source": wave(), "target": wave()}
