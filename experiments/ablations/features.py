"""Losses in features: of the discriminator, and of a classifier.

Claim: feature matching makes training steadier; a perceptual loss (features of EfficientNet-Lite0,
which needs the extra eval) adds detail that L1 does not reward, and costs L1 and time.
"""

from experiments.ablations import bases

get_config = bases.get_config
get_sweep = bases.sweep(
    {
        "neither": {},
        "feature matching 1": {"losses.feature_matching": 1.0},
        "feature matching 10": {"losses.feature_matching": 10.0},
        "perceptual 1": {"losses.perceptual": 1.0},
        "perceptual 10": {"losses.perceptual": 10.0},
        "both, 1": {"losses.feature_matching": 1.0, "losses.perceptual": 1.0},
    }
)
