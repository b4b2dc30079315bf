import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments import base
from experiments.benchmarks import macs
from experiments.benchmarks.peers import agreement, parameters
from experiments.benchmarks.peers.resnet9 import ResNet9
from experiments.benchmarks.peers.unet256 import UNet256
from experiments.benchmarks.peers.warp_generator import WarpGenerator, warp
from warp_translate.experiment import build
from warp_translate.models import Generator, translate
from warp_translate.ops import bilinear_warp


@pytest.mark.parametrize(
    ("peer", "millions", "gmac"), [(ResNet9, 11.378, 56.80), (UNet256, 54.414, 18.14)]
)
def test_peers_have_the_published_size_and_cost(peer, millions, gmac):
    """Parameters and operations as CycleGAN's and pix2pix's own code prints them."""
    with torch.device("meta"):
        module = peer()
    count = sum(parameter.numel() for parameter in module.parameters())
    assert round(count / 1e6, 3) == millions
    assert round(macs.of_torch(module, 1, 3, 256, 256) / 1e9, 2) == gmac


@pytest.mark.parametrize("peer", [ResNet9, UNet256])
def test_peers_keep_size_and_range(peer):
    module = peer(width=4).eval()
    with torch.inference_mode():
        found = module(torch.randn(1, 3, 256, 512))
    assert found.shape == (1, 3, 256, 512) and 0 < float(found.abs().max()) <= 1


@pytest.mark.full
@pytest.mark.parametrize("mask_weights", ["pretranslated", "warped"])
def test_the_generator_in_torch_equals_jax(mask_weights, rng):
    generator = Generator(width=8, blocks=2, mask_bias=0.3)
    image = rng.uniform(-1, 1, (2, 48, 64, 3)).astype(np.float32)
    params = jax.jit(generator.init, static_argnums=3)(
        jax.random.key(0), image[:, ::4, ::4], image, 4
    )["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.05 * rng.normal(size=leaf.shape), params)
    ours = translate(generator, params, jnp.asarray(image), 4, mask_weights=mask_weights)
    module = WarpGenerator(generator, 4, mask_weights)
    parameters.load(module, params)
    with torch.inference_mode():
        theirs = module(torch.tensor(image).permute(0, 3, 1, 2))
    assert float(jnp.abs(ours.displacement).max()) > 1
    for name, found in vars(theirs).items():
        expected = np.asarray(getattr(ours, name))
        scale = 64.0 if name == "displacement" else 1.0  # In units of its bound.
        np.testing.assert_allclose(
            found.permute(0, 2, 3, 1) / scale, expected / scale, atol=5e-4, err_msg=name
        )


def test_the_warp_in_torch_equals_jax(rng):
    image = rng.uniform(-1, 1, (2, 20, 30, 3)).astype(np.float32)
    field = rng.uniform(-9, 9, (2, 20, 30, 2)).astype(np.float32)
    planes = [torch.tensor(each).permute(0, 3, 1, 2) for each in (image, field)]
    found = warp(*planes).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found, bilinear_warp(image, field), atol=2e-5)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["paired", "cycle"])
def test_the_steps_in_torch_equal_jax(kind):
    """Losses, gradients with the penalty, updates, averages and spectral norms."""
    found = agreement.differences(agreement.small(kind))
    assert set(found) == {"losses", "gradients", "parameters", "averages", "spectral"}
    assert max(found.values()) < 1e-4, found
    compared = {"losses", "gradients", "parameters", "averages"}  # Rounding makes these differ.
    assert all(found[name] > 0 for name in compared)


def test_parameters_that_do_not_fit_are_refused():
    generator = Generator(width=8, blocks=1)
    image = jnp.zeros((1, 16, 16, 3))
    params = jax.eval_shape(lambda: generator.init(jax.random.key(0), image, image, 1)["params"])
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), params)
    with pytest.raises(ValueError, match=r"only one .* has trunk.ResidualBlock_1.InstanceNorm_0"):
        parameters.load(WarpGenerator(generator.clone(blocks=2), 1), params)
    with pytest.raises(ValueError, match=r"is \(2, 8, 1, 1\) in flax and \(2, 4, 1, 1\) in torch"):
        parameters.load(WarpGenerator(generator.clone(head_width=4), 1), params)


def test_the_compared_experiments_train_like_the_default_ones():
    for kind in ("paired", "cycle"):
        small, full = agreement.small(kind), base.get_config(kind)
        if kind == "paired":  # The pyramid is compared although it is no default.
            full.losses.pyramid_levels = small.losses.pyramid_levels
        for section in ("losses", "adversary", "optim", "method"):
            assert small[section] == full[section]
        training = build.generator_training(small)
        assert training.adversary.discriminator.scales == full.discriminator.scales
