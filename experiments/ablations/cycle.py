"""Cycle training: the value of each part, switched off one at a time.

Claim: only all parts together get closer to the truth than the original image in both directions;
augmentation, fusion and the cycle matter most.
"""

import functools

from experiments.ablations import bases

get_config = functools.partial(bases.get_config, default="openmoji_cycle")


get_sweep = bases.sweep(
    {
        "everything": {},
        "no fusion": {"method.fusion": "pretranslated"},
        "no cycle": {"losses.cycle": 0.0, "losses.cycle_full": 0.0},
        "no identity": {"losses.identity": 0.0},
        "no losses of the pretranslated image": {
            "losses.adversarial_pretranslated": 0.0,
            "losses.identity_pretranslated": 0.0,
        },
        "no pool": {"method.pool_size": 0},
        "no augmentation": {
            "data.max_shift": 0,
            "data.scale": (1.0, 1.0),
            "data.max_rotation": 0.0,
            "data.channel_shuffle": 0.0,
            "data.flip": False,
        },
        "no adversarial loss of the pretranslated image": {"losses.adversarial_pretranslated": 0.0},
        "spectral norm instead of R1": {"discriminator.spectral_norm": True, "adversary.r1": 0.0},
    }
)
