"""Conversion of flax's parameters for PyTorch modules whose submodules have flax's names."""

from collections.abc import Iterator

import jax
import numpy as np
import torch
from torch import Tensor, nn

from warp_translate.types import PyTree

_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def load(module: nn.Module, params: PyTree, spectral: PyTree | None = None) -> None:
    """Sets all parameters of a module, and the vectors of its spectral norms.

    Args:
      module: the module.
      params: flax's parameters.
      spectral: flax's collection "spectral".

    Raises:
      ValueError: names or shapes differ.
    """
    found = {**dict(by_name(params)), **dict(spectral_vectors(spectral))}
    expected = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if odd := sorted(found.keys() ^ expected.keys()):
        raise ValueError(f"only one of the two frameworks has {', '.join(odd)}")
    for name, value in found.items():
        if value.shape != expected[name].shape:
            shapes = f"{tuple(value.shape)} in flax and {tuple(expected[name].shape)} in torch"
            raise ValueError(f"{name} is {shapes}")
        with torch.no_grad():
            expected[name].copy_(value)


def by_name(params: PyTree) -> Iterator[tuple[str, Tensor]]:
    """Yields name and value in torch of flax's parameters or their gradients."""
    for path, leaf in _leaves(params):
        if leaf.ndim == 4:  # A convolution's kernel.
            leaf = leaf.transpose(3, 2, 0, 1)
        name = ".".join([*path[:-1], _NAMES[path[-1]]])
        yield name, torch.tensor(np.ascontiguousarray(leaf))


def spectral_vectors(spectral: PyTree) -> Iterator[tuple[str, Tensor]]:
    """Yields name and value in torch of the vectors in flax's collection "spectral"."""
    for path, leaf in _leaves(spectral):
        if path[-1].endswith("/u"):  # Of scale_0, SpectralNorm_1, "Conv_1/kernel/u".
            yield f"{path[0]}.{path[-1].split('/')[0]}.u", torch.tensor(leaf[0])


def _leaves(tree: PyTree) -> Iterator[tuple[list[str], np.ndarray]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield [str(key.key) for key in path], np.asarray(leaf, np.float32)
