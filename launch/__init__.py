"""Launchers, sweeps and cost plans of trainings."""
