"""Multiply-accumulate operations of PyTorch's convolutions."""

import copy

import torch
from torch import nn


def of_torch(module: nn.Module, *shape: int) -> int:
    """Counts the convolutions of a module in evaluation mode for an input shape.

    Transposed convolutions are counted at their output, like the published 56.8 G of CycleGAN's
    ResNet-9 at 256 px; at their input, where they multiply, these are 49.55 G.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() // output.shape[1] * layer.weight.numel()

    described = copy.deepcopy(module).to("meta").eval()
    for layer in described.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        described(torch.empty(shape, device="meta"))
    return total
