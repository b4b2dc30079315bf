"""A bundle of a small generator with random parameters, and what it was made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from warp_translate.models import Generator
from warp_translate.serving import bundle as bundles
from warp_translate.serving import export
from warp_translate.serving.architecture import Architecture
from warp_translate.serving.bundle import Bundle


def random_generator(head="projected", **fields):
    """A module whose parameters are all away from where training starts."""
    generator = Generator(width=4, blocks=1, head=head, max_displacement=3.0, **fields)
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    shapes = jax.eval_shape(
        lambda key, x: generator.init(key, x, x, 1)["params"], jax.random.key(0), image
    )
    chance = np.random.default_rng(1)
    params = jax.tree.map(lambda x: chance.normal(0, 0.3, x.shape).astype(np.float32), shapes)
    return generator, params


def architecture_of(generator, mask_weights="pretranslated", fusion="full"):
    fields = {
        field.name: getattr(generator, field.name)
        for field in dataclasses.fields(Architecture)
        if hasattr(generator, field.name)
    }
    return Architecture(**fields, mask_weights=mask_weights, fusion=fusion)


def describe(folder, generator, **fields):
    known = {
        "name": folder.name,
        "source": "apple",
        "target": "pear",
        "architecture": architecture_of(generator),
        "factors": (2, 4),
        "factor": 2,
        "size": 32,
        "provenance": {"step": 7, "figures": {"test/output/l1": 0.25}},
        "files": {},
    }
    return Bundle(folder=folder, **(known | fields))


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The bundle, the module, its parameters and what was measured."""
    generator, params = random_generator()
    folder = tmp_path_factory.mktemp("bundles") / "apple-pear"
    image = np.random.default_rng(2).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    found = export.write_bundle(describe(folder, generator), generator, params, [image])
    return bundles.read(folder), generator, params, found


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the bundle's folder, to be spoilt."""
    import shutil

    return shutil.copytree(exported[0].folder, tmp_path / "bundles" / "apple-pear")
