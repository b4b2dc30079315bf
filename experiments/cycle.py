"""Cycle training on unpaired domains: two generators, two discriminators.

    warp-translate train --config=experiments/cycle.py --workdir=runs/cycle \\
        --config.data.name=unpaired_folder --config.data.root=apple2orange
    warp-translate train --config=experiments/cycle.py:size=128,runlocal --workdir=runs/tiny
"""

import ml_collections

from experiments import base


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Builds the configuration.

    Args:
      arg: ``size`` in pixels, ``factor``, ``runlocal``.
    """
    arg = base.parse_arg(arg, size=256, factor=2, runlocal=False)
    config = base.get_config("cycle")
    config.data.size = arg.size
    config.data.load_size = round(arg.size * 1.12)
    config.method.factor = arg.factor
    return base.shrink(config) if arg.runlocal else config
