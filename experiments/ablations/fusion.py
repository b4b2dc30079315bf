"""Fusion and factor: quality and cost of warping and blending the original.

Claim: with both, the output of a trunk that sees a quarter of the pixels (factor 2) is at least as
good as that of one that sees all pixels and has neither, and at a sixteenth (factor 4) nearly.
Alone, the pretranslated image loses detail with the factor, and the warped image cannot change
colors. A branch alone is trained without the loss of the other one, which would use capacity.
"""

from experiments.ablations import bases

get_config = bases.get_config
_PRETRANSLATED = {"method.fusion": "pretranslated", "losses.l1_warped": 0.0}
get_sweep = bases.sweep(
    {
        **{f"full, factor {factor}": {"method.factor": factor} for factor in (1, 2, 4)},
        **{
            f"pretranslated only, factor {factor}": {**_PRETRANSLATED, "method.factor": factor}
            for factor in (1, 2, 4)
        },
        "warped only, factor 2": {"method.fusion": "warped", "losses.l1_pretranslated": 0.0},
        "mask without warp, factor 2": {"method.fusion": "unwarped", "losses.l1_warped": 0.0},
    }
)
