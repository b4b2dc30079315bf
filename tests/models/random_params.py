"""Random parameters, drawn by NumPy, since compiling ``init`` takes seconds."""

import jax
import jax.numpy as jnp
import numpy as np


def random_variables(module, *shapes, static=(), scale=0.3):
    """Random variables of a module for float32 inputs of some shapes; none is zero."""
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    variables = jax.eval_shape(
        lambda key, *inputs: module.init(key, *inputs, *static), jax.random.key(0), *inputs
    )
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(0, scale, x.shape).astype(np.float32), variables)


def random_params(generator):
    """Random parameters of a generator."""
    return random_variables(generator, (1, 8, 8, 3), (1, 8, 8, 3), static=(1,))["params"]
