"""Loss functions on arrays."""
