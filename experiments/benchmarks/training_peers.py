"""Images per second of training steps, compared with the same steps in PyTorch.

    python -m experiments.benchmarks.training_peers --output=training.json

For an NVIDIA GPU that both frameworks see. Networks, losses and optimizers are those of the default
paired and cycle experiments: in jax the package's own step, jitted, with a donated state; in
PyTorch the step of ``peers/training.py``, channels last, under autocast, the networks compiled by
``torch.compile``. The gradient penalty is differentiated twice, which torch.compile cannot do; it
runs eagerly. Image pool and augmentations are off in both. PyTorch returns the losses only, jax
also the norms and statistics of its log.

First both take the same steps from the same parameters, small and in float32 on the CPU; the
benchmark fails unless they agree. Without a GPU it ends there, unless ``--any_device`` is given,
which measures in float32. The gradients of the compiled PyTorch networks are compared with the
eager ones on the device, and where they differ PyTorch runs eagerly, as with ``--nocompile``.
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
import torch
from absl import app, flags

from experiments import base
from experiments.benchmarks import measure
from experiments.benchmarks.peers import agreement
from experiments.benchmarks.peers.training import comparable, make_step
from warp_translate.experiment import build

_SIZE = flags.DEFINE_integer("size", 256, "Side of the images in pixels.")
_BATCH = flags.DEFINE_integer("batch", 8, "Examples of each domain.")
_STEPS = flags.DEFINE_integer("steps", 8, "Steps of a round; every fourth has the penalty.")
_KINDS = flags.DEFINE_list("kinds", ["paired", "cycle"], "Comma-separated kinds of training.")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "Dtype on a GPU.")
_WIDTH = flags.DEFINE_integer("width", None, "Channels of both networks' first layers.")
_BLOCKS = flags.DEFINE_integer("blocks", None, "Residual blocks.")
_ANY_DEVICE = flags.DEFINE_bool("any_device", False, "Measure on a CPU too, in float32.")
_COMPILE = flags.DEFINE_bool("compile", True, "Compile PyTorch's networks.")

_AT_LEAST = 1.3  # Goal: images per second as a share of PyTorch's.
_APART = 1e-4
_COMPILED_APART = {"float32": 1e-2, "bfloat16": 0.3}  # Rounding, not missing gradients.


def benchmark(repeats: int) -> measure.Table:
    """Compares the steps, then times them."""
    on_gpu = measure.share_gpu()
    device, dtype = ("cuda", _DTYPE.value) if on_gpu else ("cpu", "float32")
    same = {kind: _agreement(kind) for kind in _KINDS.value}
    rows = []
    if on_gpu or _ANY_DEVICE.value:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # Like jax on these GPUs.
        torch.backends.cudnn.allow_tf32 = True
        torch._dynamo.config.recompile_limit = 64  # Two scales, networks, with and without grad.
        rows = [_row(kind, device, dtype, repeats) for kind in _KINDS.value]
    found = {row["training"]: row["images/s / torch"][0] for row in rows}
    goals = [
        measure.goal(
            f"{kind} training, images/s / torch", found.get(kind), _AT_LEAST, at_least=True
        )
        for kind in _KINDS.value
    ]
    notes = {"torch_device": measure.torch_device(), "dtype": dtype, "differences": same}
    return measure.Table(rows, ["torch"], notes, goals)


def _agreement(kind: str) -> dict[str, float]:
    """Returns the relative differences of small steps on the CPU, which must be below 1e-4."""
    with jax.default_device(jax.devices("cpu")[0]):
        found = agreement.differences(agreement.small(kind))
    if max(found.values()) > _APART:
        raise app.UsageError(f"the {kind} steps of jax and torch differ: {found}")
    return found


def _row(kind: str, device: str, dtype: str, repeats: int) -> dict[str, Any]:
    config = comparable(base.get_config(kind))
    config.data.size = _SIZE.value
    config.generator.dtype = config.discriminator.dtype = dtype
    if _WIDTH.value is not None:
        config.generator.width = config.discriminator.width = _WIDTH.value
    if _BLOCKS.value is not None:
        config.generator.blocks = _BLOCKS.value
    training, root = build.generator_training(config), build.root_key(config)
    state = build.initial_state(training, config)
    rng = np.random.default_rng(0)
    shape = (_BATCH.value, _SIZE.value, _SIZE.value, 3)
    batch = {name: rng.integers(0, 256, shape, np.uint8) for name in ("source", "target")}
    how = {"device": device, "bfloat16": dtype == "bfloat16"}
    compiled = False
    if _COMPILE.value:
        apart = agreement.compiled_difference(config, agreement.moved(state), batch, **how)
        compiled = apart <= _COMPILED_APART[dtype]
        print(f"{kind}: torch.compile changes the gradients by {apart:.3g}: used: {compiled}")
    # Theirs first: ours donates the state.
    theirs = _theirs(config, state, batch, compiled=compiled, **how)
    functions = {"jax": _ours(training, state, batch, root), "torch": theirs}
    seconds = measure.interleave(functions, repeats, title=f"{kind} training")
    images = _BATCH.value * _STEPS.value
    return {
        "training": kind,
        "torch.compile": compiled,
        **{f"{name} images/s": images / statistics.median(each) for name, each in seconds.items()},
        "images/s / torch": measure.ratio(seconds["torch"], seconds["jax"]),
    }


def _ours(
    training: Any, state: Any, batch: dict[str, np.ndarray], root: jax.Array
) -> Callable[[], Any]:
    placed = jax.device_put(batch)
    compiled = jax.jit(training.step, donate_argnums=0).lower(state, placed, root).compile()

    def run() -> Any:
        nonlocal state
        for _ in range(_STEPS.value):
            state, metrics = compiled(state, placed, root)
        return metrics

    return run


def _theirs(
    config: ml_collections.ConfigDict,
    state: Any,
    batch: dict[str, np.ndarray],
    *,
    device: str,
    **how: bool,
) -> Callable[[], None]:
    training = make_step(config, state, device, **how)
    placed = {name: torch.tensor(images, device=device) for name, images in batch.items()}

    def run() -> None:
        for _ in range(_STEPS.value):
            training.step(placed)

    return run


if __name__ == "__main__":
    measure.run(benchmark)
