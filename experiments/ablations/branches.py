"""Losses of the branches: L1 of the pretranslated and of the warped image.

Claim: the loss of the output alone trains both branches. Losses of their own make the pretranslated
image presentable where the mask hides it, at the cost of the output.
"""

from experiments.ablations import bases

get_config = bases.get_config
get_sweep = bases.sweep(
    {
        "neither": {},
        "pretranslated 20, warped 5": {"losses.l1_pretranslated": 20.0, "losses.l1_warped": 5.0},
        "pretranslated 20": {"losses.l1_pretranslated": 20.0},
        "warped 5": {"losses.l1_warped": 5.0},
        "one size instead of a pyramid": {"losses.pyramid_levels": 1},
    }
)
