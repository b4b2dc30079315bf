"""What runs before and around a training: plans of its cost, sweeps, and ways to start it."""
