"""Export of trained networks and their serving; the serving modules need no jax."""
