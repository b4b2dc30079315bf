import jax
import numpy as np
import optax
import pytest

from warp_translate.errors import UserError
from warp_translate.training import parallel

ROOT = jax.random.key(0)


def train(training, state, batches, devices):
    state = parallel.replicate(state, training.axes, devices)
    step = parallel.pmap_step(training.step, training.axes, devices)
    for batch in batches:
        state, metrics = step(state, parallel.shard_batch(batch, len(devices)), ROOT)
    return state, metrics


LOSSES = {
    "smoothness_first": 0.1,
    "mask_band": 1.0,
    "mask_low": 0.6,
    "feature_matching": 1.0,
    "r1": 1.0,
    "adversarial": "relativistic",
}


def test_eight_devices_take_the_step_of_one_device(tiny, rng):
    """SGD, not Adam: Adam would hide gradients that are a constant factor too large."""
    training = tiny(LOSSES)
    batches = batches_of(rng, 1)
    one, one_metrics = train(training, batches, jax.devices()[:1])
    eight, eight_metrics = train(training, batches, jax.devices()[:8])
    start = jax.jit(training.init, static_argnums=1)(jax.random.key(0), SIZE)
    steps = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), start.generator, one.generator)
    assert max(jax.tree.leaves(steps.params)) > 1e-3
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name in one_metrics:
        np.testing.assert_allclose(one_metrics[name], eight_metrics[name], atol=2e-5, err_msg=name)


def test_no_replica_drifts_over_twenty_adam_steps(tiny, rng):
    adam = {"generator_optimizer": optax.adam(1e-3), "discriminator_optimizer": optax.adam(1e-3)}
    state, _ = train(tiny(LOSSES, **adam), batches_of(rng, 20), jax.devices()[:8])
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        first = np.asarray(leaf.addressable_shards[0].data)
        assert len(leaf.addressable_shards) == 8
        for shard in leaf.addressable_shards[1:]:
            np.testing.assert_array_equal(first, shard.data, err_msg=str(path))


def test_unreplicate_gives_the_values_on_one_device():
    tree = {"a": np.arange(3.0, dtype=np.float32)}
    single = parallel.unreplicate(parallel.replicate(tree))
    np.testing.assert_array_equal(single["a"], tree["a"])
    assert single["a"].devices() == {jax.devices()[0]}


def test_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(UserError, match=r"batch of 6 .* 4 devices"):
        parallel.shard_batch({"source": np.zeros((6, 1))}, 4)
