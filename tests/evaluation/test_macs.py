import math

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from warp_translate.evaluation import macs
from warp_translate.evaluation.macs import Macs
from warp_translate.ops.convolution import blocked_convolution


def shape(*sides, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sides, dtype)


def total(function, *args, **options):
    return macs.count(function, *args, **options).total


def conv(**options):
    names = ("NHWC", "HWIO", "NHWC")
    options = {"window_strides": (1, 1), "padding": "VALID"} | options
    return lambda x, k: lax.conv_general_dilated(x, k, dimension_numbers=names, **options)


@pytest.mark.parametrize(
    ("options", "image", "kernel", "expected"),
    [
        # Output 6 x 8, kernel 3 x 5, 4 channels to 7.
        ({}, (2, 8, 12, 4), (3, 5, 4, 7), 2 * 6 * 8 * 15 * 4 * 7),
        # Padding is counted: the output has the size of the input.
        ({"padding": "SAME"}, (1, 8, 12, 4), (3, 3, 4, 7), 8 * 12 * 9 * 4 * 7),
        # (9 - 3) // 2 + 1 = 4 and (8 - 3) // 3 + 1 = 2 positions.
        ({"window_strides": (2, 3)}, (1, 9, 8, 5), (3, 3, 5, 6), 4 * 2 * 9 * 5 * 6),
        # A kernel of 3 with gaps spans 5.
        ({"rhs_dilation": (2, 2)}, (1, 9, 10, 2), (3, 3, 2, 3), 5 * 6 * 9 * 2 * 3),
        # Each of 4 groups maps 2 channels to 3.
        ({"feature_group_count": 4}, (1, 5, 5, 8), (3, 3, 2, 12), 9 * 9 * 2 * 12),
        # Depthwise.
        ({"feature_group_count": 8}, (1, 5, 5, 8), (3, 3, 1, 8), 9 * 9 * 8),
        # Groups of the batch: 2 images of 3 channels give one of 4 channels, 2 of each image.
        ({"batch_group_count": 2}, (2, 5, 5, 3), (3, 3, 3, 4), 9 * 9 * 3 * 4),
        # Transposed, at its output: 2 * 4 - 1 + 2 * 2 - 2 = 9 positions a side.
        (
            {"lhs_dilation": (2, 2), "padding": ((2, 2), (2, 2))},
            *((1, 4, 4, 3), (3, 3, 3, 5), 9 * 9 * 9 * 3 * 5),
        ),
    ],
)
def test_count_of_convolutions(options, image, kernel, expected):
    assert total(conv(**options), shape(*image), shape(*kernel)) == Macs(products=expected)


def test_count_is_independent_of_the_layout():
    function = lambda x, k: lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW")
    )
    assert total(function, shape(1, 4, 8, 12), shape(7, 4, 3, 5)).products == 6 * 8 * 15 * 4 * 7


@pytest.mark.parametrize(
    ("formula", "sides", "expected"),
    [
        ("ij,jk->ik", ((5, 7), (7, 11)), 5 * 7 * 11),
        ("i,i->", ((9,), (9,)), 9),
        ("bij,bjk->bik", ((3, 5, 7), (3, 7, 11)), 3 * 5 * 7 * 11),
        ("bhwc,cd->bhwd", ((2, 4, 6, 3), (3, 8)), 2 * 4 * 6 * 3 * 8),
        ("ijk,kjl->il", ((2, 3, 5), (5, 3, 7)), 2 * 3 * 5 * 7),
    ],
)
def test_count_of_products(formula, sides, expected):
    function = lambda a, b: jnp.einsum(formula, a, b)  # noqa: E731
    assert total(function, *(shape(*each) for each in sides)) == Macs(products=expected)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x * 2.0, 12),
        (lambda x: 1.0 / x, 12),
        (lambda x: x**3, 12),
        (jnp.tanh, 12),
        (lambda x: x * x.sum(), 12),
        (jnp.prod, 12),
        # Additions, comparisons, rounding, selections, moves and integers count zero.
        (lambda x: x + 1.0 - x, 0),
        (lambda x: jnp.maximum(x, 0.0), 0),
        (lambda x: jnp.where(x > 0, jnp.round(x), -x), 0),
        (lambda x: jnp.pad(x.T[::-1], 1), 0),
        (lambda x: x[jnp.array([2, 0, 1])], 0),
        (lambda x: x.sum(0) + x.max(), 0),
        (lambda x: x.astype(jnp.int32) * 3, 0),
    ],
)
def test_count_of_elementwise_operations(function, expected):
    assert total(function, shape(3, 4)) == Macs(elementwise=expected)


def test_scan_counts_its_iterations():
    def outer(x, kernel):
        def inner(carry, _):
            return carry @ kernel, None

        def step(carry, _):
            return 2.0 * lax.scan(inner, carry, length=5)[0], None

        return lax.scan(step, x, length=3)[0]

    assert total(outer, shape(4, 8), shape(8, 8)) == Macs(15 * 4 * 8 * 8, 3 * 4 * 8)
    assert total(lambda x: lax.map(jnp.tanh, x), shape(6, 2)) == Macs(elementwise=12)
    assert total(lambda x: lax.fori_loop(0, 7, lambda _, c: c * x, x), shape(3)).total == 7 * 3


def test_loop_of_unknown_length_counts_once_and_is_reported():
    function = lambda x: lax.while_loop(lambda c: c.sum() < 9.0, lambda c: c * 2.0, x)  # noqa: E731
    counted = macs.count(lambda x: function(function(x)), shape(5))
    assert counted.total == Macs(elementwise=10) and counted.open_loops == 2
    assert macs.count(jax.jit(function), shape(5)).open_loops == 1
    assert macs.count(jnp.tanh, shape(5)).open_loops == 0


def test_most_expensive_branch_counts():
    function = lambda x: lax.cond(  # noqa: E731
        x[0, 0] > 0, lambda x: x @ x, lambda x: x * 2.0, x
    )
    assert total(function, shape(6, 6)) == Macs(products=216)


def test_platform_selects_its_branch_or_the_default():
    def function(x):
        return lax.platform_dependent(
            x, cpu=jnp.tanh, tpu=lambda x: x @ x, default=lambda x: x * x * x
        )

    assert total(function, shape(3, 3)) == Macs(elementwise=9)
    assert total(function, shape(3, 3), platform="tpu") == Macs(products=27)
    assert total(function, shape(3, 3), platform="cuda") == Macs(elementwise=18)
    # On CPUs, the stem runs on blocks of 2 x 2 pixels: a 4 x 4 kernel of 12 channels makes 3 x 4
    # blocks of four times eight.
    args = shape(1, 12, 13, 3), shape(7, 7, 3, 8)
    for platform in ("cuda", "none"):
        assert total(blocked_convolution, *args, platform=platform).products == 6 * 7 * 49 * 3 * 8
    by_blocks = total(blocked_convolution, *args, platform="cpu").products
    assert by_blocks == 3 * 4 * 16 * 12 * 4 * 8


@jax.custom_vjp
def doubled(x):
    return 2.0 * x


doubled.defvjp(lambda x: (2.0 * x, None), lambda _, cotangent: (2.0 * cotangent,))


def test_inner_programs_count():
    assert total(jax.jit(lambda x: jax.jit(jnp.tanh)(x) * 2.0), shape(4)).total == 8
    assert total(doubled, shape(4)).total == 4
    assert total(jax.checkpoint(lambda x: 2.0 * x), shape(4)).total == 4
    assert total(jax.nn.relu, shape(4)).total == 0  # A custom_jvp_call.
    assert total(jax.grad(lambda x: jnp.tanh(x).sum()), shape(4)).total > 0


def test_names_include_all_enclosing_scopes():
    @jax.jit
    def inner(x):
        with jax.named_scope("third"):
            return lax.scan(lambda c, _: (c * 2.0, None), x, length=3)[0]

    def function(x):
        with jax.named_scope("first"):
            x = x * 2.0
            with jax.named_scope("second"):
                x = inner(x)
        return x * x

    assert macs.count(function, shape(5)).by_names == {
        ("first",): Macs(elementwise=5),
        ("first", "second", "third"): Macs(elementwise=15),
        (): Macs(elementwise=5),
    }


def test_dead_code_counts_zero():
    def two(x):
        return x @ x, jnp.tanh(x)

    assert total(lambda x: two(x)[1], shape(4, 4)) == Macs(elementwise=16)
    assert total(lambda x: jax.jit(two)(x)[1], shape(4, 4)) == Macs(elementwise=16)
    assert total(two, shape(4, 4)) == Macs(64, 16)


def test_unknown_inner_program_is_an_error():
    def solved(x):
        return lax.custom_linear_solve(lambda y: 3.0 * y, x, lambda f, y: y / 3.0, symmetric=True)

    with pytest.raises(ValueError, match=r"the operation \w*linear_solve contains a program"):
        macs.count(solved, shape(4))


def test_count_of_products_agrees_with_the_compiler():

    def function(x, k, w):
        return conv()(x, k).reshape(-1, 16) @ w

    args = shape(2, 18, 18, 8), shape(3, 3, 8, 16), shape(16, 32)
    expected = jax.jit(function).lower(*args).compile().cost_analysis()["flops"] / 2
    assert total(function, *args).total == pytest.approx(expected, rel=1e-3)
    assert math.prod((2, 16, 16)) * (9 * 8 * 16 + 16 * 32) == total(function, *args).total
