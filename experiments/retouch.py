"""Retouches dull photographs as MAXIM does, at 256 px, factor 4: minutes on two cores.

A large network teaches a cheap one: 176 training pairs in ``pairs/retouch``, 38 test pairs of other
photographs. B is what MAXIM (Tu et al. 2022, 14 million parameters) makes of A; see
``pairs/README.md``. The layout stays, so there is no displacement to learn; colors depend on the
whole picture. The pretranslated image is a local affine map of the original's colors.

    warp-translate train --config=experiments/retouch.py --workdir=runs/retouch
    warp-translate evaluate --workdir=runs/retouch
"""

from pathlib import Path

import ml_collections

from experiments import base

_PAIRS = Path(__file__).parent / "pairs" / "retouch"


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Builds the configuration.

    Args:
      arg: ``size`` in pixels, ``factor``, ``steps``, ``runlocal``.
    """
    arg = base.parse_arg(arg, size=256, factor=4, steps=800, runlocal=False)
    config = base.get_config("paired")
    config.data.update(
        name="paired_folder",
        root=str(_PAIRS),
        size=arg.size,
        load_size=arg.size,
        scale=(1.0, 1.2),
        max_shift=12,
    )
    config.method.factor = arg.factor
    # The mask starts open: half of the dull original everywhere would halve every change.
    config.generator.update(
        width=24, blocks=6, synthesis="affine", color_modulation=True, mask_bias=3.0
    )
    # The differences of neighboring pixels and the local contrast keep texture, which L1 blurs.
    config.losses.update(
        adversarial=0.0,
        l1_pretranslated=0.0,
        l1_warped=0.0,
        gradient=200.0,
        local_contrast=1000.0,
        pyramid_levels=4,
        smoothness_first=10.0,
    )
    config.optim.update(lr=2e-3, b1=0.9, ema_decay=0.995, schedule="cosine", warmup_steps=20)
    config.training.update(
        global_batch=4, total_steps=arg.steps, log_every=50, evaluate_every=400, save_every=400
    )
    return base.shrink(config) if arg.runlocal else config
