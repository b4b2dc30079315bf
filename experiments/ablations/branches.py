"""Losses of the branches: L1 of the pretranslated and of the warped image.

Claim: with the loss of the output alone the pretranslated image does not learn, since its mask
starts small. A small weight on the warped image keeps the warp in use; a large one makes the warp
imitate details that only new pixels can show.
"""

from experiments.ablations import bases

get_config = bases.get_config
get_sweep = bases.sweep(
    {
        "pretranslated 20, warped 5": {},
        "neither": {"losses.l1_pretranslated": 0.0, "losses.l1_warped": 0.0},
        "pretranslated 20 only": {"losses.l1_warped": 0.0},
        "warped 5 only": {"losses.l1_pretranslated": 0.0},
        "pretranslated 20, warped 50": {"losses.l1_warped": 50.0},
        "pyramid of four sizes": {"losses.pyramid_levels": 4},
    }
)
