import jax
import numpy as np

from warp_translate.training.rng import stream_key


def data(*args):
    return tuple(np.asarray(jax.random.key_data(stream_key(*args))).tolist())


def test_keys_depend_on_root_name_and_indices():
    root, other = jax.random.key(0), jax.random.key(1)
    calls = [(root, "a"), (root, "b"), (other, "a"), (root, "a", 0), (root, "a", 1)]
    calls += [(root, "a", 0, 1), (root, "a", 1, 0)]
    assert len({data(*call) for call in calls}) == len(calls)
    assert data(root, "a", 3) == data(jax.random.key(0), "a", 3)


def test_traced_indices_give_the_same_keys():
    root = jax.random.key(0)
    traced = jax.jit(lambda step: jax.random.key_data(stream_key(root, "a", step)))(5)
    assert tuple(np.asarray(traced).tolist()) == data(root, "a", 5)
