"""Bounds of the discriminator: spectral norm, gradient penalties, both, neither.

Claim: with pairs L1 decides, and no bound is needed. Without pairs an unbounded discriminator gets
too strong; a lazy penalty on real images (R1) is better than spectral norm.
"""

from experiments.ablations import bases

get_config = bases.get_config
get_sweep = bases.sweep(
    {
        "neither": {"discriminator.spectral_norm": False, "adversary.r1": 0.0},
        "spectral norm": {"discriminator.spectral_norm": True, "adversary.r1": 0.0},
        "R1 0.2": {"discriminator.spectral_norm": False, "adversary.r1": 0.2},
        "R1 1": {"discriminator.spectral_norm": False, "adversary.r1": 1.0},
        "both": {"discriminator.spectral_norm": True, "adversary.r1": 0.2},
        "R1 and R2 0.2": {
            "discriminator.spectral_norm": False,
            "adversary.r1": 0.2,
            "adversary.r2": 0.2,
        },
    }
)
