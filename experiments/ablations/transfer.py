"""Training at one factor, translation at another.

Claim: one set of parameters serves several factors as long as objects in the reduced image keep the
size that the trunk has learned. Far from it quality falls, so use a bundle near its factor.
"""

import ml_collections

from experiments.ablations import bases


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Builds the configuration of the base, see ``bases.py``."""
    config = bases.get_config(arg)
    config.evaluation.factors = (1, 2, 4, 8)
    return config


get_sweep = bases.sweep(
    {f"trained at factor {factor}": {"method.factor": factor} for factor in (1, 2, 4)}
)
