import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from warp_translate.losses import adversarial
from warp_translate.losses.contrastive import patch_contrast
from warp_translate.models import translate
from warp_translate.models.generator import encode
from warp_translate.models.projection import PatchProjection
from warp_translate.ops import box_downsample
from warp_translate.training.contrastive_step import ContrastiveLosses, ContrastiveTraining, _draw
from warp_translate.training.parallel import Replicas
from warp_translate.types import to_float

ROOT = jax.random.key(0)
WEIGHTS = {
    "adversarial": 1.5,
    "adversarial_pretranslated": 0.5,
    # Where the output is the target, rounding decides the sign; tests of the cycle step cover it.
    "identity": 0.0,
    "identity_pretranslated": 0.0,
    "contrast": 1.2,
    "contrast_identity": 0.6,
    "temperature": 1.0,  # A lower one makes slopes so steep that rounding shows.
    # As many as the reduced image has pixels: all places are compared, in whatever order.
    "patches": 64,
}


@pytest.fixture(scope="module")
def training(tiny_cycle):
    parts = tiny_cycle()
    own = {
        "losses": ContrastiveLosses(**WEIGHTS),
        "projection": PatchProjection(width=32),
        "projection_optimizer": optax.sgd(0.1),
    }
    names = {field.name for field in dataclasses.fields(ContrastiveTraining)} - set(own)
    return ContrastiveTraining(**own, **{name: getattr(parts, name) for name in names})


@pytest.fixture(scope="module")
def before(training, start, shake):
    state = start(training)
    # Off its start, where displacements are zero.
    return state.replace(a_to_b=state.a_to_b.replace(params=shake(state.a_to_b.params)))


@pytest.fixture(scope="module")
def stepped(training, before, draw_batch):
    return jax.jit(training.step)(before, draw_batch(0), ROOT)


@pytest.mark.core
def test_step_matches_explicit_updates(training, before, stepped, draw_batch):
    """The reference runs every network as often as it is mentioned."""
    after, metrics = stepped
    batch = draw_batch(0)
    a, b = to_float(batch["source"]), to_float(batch["target"])
    discriminator = training.adversary.discriminator

    def make(params, images):
        return translate(training.generator, params, images, 2)

    def judge(params, images):
        variables = {"params": params, "spectral": before.d_b.spectral}
        # The statistics advance in the discriminator's own loss, and only there.
        judged, changed = discriminator.apply(
            variables, images, update_stats=True, mutable=["spectral"]
        )
        return judged.logits[0], changed["spectral"]

    def discriminator_loss(params):
        real, _ = judge(params, b)
        fake, spectral = judge(params, make(before.a_to_b.params, a).output)
        return adversarial.discriminator_loss("least_squares", real, fake).mean(), spectral

    def contrast(params, projection, output, original):
        terms = []
        encoded = [
            encode(training.generator, params, box_downsample(x, 2)) for x in (output, original)
        ]
        everywhere = [
            jnp.tile(jnp.arange(layer.shape[1] * layer.shape[2]), (8, 1)) for layer in encoded[0]
        ]
        query, key = (
            training.projection.apply({"params": projection}, layers, everywhere)
            for layers in encoded
        )
        for q, k in zip(query, jax.lax.stop_gradient(key), strict=True):
            terms.append(patch_contrast(q, k, 1.0).mean())
        return sum(terms) / len(terms)

    def generator_loss(params, projection, critic, spectral):
        forth, same = make(params, a), make(params, b)
        total = 0.0
        for weight, images in ((1.5, forth.output), (0.5, forth.pretranslated)):
            variables = {"params": critic, "spectral": spectral}
            logits = discriminator.apply(variables, images).logits[0]
            total += weight * adversarial.generator_loss("least_squares", logits, logits).mean()
        total += 1.2 * contrast(params, projection, forth.output, a)
        return total + 0.6 * contrast(params, projection, same.output, b)

    def descend(params, gradient):
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)

    @jax.jit
    def reference(generator, projection, critic):
        gradient, spectral = jax.grad(discriminator_loss, has_aux=True)(critic)
        critic = descend(critic, gradient)
        value, gradients = jax.value_and_grad(generator_loss, (0, 1))(
            generator, projection, critic, spectral
        )
        return value, [*map(descend, (generator, projection), gradients), critic]

    names = ("a_to_b", "projection", "d_b")
    starts = [getattr(before, name).params for name in names]
    value, expected = reference(*starts)
    np.testing.assert_allclose(metrics["a_to_b/loss"], value, rtol=1e-4)
    for name, start, wanted in zip(names, starts, expected, strict=True):
        steps = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), wanted, start)
        assert max(jax.tree.leaves(steps)) > 1e-3
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=5e-4, atol=5e-4),
            getattr(after, name).params,
            wanted,
        )


def test_patches_are_drawn_without_repetition():
    first, second = (np.asarray(_draw(jax.random.key(seed), 100, 10)) for seed in (0, 1))
    assert len(set(first.tolist())) == 10 and first.min() >= 0 and first.max() < 100
    assert set(first.tolist()) != set(second.tolist())
    assert sorted(np.asarray(_draw(jax.random.key(0), 5, 10)).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.core
def test_eight_devices_match_one(training, before, stepped, draw_batch):
    after, metrics = stepped
    replicas = Replicas(training.axes)
    step = replicas.map(training.step)
    spread, spread_metrics = step(
        replicas.initial(before), replicas.place_batches([draw_batch(0)]), ROOT
    )
    for name in ("a_to_b", "projection", "d_b"):
        one = getattr(after, name).params
        many = getattr(spread, name).params
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=5e-4, atol=5e-4), one, many)
    np.testing.assert_allclose(spread_metrics["a_to_b/loss"], metrics["a_to_b/loss"], rtol=1e-4)
