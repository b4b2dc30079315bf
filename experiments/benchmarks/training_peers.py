"""Images a second of a training step here and in PyTorch, on one device, in turns.

    python -m experiments.benchmarks.training_peers --output=training.json

Meant for an NVIDIA GPU that both frameworks see. The networks, losses and optimisers of the default
paired and cycle experiments: in jax the package's own step, jitted, its state donated; in PyTorch
the same written in ``peers/training.py``, channels last, under autocast, the networks compiled by
``torch.compile``. The gradient penalty of cycle training, which is differentiated twice, cannot be
compiled by it and runs eagerly. Image pool and augmentations, which draw random numbers, are off in
both. PyTorch reports the losses only; jax also the norms and statistics of its own log.

First of all both take the same steps from the same parameters in float32, small and on the CPU, and
what differs is printed: they must be the same computation. Without a GPU that is all, unless
``--any_device`` asks for a measurement in float32. What ``torch.compile`` makes of the networks is
compared with what they are on the very device, and where its gradients are others PyTorch is
measured without it; ``--nocompile`` does without it from the start.
"""

import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import torch
from absl import app, flags

from experiments import base
from experiments.benchmarks import measure
from experiments.benchmarks.peers import agreement
from experiments.benchmarks.peers.training import step_of, without_randomness
from warp_translate.experiment import build

_SIZE = flags.DEFINE_integer("size", 256, "Side of the images in pixels.")
_BATCH = flags.DEFINE_integer("batch", 8, "Examples of each domain.")
_REPEATS = flags.DEFINE_integer("repeats", 15, "Turns that are timed.")
_STEPS = flags.DEFINE_integer("steps", 8, "Steps of a turn; the penalty falls into every fourth.")
_KINDS = flags.DEFINE_list("kinds", ["paired", "cycle"], "Kinds of training.")
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "Of the computation.")
_WIDTH = flags.DEFINE_integer("width", None, "Channels of both networks' first layers.")
_BLOCKS = flags.DEFINE_integer("blocks", None, "Residual blocks.")
_ANY_DEVICE = flags.DEFINE_bool("any_device", False, "Measure on a CPU too, in float32.")
_COMPILE = flags.DEFINE_bool("compile", True, "Whether PyTorch compiles the networks.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the table.")

_AT_LEAST = 1.3
_APART = 1e-4
# Of gradients as torch compiles them: rounding, not zeros.
_COMPILED_APART = {"float32": 1e-2, "bfloat16": 0.3}
_RECOMPILATIONS = 64  # For two scales, two networks, with and without gradients, nothing eager.


def main(argv: Sequence[str]) -> None:
    """Compares, measures and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"flags only, got {argv[1:]}")
    # Both frameworks share the card: jax would take three quarters of its memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    on_gpu = torch.cuda.is_available() and jax.default_backend() == "gpu"
    same = {kind: agreement_of(kind) for kind in _KINDS.value}
    rows = []
    if on_gpu or _ANY_DEVICE.value:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # What jax allows itself on these cards.
        torch.backends.cudnn.allow_tf32 = True
        if not on_gpu:
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        rows = [_measured(kind, on_gpu) for kind in _KINDS.value]
    else:
        print(
            f"not measured: PyTorch {'sees' if torch.cuda.is_available() else 'sees no'} CUDA "
            f"device and jax runs on {jax.default_backend()}; both need an NVIDIA GPU "
            "(--any_device measures on this one)"
        )
    found = {row["training"]: row["images/s / torch"][0] for row in rows}
    goals = [
        measure.goal(
            f"{kind} training, images a second / PyTorch's",
            found.get(kind),
            _AT_LEAST,
            at_least=True,
        )
        for kind in _KINDS.value
    ]
    about = measure.environment(
        "torch",
        torch_device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        size=_SIZE.value,
        batch=_BATCH.value,
        steps=_STEPS.value,
        repeats=_REPEATS.value,
        dtype=_dtype(on_gpu),
        differences=same,
    )
    measure.publish(about, rows, _OUTPUT.value, goals)


def agreement_of(kind: str) -> dict[str, float]:
    """Compares the two steps in float32, small, on the CPU.

    Args:
      kind: "paired" or "cycle".

    Returns:
      The largest relative differences, see `agreement.differences`.

    Raises:
      app.UsageError: they are not the same computation.
    """
    with jax.default_device(jax.devices("cpu")[0]):
        found = agreement.differences(agreement.small(kind))
    if max(found.values()) > _APART:
        raise app.UsageError(f"the {kind} steps of jax and torch are not the same: {found}")
    return found


def _dtype(on_gpu: bool) -> str:
    return str(_DTYPE.value) if on_gpu else "float32"


def _config(kind: str, on_gpu: bool) -> ml_collections.ConfigDict:
    config = without_randomness(base.get_config(kind))
    config.data.size = _SIZE.value
    config.generator.dtype = config.discriminator.dtype = _dtype(on_gpu)
    if _WIDTH.value is not None:
        config.generator.width = config.discriminator.width = _WIDTH.value
    if _BLOCKS.value is not None:
        config.generator.blocks = _BLOCKS.value
    return config


def _measured(kind: str, on_gpu: bool) -> dict[str, Any]:
    config = _config(kind, on_gpu)
    training, root = build.generator_training(config), build.root_key(config)
    state = build.initial_state(training, config)
    rng = np.random.default_rng(0)
    shape = (_BATCH.value, _SIZE.value, _SIZE.value, 3)
    batch = {name: rng.integers(0, 256, shape, np.uint8) for name in ("source", "target")}
    # First: the state is donated below.
    compiled = _COMPILE.value and _keeps_gradients(kind, config, state, batch, on_gpu)
    theirs = _theirs(config, state, batch, on_gpu, compiled)
    ours = _ours(training, state, batch, root)
    seconds = measure.take_turns(
        {"jax": ours, "torch": theirs}, _REPEATS.value, title=f"{kind} training"
    )
    images = _BATCH.value * _STEPS.value
    return {
        "training": kind,
        "torch.compile": compiled,
        "jax images/s here": images / statistics.median(seconds["jax"]),
        "torch images/s here": images / statistics.median(seconds["torch"]),
        # Of the same work the rates' ratio is that of the times turned round.
        "images/s / torch": measure.ratio(seconds["torch"], seconds["jax"]),
    }


def _keeps_gradients(
    kind: str,
    config: ml_collections.ConfigDict,
    state: Any,
    batch: dict[str, np.ndarray],
    on_gpu: bool,
) -> bool:
    torch._dynamo.config.recompile_limit = _RECOMPILATIONS
    dtype = _dtype(on_gpu)
    apart = agreement.compiled_difference(
        config,
        agreement.moved(state),
        batch,
        "cuda" if on_gpu else "cpu",
        bfloat16=dtype == "bfloat16",
    )
    kept = apart <= _COMPILED_APART[dtype]
    verdict = "which will do" if kept else "PyTorch is measured without it"
    print(f"{kind}: gradients under torch.compile differ by {apart:.3g}: {verdict}")
    return kept


def _ours(
    training: Any, state: Any, batch: dict[str, np.ndarray], root: jax.Array
) -> Callable[[], Any]:
    placed = jax.device_put(batch)
    compiled = jax.jit(training.step, donate_argnums=0).lower(state, placed, root).compile()
    holder = [state]

    def run() -> Any:
        for _ in range(_STEPS.value):
            holder[0], metrics = compiled(holder[0], placed, root)
        return metrics

    return run


def _theirs(
    config: ml_collections.ConfigDict,
    state: Any,
    batch: dict[str, np.ndarray],
    on_gpu: bool,
    compiled: bool,
) -> Callable[[], None]:
    device = "cuda" if on_gpu else "cpu"
    training = step_of(
        config, state, device, compiled=compiled, bfloat16=_dtype(on_gpu) == "bfloat16"
    )
    placed = {name: torch.tensor(images, device=device) for name, images in batch.items()}

    def run() -> None:
        for _ in range(_STEPS.value):
            training.step(placed)
        if on_gpu:
            torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    app.run(main)
