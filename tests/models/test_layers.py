import jax
import numpy as np
import pytest
import torch
from torch.nn import functional

from warp_translate.models.layers import ReflectConv, pad


@pytest.mark.parametrize("amount", [0, 1, 3])
@pytest.mark.parametrize("shape", [(2, 7, 5, 3), (1, 4, 9, 2)])
def test_padding_equals_numpy_reflection(rng, shape, amount):
    features = rng.normal(0, 1, shape).astype(np.float32)
    widths = ((0, 0), (amount, amount), (amount, amount), (0, 0))
    np.testing.assert_array_equal(pad(features, amount), np.pad(features, widths, mode="reflect"))


@pytest.mark.parametrize(
    ("height", "width", "modes"),
    [(3, 8, ("edge", "reflect")), (8, 2, ("reflect", "edge")), (1, 1, ("edge", "edge"))],
)
def test_short_side_repeats_its_border(rng, height, width, modes):
    features = rng.normal(0, 1, (1, height, width, 2)).astype(np.float32)
    expected = np.pad(features, ((0, 0), (3, 3), (0, 0), (0, 0)), mode=modes[0])
    expected = np.pad(expected, ((0, 0), (0, 0), (3, 3), (0, 0)), mode=modes[1])
    np.testing.assert_array_equal(pad(features, 3), expected)


@pytest.mark.parametrize(("border", "mode"), [("repeat", "edge"), ("zero", "constant")])
def test_other_borders_equal_numpy(rng, border, mode):
    features = rng.normal(0, 1, (1, 4, 2, 3)).astype(np.float32)
    expected = np.pad(features, ((0, 0), (3, 3), (3, 3), (0, 0)), mode=mode)
    np.testing.assert_array_equal(pad(features, 3, border), expected)


def test_layer_uses_its_border(rng):
    features = rng.normal(0, 1, (1, 5, 6, 3)).astype(np.float32)
    params = ReflectConv(4).init(jax.random.key(0), features)
    inner = ReflectConv(4).apply(params, np.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0))))
    zero = ReflectConv(4, border="zero").apply(params, features)
    np.testing.assert_allclose(zero, inner[:, 1:-1, 1:-1], atol=1e-5)
    with pytest.raises(ValueError, match=r"border must be one of .*'mirror'"):
        ReflectConv(4, border="mirror").apply(params, features)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(7, 1, 9), (3, 2, 8), (3, 2, 9), (3, 1, 1)])
def test_reflect_conv_equals_torch(rng, kernel, stride, size):
    features = rng.normal(0, 1, (2, size, size + 2, 3)).astype(np.float32)
    layer = ReflectConv(4, kernel=kernel, stride=stride)
    out, variables = layer.init_with_output(jax.random.key(0), features)
    conv = variables["params"]["conv"]
    padding = kernel // 2
    padded = np.pad(
        features,
        ((0, 0), (padding, padding), (padding, padding), (0, 0)),
        mode="edge" if size == 1 else "reflect",
    )
    if size == 1:  # Only the height is too short.
        padded = np.pad(features, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="edge")
        padded = np.pad(padded, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="reflect")
    expected = functional.conv2d(
        torch.tensor(padded).permute(0, 3, 1, 2),
        torch.tensor(np.asarray(conv["kernel"])).permute(3, 2, 0, 1),
        torch.tensor(np.asarray(conv["bias"])),
        stride=stride,
    ).permute(0, 2, 3, 1)
    assert out.shape == (2, -(-size // stride), -(-(size + 2) // stride), 4)
    np.testing.assert_allclose(out, expected, atol=1e-5)
