"""Paired training at 256 px with factor 2.

The losses of pix2pix (Isola et al. 2017, arXiv:1611.07004), L1 and a conditional PatchGAN, with L1
also on both branches, so that neither collapses. For accelerators; for two cores see
``openmoji.py``.

    warp-translate train --config=experiments/paired.py --workdir=runs/paired
    warp-translate train --config=experiments/paired.py:factor=4,runlocal --workdir=runs/tiny
"""

import ml_collections

from experiments import base


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Builds the configuration.

    Args:
      arg: ``size`` in pixels, ``factor``, ``runlocal``.
    """
    arg = base.parse_arg(arg, size=256, factor=2, runlocal=False)
    config = base.get_config("paired")
    config.data.size = arg.size
    config.data.load_size = round(arg.size * 1.12)
    config.method.factor = arg.factor
    return base.shrink(config) if arg.runlocal else config
