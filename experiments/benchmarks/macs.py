"""Multiply-accumulate operations of PyTorch's convolutions."""

import copy

import torch
from torch import nn


def of_torch(module: nn.Module, *shape: int) -> tuple[int, int]:
    """Counts the convolutions of a module in evaluation mode, without computing.

    Args:
      module: the module.
      *shape: shape of its input.

    Returns:
      Operations with transposed convolutions counted at their output, like the published 56.8 G of
      CycleGAN's ResNet-9 at 256 px, and at their input, where they multiply: 49.55 G.
    """
    at_output = at_input = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal at_output, at_input
        written, read = (
            each.numel() // each.shape[1] * layer.weight.numel() for each in (output, inputs[0])
        )
        at_output += written
        at_input += read if isinstance(layer, nn.ConvTranspose2d) else written

    described = copy.deepcopy(module).to("meta").eval()
    for layer in described.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        described(torch.empty(shape, device="meta"))
    return at_output, at_input
