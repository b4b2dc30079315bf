"""Experiments: a configuration made into explicit arguments, tasks, restored states and sweeps."""
