"""Man to woman on drawn people at 64 px, factor 2: minutes on two cores.

382 training pairs of 62 roles, 103 test pairs of 17 other roles. As ``paired.py``, with smaller
networks and images, a higher learning rate and a lower adversarial weight.

    warp-translate train --config=experiments/openmoji.py --workdir=runs/openmoji
    warp-translate evaluate --workdir=runs/openmoji

With ``size=256``: the networks of ``paired.py`` on the same drawings, minutes on one GPU.
"""

import ml_collections

from experiments import base

_SMALL = 64  # Pixels; larger images get larger networks.


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Builds the configuration.

    Args:
      arg: ``size`` in pixels; ``fusion``, "full" or "pretranslated" (the ablation); ``runlocal``.
    """
    arg = base.parse_arg(arg, size=_SMALL, fusion="full", runlocal=False)
    config = base.get_config("paired")
    # Without augmentation so few roles are memorized. Shuffled channels make new hair take its
    # color from the original.
    config.data.update(
        size=arg.size,
        load_size=arg.size,
        max_shift=round(arg.size * 0.1),
        scale=(0.85, 1.15),
        max_rotation=10.0,
        channel_shuffle=0.5,
    )
    config.method.fusion = arg.fusion
    if arg.size <= _SMALL:
        config.generator.update(width=24, blocks=6, max_displacement=8.0)
        config.discriminator.update(width=16, layers=2, scales=1)
    else:
        config.discriminator.update(width=32, layers=3, scales=1)
    config.losses.adversarial = 0.3
    if arg.fusion == "pretranslated":
        config.losses.l1_warped = 0.0  # It would only use capacity.
    config.optim.update(lr=1e-3, discriminator_lr=1e-3, b1=0.9, ema_decay=0.998)
    config.training.update(
        global_batch=8, total_steps=2_500, log_every=50, evaluate_every=500, save_every=500
    )
    return base.shrink(config) if arg.runlocal else config


def get_sweep(arg: str | None = None) -> dict[str, dict[str, str | float]]:
    """The method and its ablation without fusion.

    Args:
      arg: as for ``get_config``; the variants do not depend on it.
    """
    del arg
    return {
        "full": {"method.fusion": "full"},
        "pretranslated only": {"method.fusion": "pretranslated", "losses.l1_warped": 0.0},
    }
