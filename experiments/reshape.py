"""Slims faces and enlarges eyes, at 256 px, factor 4: the displacement does it.

The teacher, PyPI ``facetweak``, finds landmarks and moves pixels. The student predicts the
displacement from an image of 64 px. Nothing has to be synthesized, so the output is the warped
original, by cubic interpolation, which keeps it sharp. ``teachers/reshape.py`` makes the pairs.

    warp-translate train --config=experiments/reshape.py:pairs=PAIRS --workdir=runs/reshape
    warp-translate evaluate --workdir=runs/reshape
"""

import ml_collections

from experiments import base


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Builds the configuration.

    Args:
      arg: ``pairs``, their folder; ``size`` in pixels, ``factor``, ``steps``, ``runlocal``.
    """
    arg = base.parse_arg(
        arg, pairs="runs/reshape_pairs", size=256, factor=4, steps=1200, runlocal=False
    )
    config = base.get_config("paired")
    config.data.update(
        name="paired_folder",
        root=arg.pairs,
        size=arg.size,
        load_size=arg.size,
        scale=(0.9, 1.2),
        max_shift=24,
        max_rotation=10.0,
    )
    config.method.update(factor=arg.factor, fusion="warped", sampling="cubic")
    config.generator.update(
        width=24,
        blocks=6,
        displacement_size="reduced",
        max_displacement=4.0,
        displacement_threshold=0.03,
    )
    config.losses.update(
        adversarial=0.0,
        l1_pretranslated=0.0,
        l1_warped=0.0,
        pyramid_levels=4,
        smoothness_first=1.0,
    )
    config.optim.update(lr=2e-3, b1=0.9, ema_decay=0.995, schedule="cosine", warmup_steps=20)
    config.training.update(
        global_batch=4, total_steps=arg.steps, log_every=50, evaluate_every=400, save_every=400
    )
    return base.shrink(config) if arg.runlocal else config
