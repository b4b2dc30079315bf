"""From a trained generator to a service; what only serves imports no jax."""
