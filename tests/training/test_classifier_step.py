"""Training on three colors as domains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from warp_translate.models import DomainClassifier
from warp_translate.ops.ood_images import scramble
from warp_translate.training.classifier_step import ClassifierTraining
from warp_translate.training.parallel import Replicas

ROOT = jax.random.key(0)
SIZE = 16


def training(**fields):
    return ClassifierTraining(
        classifier=DomainClassifier(domains=3, width=8, stages=2),
        **{"optimizer": optax.sgd(0.1), **fields},
    )


def batch(rng, count=8):
    """Noise with one strong channel: red, green, blue."""
    images = rng.integers(0, 100, (count, 3, SIZE, SIZE, 3), dtype=np.uint8)
    for domain in range(3):
        images[:, domain, :, :, domain] += 150
    return {"images": images}


def start(made):
    return jax.jit(made.init, static_argnums=1)(ROOT, SIZE)


def test_it_learns_domains_and_is_uncertain_about_outliers(rng):
    made = training(optimizer=optax.adam(1e-2), ema_decay=0.9)
    state, step = start(made), jax.jit(made.step)
    for _ in range(80):
        state, metrics = step(state, batch(rng), ROOT)
    assert metrics["classifier/accuracy"] == 1.0
    assert {value.dtype for value in metrics.values()} == {jnp.dtype("float32")}
    probabilities = jax.jit(made.probabilities)
    seen = batch(rng)["images"] / np.float32(127.5) - 1
    for domain in range(3):
        found = probabilities(state.classifier.ema, seen[:, domain])
        np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-5)
        assert found[:, domain].min() > 0.8
    pieces = jax.vmap(scramble)(jax.random.split(ROOT, 8), seen)
    assert probabilities(state.classifier.ema, pieces).max(1).mean() < 0.7


@pytest.fixture(scope="module")
def whole():
    """A training, its first state, a batch, and the step that it takes."""
    made, shown = training(), batch(np.random.default_rng(0))
    state = start(made)
    return made, state, shown, jax.jit(made.step)(state, shown, ROOT)


def test_the_loss_includes_outliers(whole):
    made, state, shown, (after, metrics) = whole
    assert made.outliers == 0.5
    even = metrics["classifier/outliers"] + np.log(np.float32(3))
    np.testing.assert_allclose(
        metrics["classifier/loss"], metrics["classifier/cross_entropy"] + 0.5 * even, rtol=1e-5
    )
    assert metrics["classifier/outliers"] > 0  # Cross entropy against even shares is least there.

    # Without them it is cross entropy alone.
    without, metrics = jax.jit(training(outliers=0.0).step)(state, shown, ROOT)
    given = jax.jit(made.probabilities)(
        state.classifier.params, shown["images"].reshape(-1, SIZE, SIZE, 3) / np.float32(127.5) - 1
    )
    right = np.asarray(given)[np.arange(24), np.tile(np.arange(3), 8)]
    assert "classifier/outliers" not in metrics
    np.testing.assert_allclose(metrics["classifier/loss"], -np.log(right).mean(), rtol=1e-4)
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), after.classifier.params, without.classifier.params
    )
    assert max(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.parametrize("how", ["four devices", "two parts"])
def test_the_step_does_not_depend_on_how_a_batch_is_split(how, whole):
    made, state, shown, (expected, metrics) = whole
    if how == "two parts":
        found, other = jax.jit(training(microbatches=2).step)(state, shown, ROOT)
    else:
        replicas = Replicas(made.axes, tuple(jax.devices()[:4]), "shard_map")
        found, other = replicas.map(made.step)(
            replicas.initial(state), replicas.place_batches([shown]), ROOT
        )
        found = replicas.first_replica(found)
    moved = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), state.classifier.params, expected.classifier.params
    )
    assert max(jax.tree.leaves(moved)) > 1e-3
    for one, two in zip(
        jax.tree.leaves(expected.classifier), jax.tree.leaves(found.classifier), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["classifier/loss"], other["classifier/loss"], rtol=1e-5)


@pytest.mark.parametrize("size", [2, 18])
def test_an_invalid_size_is_refused(size):
    with pytest.raises(ValueError, match=rf"training size {size} must be a multiple of 4"):
        training().init(ROOT, size)
