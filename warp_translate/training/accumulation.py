"""Gradient accumulation over microbatches, to save memory.

Every loss is a mean over examples that do not influence each other, so the mean over equal parts
is that of the batch, up to rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from warp_translate.types import Array, PyTree

Objective = Callable[[PyTree, PyTree, PyTree], tuple[Array, PyTree]]
"""Maps parameters, outputs and inputs to a loss and metrics."""


def mean_over_microbatches(
    function: Callable[[PyTree], PyTree], inputs: PyTree, count: int
) -> PyTree:
    """Averages a function over the parts of a batch.

    Args:
      function: maps a part of the inputs to a tree of floats.
      inputs: a tree of ``[B, ...]``; ``count`` divides ``B``.
      count: number of parts.
    """
    if count == 1:
        return function(inputs)
    first, rest = _first_and_rest(inputs, count)

    def add(total: PyTree, part: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    total, _ = lax.scan(add, function(first), rest)
    return jax.tree.map(lambda value: value / count, total)


def forward(
    function: Callable[[PyTree, PyTree], PyTree],
    params: PyTree,
    inputs: PyTree,
    count: int,
    *,
    shown: Callable[[PyTree], PyTree],
) -> tuple[PyTree, Callable[[Objective], tuple[PyTree, PyTree]]]:
    """Runs a generator over a batch, and returns a function for the gradient of a loss.

    In between, discriminators are updated. With one part the generator runs once: the gradient
    with respect to its outputs is pulled back through that run. With several parts it runs again
    for each, so that only the activations of one part are in memory.

    Args:
      function: maps parameters and a part of the inputs to outputs, a tree of ``[b, ...]``.
      params: the parameters.
      inputs: a tree of ``[B, ...]``; ``count`` divides ``B``.
      count: number of parts.
      shown: selects the outputs that are returned.

    Returns:
      The selected outputs of the whole batch, and a function that maps an `Objective` to the mean
      gradient with respect to the parameters and the mean metrics.
    """

    def back_through(
        objective: Objective, made: PyTree, pull: Callable[[PyTree], Any], part: PyTree
    ) -> tuple[PyTree, PyTree]:
        (direct, cotangent), reports = jax.grad(objective, (0, 1), has_aux=True)(params, made, part)
        (through,) = pull(cotangent)
        return jax.tree.map(jnp.add, through, direct), reports

    if count == 1:
        made, pull = jax.vjp(lambda params: function(params, inputs), params)
        return shown(made), lambda objective: back_through(objective, made, pull, inputs)

    seen = lax.map(lambda part: shown(function(params, part)), _parts(inputs, count))
    whole = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), seen)

    def back(objective: Objective) -> tuple[PyTree, PyTree]:
        def one(part: PyTree) -> tuple[PyTree, PyTree]:
            made, pull = jax.vjp(lambda params: function(params, part), params)
            return back_through(objective, made, pull, part)

        return mean_over_microbatches(one, inputs, count)

    return whole, back


def _parts(inputs: PyTree, count: int) -> PyTree:
    return jax.tree.map(
        lambda leaf: leaf.reshape(count, leaf.shape[0] // count, *leaf.shape[1:]), inputs
    )


def _first_and_rest(inputs: PyTree, count: int) -> tuple[PyTree, PyTree]:
    parts = _parts(inputs, count)
    return jax.tree.map(lambda leaf: leaf[0], parts), jax.tree.map(lambda leaf: leaf[1:], parts)
