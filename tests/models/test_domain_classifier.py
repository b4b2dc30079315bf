import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.models.random_params import random_variables
from warp_translate.models import DomainClassifier


def test_equals_torch(rng):
    module = DomainClassifier(domains=3, width=8, stages=2)
    params = random_variables(module, (1, 12, 12, 3), scale=0.5)["params"]
    images = rng.uniform(-1, 1, (2, 12, 10, 3)).astype(np.float32)
    features = torch.tensor(images.transpose(0, 3, 1, 2))
    for stage in range(2):
        kernel = torch.tensor(
            params[f"ReflectConv_{stage}"]["conv"]["kernel"].transpose(3, 2, 0, 1)
        )
        padded = functional.pad(features, (1, 1, 1, 1), mode="reflect")
        norm = params[f"GroupNorm_{stage}"]
        features = functional.relu(
            functional.group_norm(
                functional.conv2d(padded, kernel, stride=2),
                4,
                torch.tensor(norm["scale"]),
                torch.tensor(norm["bias"]),
                eps=1e-5,
            )
        )
    dense = params["logits"]
    expected = features.mean((2, 3)) @ torch.tensor(dense["kernel"]) + torch.tensor(dense["bias"])
    found = module.apply({"params": params}, images)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_logits_are_float32():
    module = DomainClassifier(domains=2, width=4, stages=1, dtype=jnp.bfloat16)
    params = random_variables(module, (1, 8, 8, 3))["params"]
    assert module.apply({"params": params}, jnp.zeros((1, 8, 8, 3))).dtype == jnp.float32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"domains": 1}, "two domains or more, got 1"),
        (
            {"domains": 2, "width": 6},
            r"classifier\.width is 6; it must be a positive multiple of 4",
        ),
        ({"domains": 2, "width": 0}, r"classifier\.width is 0"),
        ({"domains": 2, "stages": 0}, r"classifier\.stages is 0"),
    ],
)
def test_error_names_invalid_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        DomainClassifier(**fields)
