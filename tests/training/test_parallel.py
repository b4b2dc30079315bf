import jax
import numpy as np
import optax
import pytest

from warp_translate.errors import UserError
from warp_translate.ops.augment import Augmentation
from warp_translate.training import parallel

ROOT = jax.random.key(0)


def mapped(training, devices):
    """Returns a function that trains a state on some batches."""
    step = parallel.pmap_step(training.step, training.axes, devices)

    def train(state, batches):
        state = parallel.replicate(jax.device_get(state), training.axes, devices)
        for batch in batches:
            state, metrics = step(state, parallel.shard_batch(batch, len(devices)), ROOT)
        return state, metrics

    return train


LOSSES = {
    "smoothness_first": 0.1,
    "mask_band": 1.0,
    "mask_low": 0.6,
    "feature_matching": 1.0,
}
ADVERSARY = {"loss": "relativistic", "r1": 1.0, "augmentation": Augmentation(translation=0.25)}


def test_eight_devices_take_the_step_of_one_device(tiny, start, shake, draw_batch):
    """SGD, not Adam: Adam would hide gradients that are a constant factor too large."""
    training = tiny(LOSSES, ADVERSARY)
    state, batches = start(training), [draw_batch(0)]
    # At the start the warped original equals the truth in some pixels, and rounding decides the
    # sign of their L1.
    generator = state.generator.replace(params=shake(state.generator.params))
    state = state.replace(generator=generator)
    train_one, train_eight = (mapped(training, jax.devices()[:count]) for count in (1, 8))
    one, one_metrics = train_one(state, batches)
    eight, eight_metrics = train_eight(state, batches)
    steps = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), state.generator, one.generator)
    assert max(jax.tree.leaves(steps.params)) > 1e-3
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name in one_metrics:
        np.testing.assert_allclose(one_metrics[name], eight_metrics[name], atol=2e-5, err_msg=name)

    # Another step draws another augmentation.
    _, later_metrics = train_eight(state.replace(step=np.int32(1)), batches)
    name = "discriminator/probability_real"
    assert abs(later_metrics[name] - eight_metrics[name]) > 1e-4


def test_no_replica_drifts_over_twenty_adam_steps(tiny, start, draw_batch):
    training = tiny(
        LOSSES,
        ADVERSARY | {"optimizer": optax.adam(1e-3)},
        generator_optimizer=optax.adam(1e-3),
    )
    train = mapped(training, jax.devices()[:8])
    state, _ = train(start(training), map(draw_batch, range(20)))
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


@pytest.mark.parametrize("count", [1, 4])
def test_parts_of_the_state_go_to_their_devices_and_come_back(count):
    """What is shared stays as it is, and every device reads its own part of what is not."""
    tree = {
        "shared": np.arange(3.0, dtype=np.float32),
        "own": {"x": np.arange(2), "n": np.int32(5)},
    }
    axes, devices = {"shared": None, "own": 0}, jax.devices()[:count]
    state = parallel.expand(jax.tree.map(np.asarray, tree), axes, count)
    assert jax.tree.map(np.shape, state) == {
        "shared": (3,),
        "own": {"x": (count, 2), "n": (count,)},
    }

    def step(state, batch, root, axis_name):
        own = {"x": state["own"]["x"] + batch["number"].sum(), "n": state["own"]["n"] + 1}
        mean = parallel.mean_over_devices(batch["number"].mean(), axis_name)
        return {"shared": state["shared"] + mean, "own": own}, {"mean": mean}

    mapped_step = parallel.pmap_step(step, axes, devices)
    numbers = np.arange(2 * count)
    placed = parallel.replicate(state, axes, devices)
    for _ in range(2):
        placed, _ = mapped_step(placed, parallel.shard_batch({"number": numbers}, count), ROOT)
    back = parallel.unreplicate(placed)
    np.testing.assert_array_equal(back["shared"], np.arange(3) + 2 * numbers.mean())
    np.testing.assert_array_equal(back["own"]["n"], [7] * count)
    added = 2 * numbers.reshape(count, 2).sum(1)
    np.testing.assert_array_equal(back["own"]["x"], np.arange(2) + added[:, None])


def test_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(UserError, match=r"batch of 6 .* 4 devices"):
        parallel.shard_batch({"source": np.zeros((6, 1))}, 4)
