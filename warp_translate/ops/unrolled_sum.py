"""Sums written out term by term, since XLA:CPU is slow at reducing axes of a few numbers."""

import functools
import operator
from collections.abc import Iterable

from warp_translate.types import Array

UNROLLED_UP_TO = 8
"""Longest axis that is summed term by term."""


def add(terms: Iterable[Array]) -> Array:
    """Adds one or more arrays in their order."""
    return functools.reduce(operator.add, terms)


def dot(a: Array, b: Array) -> Array:
    """Sums ``a * b``, ``[..., C]`` each, over the last axis to ``[...]``."""
    if a.shape[-1] > UNROLLED_UP_TO:
        return (a * b).sum(-1)
    return add(a[..., channel] * b[..., channel] for channel in range(a.shape[-1]))
