"""Sums written out term by term, where XLA:CPU reduces an axis of a few numbers very slowly."""

import functools
import operator
from collections.abc import Iterable

from warp_translate.types import Array

UNROLLED_UP_TO = 8
"""Numbers of an axis that are added one by one."""


def add(terms: Iterable[Array]) -> Array:
    """Adds arrays of one shape, at least one, in their order."""
    return functools.reduce(operator.add, terms)


def dot(a: Array, b: Array) -> Array:
    """Sums ``a * b``, ``[..., C]`` each, over the last axis to ``[...]``."""
    if a.shape[-1] > UNROLLED_UP_TO:
        return (a * b).sum(-1)
    return add(a[..., channel] * b[..., channel] for channel in range(a.shape[-1]))
