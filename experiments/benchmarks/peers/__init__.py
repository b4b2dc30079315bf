"""PyTorch: other generators, and this package's networks and training steps."""
