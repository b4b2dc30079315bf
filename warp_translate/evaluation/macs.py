"""Counts the multiplications of a traced function by name scope.

Traces the function without compiling it, so the count needs no formula per network.

The convention:

- A convolution counts the kernel's positions times the input channels of a group for every position
  and channel of its output. Zeros of the padding count too, and a transposed convolution is counted
  at its output.
- A matrix product counts rows times columns times the summed dimension.
- Elementwise, a floating-point multiplication, division or function such as ``tanh`` counts one per
  element of the result. Additions, comparisons, selections, rounding, integers, gathers and data
  movement count zero.
- A scan counts its body for every iteration, a loop of unknown length once. A condition counts its
  most expensive branch, or that of the platform.
- Dead code counts zero, since the compiler removes it.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

Names = tuple[str, ...]
"""A name stack, outermost first: names of modules and of ``jax.named_scope``."""

_ONE_FOR_EACH_RESULT = frozenset(
    (
        *("mul", "div", "rem", "square", "integer_pow", "pow", "sqrt", "rsqrt", "cbrt"),
        *("exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh", "erf", "erfc", "erf_inv"),
        *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh"),
        *("asinh", "acosh", "atanh", "lgamma", "digamma"),
    )
)
_ONE_FOR_EACH_OPERAND = frozenset(("reduce_prod", "cumprod"))
# Equations that run their inner program once and return its results.
_CALLS = frozenset(
    (
        *("jit", "pjit", "closed_call", "core_call", "eval_jaxpr", "remat", "remat2"),
        *("checkpoint", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
    )
)
# Equations whose inner program combines two elements.
_COMBINERS = ("reduce", "scatter", "select_and_scatter")


@dataclasses.dataclass(frozen=True)
class Macs:
    """Multiply-accumulate operations.

    Attributes:
      products: of convolutions and matrix products.
      elementwise: of all other operations.
    """

    products: int = 0
    elementwise: int = 0

    @property
    def total(self) -> int:
        """The sum of both."""
        return self.products + self.elementwise

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(self.products + other.products, self.elementwise + other.elementwise)

    def __mul__(self, times: int) -> "Macs":
        return Macs(self.products * times, self.elementwise * times)


@dataclasses.dataclass(frozen=True)
class Counted:
    """The count of a function.

    Attributes:
      by_names: counts by name stack.
      open_loops: number of loops of unknown length, counted as if they ran once.
    """

    by_names: dict[Names, Macs]
    open_loops: int

    @property
    def total(self) -> Macs:
        """The sum over all names."""
        return sum(self.by_names.values(), Macs())


def count(function: Callable[..., Any], *args: Any, platform: str = "cpu") -> Counted:
    """Counts the multiply-accumulate operations of a function, by the convention of this file.

    Args:
      function: a function that ``jax.make_jaxpr`` accepts.
      *args: arrays or ``jax.ShapeDtypeStruct``.
      platform: selects the branch of ``jax.lax.platform_dependent``; the default without one.

    Returns:
      The count for the whole batch.

    Raises:
      ValueError: an unknown operation contains an inner program.
    """
    traced = _without_constants(jax.make_jaxpr(function)(*args))
    return _count(traced, (), [True] * len(traced.outvars), platform)


def _count(jaxpr: Jaxpr, outer: Names, wanted: Sequence[bool], platform: str) -> Counted:
    """Counts the equations that the wanted results depend on."""
    found: dict[Names, Macs] = collections.defaultdict(Macs)
    open_loops = 0
    needed = {
        var
        for var, is_wanted in zip(jaxpr.outvars, wanted, strict=True)
        if is_wanted and not isinstance(var, Literal)
    }
    for equation in reversed(jaxpr.eqns):
        results = [var in needed for var in equation.outvars]
        if not any(results) and not equation.effects:
            continue
        needed.update(var for var in equation.invars if not isinstance(var, Literal))
        # Names of an inner program are relative to its equation.
        names = (*outer, *re.findall(r"[\w.-]+", str(equation.source_info.name_stack)))
        own = _own(equation)
        if own.total:
            found[names] += own
        for inner, times in _inner(equation, names, results, platform):
            open_loops += inner.open_loops
            for inner_names, macs in inner.by_names.items():
                found[inner_names] += macs * times
        open_loops += equation.primitive.name == "while"
    return Counted(dict(found), open_loops)


def _own(equation: Any) -> Macs:
    """The count of an equation without its inner programs."""
    name = equation.primitive.name
    result: Any = equation.outvars[0].aval if equation.outvars else None
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        read = math.prod(kernel) // kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return Macs(products=result.size * read)
    if name == "dot_general":
        (summed, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return Macs(products=result.size * math.prod(left[axis] for axis in summed))
    if result is None or not jnp.issubdtype(getattr(result, "dtype", bool), jnp.inexact):
        return Macs()
    if name in _ONE_FOR_EACH_RESULT:
        return Macs(elementwise=result.size)
    if name in _ONE_FOR_EACH_OPERAND:
        return Macs(elementwise=equation.invars[0].aval.size)
    return Macs()


def _inner(
    equation: Any, names: Names, results: Sequence[bool], platform: str
) -> list[tuple[Counted, int]]:
    """The counts of the inner programs of an equation, with their multiplicities."""
    name, params = equation.primitive.name, equation.params

    def counted(closed: Any, wanted: Sequence[bool] | None = None) -> Counted:
        inner = _without_constants(closed)
        # A loop may need a carry that is not a result.
        return _count(inner, names, wanted or [True] * len(inner.outvars), platform)

    if name == "scan":
        return [(counted(params["jaxpr"]), params["length"])]
    if name == "while":
        return [(counted(params["cond_jaxpr"]), 1), (counted(params["body_jaxpr"]), 1)]
    if name == "cond":
        for place, of in enumerate(params.get("branches_platforms") or ()):
            if of is None or platform in of:  # None is the default, which is last.
                return [(counted(params["branches"][place], results), 1)]
        branches = [counted(branch, results) for branch in params["branches"]]
        return [(max(branches, key=lambda branch: branch.total.total), 1)]
    values = jax.tree.leaves(dict(params))  # Programs may be in tuples.
    programs = [value for value in values if isinstance(value, ClosedJaxpr | Jaxpr)]
    if name in _CALLS:
        return [(counted(program, results), 1) for program in programs]
    if programs and not name.startswith(_COMBINERS):
        raise ValueError(f"the operation {name} contains a program that cannot be counted")
    return []


def _without_constants(program: Any) -> Jaxpr:
    """The jaxpr of a closed one; in jax 0.11 both are the same."""
    return program if isinstance(program, Jaxpr) else program.jaxpr
