"""Trainings so small that a step compiles in seconds."""

import resource
import signal

import jax
import numpy as np
import optax
import pytest

from warp_translate.models import Discriminator, Generator
from warp_translate.training.cycle_step import CycleLosses, CycleTraining
from warp_translate.training.discriminator_training import Adversary
from warp_translate.training.paired_step import PairedLosses, PairedTraining

SIZE = 16
WEIGHTS = {"l1_output": 1.0, "l1_pretranslated": 10.0, "l1_warped": 10.0, "pyramid_levels": 2}


def assert_equal(a, b):
    """Compares the leaves of two trees exactly."""
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def smallest(metrics):
    """A score for checkpoints."""
    return -metrics["l1"] if "l1" in metrics else None


def parts(adversary: dict | None, fields: dict) -> dict:
    """Arguments of both kinds of training, with overrides."""
    critic = {
        "discriminator": Discriminator(width=4, layers=1, scales=1, spectral_norm=True),
        "optimizer": optax.sgd(0.1),
        "loss": "least_squares",
        "penalty_every": 1,
    }
    return {
        "generator": Generator(width=4, blocks=0, max_displacement=4.0),
        "generator_optimizer": optax.sgd(0.1),
        "adversary": Adversary(**{**critic, **(adversary or {})}),
        **fields,
    }


@pytest.fixture(scope="session")
def tiny():
    """Returns a function that builds a tiny paired training; anything can be overridden."""

    def build(losses=None, adversary=None, **fields) -> PairedTraining:
        weights = PairedLosses(**(WEIGHTS | (losses or {})))
        return PairedTraining(losses=weights, **parts(adversary, fields))

    return build


@pytest.fixture(scope="session")
def tiny_cycle():
    """The same for cycle training, without a pool by default."""

    def build(losses=None, adversary=None, **fields) -> CycleTraining:
        weights = CycleLosses(**({"adversarial_pretranslated": 0.0} | (losses or {})))
        return CycleTraining(losses=weights, **parts(adversary, {"pool_size": 0, **fields}))

    return build


@pytest.fixture(scope="session")
def start():
    """Returns a function that draws the initial state of a training."""
    return lambda training: jax.jit(training.init, static_argnums=1)(jax.random.key(0), SIZE)


@pytest.fixture(scope="session")
def noisy_state():
    """Returns a function that fills the state of a training with noise, without compiling."""

    def fill(training):
        rng = np.random.default_rng(2)
        shapes = jax.eval_shape(lambda: training.init(jax.random.key(0), SIZE))
        return jax.tree.map(lambda x: rng.uniform(1, 9, x.shape).astype(x.dtype), shapes)

    return fill


@pytest.fixture(scope="session")
def shake():
    """Returns a function that changes every parameter, as initial displacements are zero."""

    def moved(params):
        rng = np.random.default_rng(1)
        return jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(x.dtype), params)

    return moved


@pytest.fixture(scope="session")
def draw_batch():
    """Returns a function that draws a batch of eight images of either domain, uint8."""

    def draw(seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        shape = (8, SIZE, SIZE, 3)
        return {name: rng.integers(0, 256, shape, np.uint8) for name in ("source", "target")}

    return draw


@pytest.fixture
def batch(draw_batch):
    return draw_batch(0)


@pytest.fixture
def full_disk():
    """Returns a function that limits the size of files in bytes; None removes the limit."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def switch(most):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits[0] if most is None else most, limits[1]))

    yield switch
    switch(None)
    signal.signal(signal.SIGXFSZ, handler)
