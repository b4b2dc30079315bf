"""EfficientNet-Lite0 against PyTorch with the stored weights."""

import itertools
import math

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch.nn import functional

from warp_translate.evaluation import features, weights
from warp_translate.models import efficientnet_lite

# tensorflow/tpu, efficientnet_lite_builder.py: repeats, kernel, stride, expansion, in, out.
BLOCKS = [
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
]


def _blocks():
    """Yields kernel, stride, expansion, input and output width of each of the sixteen blocks."""
    for repeats, kernel, stride, expansion, into, out in BLOCKS:
        yield kernel, stride, expansion, into, out
        yield from itertools.repeat((kernel, 1, expansion, out, out), repeats - 1)


def _random_tensors(rng):
    tensors = {}

    def add(conv, norm, out, into, kernel):
        fan = into * kernel * kernel
        tensors[f"{conv}.weight"] = rng.normal(0, fan**-0.5, (out, into, kernel, kernel))
        tensors[f"{norm}.weight"] = rng.uniform(0.5, 1, out)
        tensors[f"{norm}.bias"] = rng.normal(0.5, 0.5, out)
        tensors[f"{norm}.running_mean"] = rng.normal(0, 0.3, out)
        # Small enough that the constant added to them shows.
        tensors[f"{norm}.running_var"] = rng.uniform(0.2, 1, out)
        tensors[f"{norm}.num_batches_tracked"] = np.int64(7)

    add("_conv_stem", "_bn0", 32, 3, 3)
    for i, (kernel, _, expansion, into, out) in enumerate(_blocks()):
        name, wide = f"_blocks.{i}", into * expansion
        if expansion > 1:
            add(f"{name}._expand_conv", f"{name}._bn0", wide, into, 1)
        add(f"{name}._depthwise_conv", f"{name}._bn1", wide, 1, kernel)
        add(f"{name}._project_conv", f"{name}._bn2", out, wide, 1)
    add("_conv_head", "_bn1", 1280, 320, 1)
    tensors["_fc.weight"] = rng.normal(0, 0.03, (1000, 1280))
    tensors["_fc.bias"] = rng.normal(0, 1, 1000)
    return {name: np.asarray(array, np.float32) for name, array in tensors.items()}


def _reference(tensors, images):
    """Features and logits in PyTorch."""
    *_, values = _reference_layers(tensors, torch.tensor(images))
    values = values.mean((2, 3))
    logits = values @ torch.tensor(tensors["_fc.weight"]).double().T
    logits = logits + torch.tensor(tensors["_fc.bias"]).double()
    return values.numpy(), logits.numpy()


def _reference_layers(tensors, images):
    """After the stem, each block and the head, with separate norms and TensorFlow's SAME."""
    tensors = {name: torch.tensor(array).double() for name, array in tensors.items()}

    def layer(values, conv, norm, stride=1, groups=1):
        weight = tensors[f"{conv}.weight"]
        pads = []
        for size in values.shape[:1:-1]:
            total = max((math.ceil(size / stride) - 1) * stride + weight.shape[-1] - size, 0)
            pads += [total // 2, total - total // 2]
        values = functional.conv2d(
            functional.pad(values, pads), weight, stride=stride, groups=groups
        )
        statistics = [
            tensors[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        ]
        return functional.batch_norm(values, *statistics, eps=1e-3)

    values = (images.double().permute(0, 3, 1, 2) - 127) / 128
    values = functional.relu6(layer(values, "_conv_stem", "_bn0", 2))
    layers = [values]
    for i, (_, stride, expansion, into, out) in enumerate(_blocks()):
        name, shortcut = f"_blocks.{i}", values
        if expansion > 1:
            values = functional.relu6(layer(values, f"{name}._expand_conv", f"{name}._bn0"))
        values = layer(
            values, f"{name}._depthwise_conv", f"{name}._bn1", stride, groups=values.shape[1]
        )
        values = layer(functional.relu6(values), f"{name}._project_conv", f"{name}._bn2")
        if stride == 1 and into == out:
            values = values + shortcut
        layers.append(values)
    return [*layers, functional.relu6(layer(values, "_conv_head", "_bn1"))]


@jax.jit
def _forward(params, images):
    pooled = efficientnet_lite.features(params, images)
    return pooled, efficientnet_lite.logits(params, pooled)


@pytest.fixture(scope="module")
def packaged():
    return weights.read_pth(features._packaged_weights(), features._PACKAGE_SHA256)


def test_packaged_weights_classify_photographs(packaged):
    def photograph(image):
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = Image.fromarray(image[top : top + side, left : left + side])
        return np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC), np.float32)

    images = np.stack([photograph(data.chelsea()), photograph(data.coffee())])
    got = _forward(efficientnet_lite.from_state_dict(packaged), images)
    for value, reference in zip(got, _reference(packaged, images), strict=True):
        np.testing.assert_allclose(value, reference, atol=1e-4)
    cat, cup = np.asarray(jax.nn.softmax(got[1]))
    assert cat[281:286].sum() > 0.8  # The five domestic cats of ImageNet.
    assert cup.argmax() == 967 and cup[967] > 0.9  # Espresso; less with another normalization.


# The stem and the last blocks of the stages with a stride.
TAPPED = (0, 3, 5, 8, 15)


def _assert_close(found, references):
    for value, reference in zip(found, references, strict=True):
        assert np.abs(reference).max() > 0
        np.testing.assert_allclose(value, reference, atol=1e-4 * np.abs(reference).max())


def test_layers_and_gradients_match_pytorch(rng):
    tensors = _random_tensors(rng)
    params = efficientnet_lite.from_state_dict(tensors)
    images = rng.uniform(0, 255, (2, 37, 50, 3)).astype(np.float32)
    given = torch.tensor(images, requires_grad=True)
    layers = _reference_layers(tensors, given)
    expected = [layers[i].permute(0, 2, 3, 1) for i in TAPPED]
    cotangents = [rng.normal(size=each.shape).astype(np.float32) for each in expected]
    for_taps = zip(expected, cotangents, strict=True)
    sum((a * torch.tensor(w)).sum() for a, w in for_taps).backward()

    @jax.jit
    def run(params, images):
        taps, pull = jax.vjp(lambda images: efficientnet_lite.taps(params, images), images)
        return [*taps, *pull(cotangents), *_forward(params, images)]

    assert efficientnet_lite.TAPS == ("stem", "stage_2", "stage_3", "stage_4", "stage_6")
    pooled = _reference(tensors, images)
    assert pooled[0].std() > 0.1
    references = [*(each.detach().numpy() for each in expected), given.grad.numpy(), *pooled]
    _assert_close(run(params, images), references)


def test_tiny_images_match_pytorch(rng):
    tensors = _random_tensors(rng)
    params = efficientnet_lite.from_state_dict(tensors)
    images = rng.uniform(0, 255, (2, 1, 3, 3)).astype(np.float32)
    layers = _reference_layers(tensors, torch.tensor(images))
    found = jax.jit(efficientnet_lite.taps)(params, images)
    assert [each.shape[-1] for each in found] == [32, 24, 40, 80, 192]
    _assert_close(found, [layers[i].permute(0, 2, 3, 1).numpy() for i in TAPPED])


def test_error_names_wrong_tensors(rng):
    tensors = _random_tensors(rng)
    without = {name: array for name, array in tensors.items() if name != "_blocks.3._bn1.bias"}
    with pytest.raises(ValueError, match=r"'_blocks\.3\._bn1\.bias' is missing"):
        efficientnet_lite.from_state_dict(without)
    with pytest.raises(ValueError, match=r"'_fc\.bias' has shape \(5,\), not \(1000,\)"):
        efficientnet_lite.from_state_dict(tensors | {"_fc.bias": np.zeros(5)})
    with pytest.raises(ValueError, match="no tensor '_se'"):
        efficientnet_lite.from_state_dict(tensors | {"_se": np.zeros(5)})


@pytest.mark.parametrize(
    "images", [np.zeros((1, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.float32)]
)
@pytest.mark.parametrize("function", [efficientnet_lite.features, efficientnet_lite.taps])
def test_error_for_wrong_images(rng, images, function):
    params = efficientnet_lite.from_state_dict(_random_tensors(rng))
    message = rf"{function.__name__} takes floating-point images \[B, H, W, 3\], got"
    with pytest.raises(ValueError, match=message):
        function(params, images)
