"""Mask: initial bias and regularizers.

Claim: starting at one half, neither branch collapses. A bias towards the warped image helps while
the pretranslated one is bad and costs nothing later. Total variation and the band are needed only
to prevent a collapse.
"""

from experiments.ablations import bases

get_config = bases.get_config
get_sweep = bases.sweep(
    {
        "bias 0": {},
        "bias -2, warped first": {"generator.mask_bias": -2.0},
        "bias 2, pretranslated first": {"generator.mask_bias": 2.0},
        "total variation 0.1": {"losses.mask_variation": 0.1},
        "total variation 1": {"losses.mask_variation": 1.0},
        "band 0.1 to 0.9": {"losses.mask_band": 10.0},
    }
)
