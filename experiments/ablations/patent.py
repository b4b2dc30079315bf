"""From the patent to the defaults: each variant adds one deviation to those before it.

Claim: probabilities alone do not train a generator on a few hundred drawings. With pairs the L1 of
the output decides, without pairs the L1 of the cycle and the identity. The other deviations improve
detail or cost. With ``back`` each variant takes one deviation back from the defaults.

    warp-translate ablate --config=experiments/ablations/patent.py:kind=unpaired \
        --workdir=runs/patent --seeds=2
"""

import functools
import itertools
import operator

import ml_collections

from experiments import base, patent
from experiments.ablations.bases import Overrides

_HEADS: dict[str, Overrides] = {
    "+ features projected": {"generator.head": "reduced"},
    "+ original in the head": {"generator.head": "projected"},
}
_STEPS: dict[str, dict[str, Overrides]] = {
    "paired": {
        "the patent": {},
        "+ L1 of the output": {"losses.l1_output": 100.0, "losses.adversarial": 0.3},
        "+ L1 of both branches": {"losses.l1_pretranslated": 20.0, "losses.l1_warped": 5.0},
        "+ condition": {"discriminator.conditional": True},
        **_HEADS,
    },
    "unpaired": {
        "the patent": {},
        "+ both ways": {"method.ways": "both"},
        "+ L1 of the cycle": {"losses.cycle": 3.0, "losses.cycle_full": 0.3},
        "+ way back not judged": {"losses.adversarial_back": 0.0},
        "+ identity": {"losses.identity": 1.0, "losses.identity_pretranslated": 3.0},
        "+ pretranslated image judged": {"losses.adversarial_pretranslated": 0.5},
        "+ earlier translations": {"method.pool_size": 50},
        "+ R1": {"adversary.r1": 0.2},
        "+ least squares": {"adversary.loss": "least_squares"},
        "+ smooth displacement": {"losses.smoothness_first": 0.1},
        **_HEADS,
    },
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The patent's configuration, trained to the end for comparison.

    Args:
      arg: as for ``experiments/patent.py``; ``back``, which only `get_sweep` reads.
    """
    found = _parse(arg)
    config = patent.get_config(
        f"kind={found.kind},steps={found.steps}" + (",runlocal" if found.runlocal else "")
    )
    config.training.stop_gap = 0.0
    return config


def get_sweep(arg: str | None = None) -> dict[str, Overrides]:
    """The variants, as overrides of the patent's configuration.

    Args:
      arg: as for ``get_config``; ``back``.
    """
    found = _parse(arg)
    steps = _STEPS[found.kind]
    if not found.back:
        walk = itertools.accumulate(steps.values(), operator.or_)
        return dict(zip(steps, walk, strict=True))
    defaults = functools.reduce(operator.or_, steps.values())
    variants = {"the defaults": defaults}
    for name in steps:
        others = [step for other, step in steps.items() if other != name]
        without = functools.reduce(operator.or_, others)
        if without != defaults:
            variants[name.replace("+", "without", 1)] = without
    return variants


def _parse(arg: str | None) -> ml_collections.ConfigDict:
    return base.parse_arg(arg, kind="paired", steps=0, back=False, runlocal=False)
