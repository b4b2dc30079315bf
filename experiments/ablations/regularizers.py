"""Smoothness of the displacement: none, first order, second order.

Claim: without it the warped image tears where the truth has no counterpart. First order, which
prefers translations, prevents this at weights at which the warp is still used.
"""

from experiments.ablations import bases

get_config = bases.get_config
get_sweep = bases.sweep(
    {
        "none": {"losses.smoothness_first": 0.0},
        **{
            f"first order, {weight:g}": {"losses.smoothness_first": weight}
            for weight in (0.1, 1.0, 10.0)
        },
        "second order, 1": {"losses.smoothness_first": 0.0, "losses.smoothness_second": 1.0},
        "both, 1": {"losses.smoothness_first": 1.0, "losses.smoothness_second": 1.0},
    }
)
