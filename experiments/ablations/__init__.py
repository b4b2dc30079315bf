"""Experiments with one part switched off at a time."""
