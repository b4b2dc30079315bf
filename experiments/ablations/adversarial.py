"""Adversarial loss: kind and weight.

Claim: with pairs the kind matters little. Without the loss the pretranslated image is smooth; with
a large weight L1 and PSNR get worse.
"""

from experiments.ablations import bases

get_config = bases.get_config
get_sweep = bases.sweep(
    {
        "none": {"losses.adversarial": 0.0},
        **{
            f"bce, {weight:g}": {"adversary.loss": "bce", "losses.adversarial": weight}
            for weight in (0.1, 0.3, 1.0, 3.0)
        },
        **{kind: {"adversary.loss": kind} for kind in ("least_squares", "hinge", "relativistic")},
    }
)
