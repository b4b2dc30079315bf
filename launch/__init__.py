"""What runs before and around a training: plans of its cost, and how it is started elsewhere."""
