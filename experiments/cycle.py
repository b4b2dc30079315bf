r"""Cycle training on unpaired domains: two generators, two discriminators.

``kind=contrastive`` trains one generator only, from A to B (CUT).

    warp-translate train --config=experiments/cycle.py --workdir=runs/cycle \
        --config.data.name=unpaired_folder --config.data.root=apple2orange
    warp-translate train --config=experiments/cycle.py:size=128,runlocal --workdir=runs/tiny
"""

import ml_collections

from experiments import base


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Builds the configuration.

    Args:
      arg: ``kind``, cycle or contrastive; ``size`` in pixels, ``factor``, ``runlocal``.
    """
    arg = base.parse_arg(arg, kind="cycle", size=256, factor=2, runlocal=False)
    config = base.get_config(arg.kind)
    config.data.size = arg.size
    config.data.load_size = round(arg.size * 1.12)
    config.method.factor = arg.factor
    return base.shrink(config) if arg.runlocal else config
