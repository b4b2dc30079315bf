"""Whether the training steps in PyTorch are those of jax: the same state, batch and step, compared.

Both run in float32 on the CPU. The images are smooth and the displacement does not start at zero:
where a bilinear surface has a kink, at whole numbers, ``grid_sample`` and this package's warp may
take the slope at either side, and both would be right.
"""

from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import torch

from experiments import base
from experiments.benchmarks.peers import parameters
from experiments.benchmarks.peers.training import step_of, without_randomness
from warp_translate.experiment import build
from warp_translate.types import PyTree

_GENERATORS = ("generator", "a_to_b", "b_to_a")
# A gradient this much smaller than the largest of its network is rounding: that of a bias which a
# norm takes out again, for instance. Adam makes a whole step of it all the same.
_ROUNDING = 1e-6


def small(kind: str) -> ml_collections.ConfigDict:
    """The default experiment of a kind, "paired" or "cycle", with small networks and images."""
    config = base.get_config(kind)
    config.data.size = 32
    config.generator.update(width=8, blocks=1)
    config.discriminator.update(width=8, layers=1)
    return config


def moved(state: PyTree) -> PyTree:
    """The state with displacements that do not start at zero, fractions of a pixel and more."""
    for seed, name in enumerate(_GENERATORS):
        if hasattr(state, name):
            for params in (getattr(state, name).params, getattr(state, name).ema):
                head = params["displacement"]
                drawn = jax.random.normal(jax.random.key(seed), head["kernel"].shape)
                head["kernel"] = 0.02 * drawn
                head["bias"] = head["bias"] + np.array([0.013, -0.021], np.float32)
    return state


def smooth_batch(size: int, examples: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Waves by the names of the domains, uint8 ``[B, size, size, 3]``."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:size, :size][..., None] / size

    def wave() -> np.ndarray:
        across, down, phase = rng.uniform(1, 6, (3, examples, 1, 1, 3))
        return np.round(127.5 + 120 * np.sin(across * xs + down * ys + phase)).astype(np.uint8)

    return {"source": wave(), "target": wave()}


def differences(config: ml_collections.ConfigDict, steps: int = 1) -> dict[str, float]:
    """Takes steps in both frameworks and compares.

    Pool and augmentations, which are random, are off in both.

    Args:
      config: of paired or cycle training.
      steps: number of steps.

    Returns:
      The largest relative difference of the losses that are reported, over all steps; of the
      gradients of all leaves in the first step, by their norms; of the parameters after it, of
      their averages and of the vectors of the spectral norms.
    """
    config = without_randomness(config)
    training, root = build.generator_training(config), build.root_key(config)
    state = moved(build.initial_state(training, config))
    theirs = step_of(config, state, "cpu", compiled=False, bfloat16=False)
    step = jax.jit(training.step)
    worst: dict[str, float] = {"losses": 0.0}
    for number in range(steps):
        batch = smooth_batch(config.data.size, 2, seed=number)
        state, metrics = step(state, batch, root)
        found = theirs.step({name: torch.tensor(images) for name, images in batch.items()})
        for name, value in found.items():
            apart = abs(float(value) / float(metrics[name]) - 1)
            worst["losses"] = max(worst["losses"], apart)
        if number == 0:
            worst |= _of_networks(config, state, theirs.networks)
    return worst


def compiled_difference(
    config: ml_collections.ConfigDict,
    state: PyTree,
    batch: Mapping[str, np.ndarray],
    device: str,
    *,
    bfloat16: bool,
) -> float:
    """Whether ``torch.compile`` keeps the gradients, which is not to be taken for granted.

    Inductor of PyTorch 2.13 on CPUs returns zeros for all of the generator below its head.

    Args:
      config: of paired or cycle training, without randomness.
      state: a state of jax whose displacements do not start at zero.
      batch: as for a step.
      device: torch's name of it.
      bfloat16: whether the networks run under autocast.

    Returns:
      The largest relative difference, by norms, between the gradients of a network's leaves in a
      compiled and in an eager step.
    """
    placed = {name: torch.tensor(images, device=device) for name, images in batch.items()}
    steps = [
        step_of(config, state, device, compiled=compiled, bfloat16=bfloat16)
        for compiled in (False, True)
    ]
    for step in steps:
        step.step(placed)
    worst = 0.0
    for name, network in steps[0].networks.items():
        eager = [leaf.grad for leaf in network.module.parameters()]
        compiled = [leaf.grad for leaf in steps[1].networks[name].module.parameters()]
        norms = [float(torch.linalg.norm(gradient)) for gradient in eager]
        least = (1e-2 if bfloat16 else _ROUNDING) * max(norms)
        for one, other, norm in zip(eager, compiled, norms, strict=True):
            if norm >= least:
                worst = max(worst, float(torch.linalg.norm(one - other)) / norm)
    torch.compiler.reset()  # Or what is measured next would count as compiled again.
    return worst


def _of_networks(
    config: ml_collections.ConfigDict, state: Any, networks: Mapping[str, Any]
) -> dict[str, float]:
    worst = dict.fromkeys(("gradients", "parameters", "averages", "spectral"), 0.0)

    def compare(what: str, theirs: torch.Tensor, ours: torch.Tensor) -> None:
        apart = float(torch.linalg.norm(theirs.detach() - ours) / torch.linalg.norm(ours))
        worst[what] = max(worst[what], apart)

    for name, network in networks.items():
        found, module = getattr(state, name), network.module
        b1 = config.optim.b1 if name in _GENERATORS else config.optim.discriminator_b1
        # After one step Adam's first moment is the gradient times 1 - b1.
        moments = dict(parameters.by_name(found.opt_state[0].mu))
        after = dict(parameters.by_name(found.params))
        averages = dict(parameters.by_name(found.ema)) if name in _GENERATORS else {}
        least = _ROUNDING * max(float(torch.linalg.norm(each)) for each in moments.values())
        for (leaf, parameter), average in zip(module.named_parameters(), network.ema, strict=True):
            if torch.linalg.norm(moments[leaf]) < least:
                continue
            compare("gradients", parameter.grad, moments[leaf] / (1 - b1))
            compare("parameters", parameter, after[leaf])
            if averages:
                compare("averages", average, averages[leaf])
        for path, leaf in parameters.spectral_vectors(getattr(found, "spectral", {})):
            compare("spectral", module.get_buffer(path), leaf)
    return worst
