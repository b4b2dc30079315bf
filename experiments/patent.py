"""The patent to the letter, on drawn people at 64 px: claims 2 and 9 to 12 of JP7133003B2.

The trunk's features are enlarged just before the heads, and the maps follow from the reduced image
alone. Discriminators give probabilities by binary cross entropy, and these alone train: no L1, no
identity, no earlier translations, no condition, no regularization. Training ends when the
probabilities of real and translated images hardly differ.

``kind=paired`` compares translations with their true counterparts (claim 11). ``kind=unpaired``
translates men to women and back: one discriminator judges the women, the other the men that come
back, and both train both generators (claim 12).

    warp-translate train --config=experiments/patent.py:kind=unpaired --workdir=runs/patent
    warp-translate evaluate --workdir=runs/patent

``ablations/patent.py`` walks from here to the defaults.
"""

import ml_collections

from experiments import base, openmoji, openmoji_cycle

_LITERAL = {
    "generator.head": "literal",
    "adversary.loss": "bce",
    "adversary.r1": 0.0,
    "losses.adversarial": 1.0,
    "losses.smoothness_first": 0.0,
    "training.stop_gap": 0.05,
}
_OF_KIND = {
    "paired": {
        "discriminator.conditional": False,
        "losses.l1_output": 0.0,
        "losses.l1_pretranslated": 0.0,
        "losses.l1_warped": 0.0,
    },
    "unpaired": {
        "method.ways": "forth",
        "method.pool_size": 0,
        "losses.adversarial_back": 1.0,
        "losses.adversarial_pretranslated": 0.0,
        "losses.cycle": 0.0,
        "losses.cycle_full": 0.0,
        "losses.identity": 0.0,
        "losses.identity_pretranslated": 0.0,
    },
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Builds the configuration.

    Args:
      arg: ``kind``, paired or unpaired; ``steps``, 0 for those of the default experiment;
        ``runlocal``.

    Raises:
      ValueError: there is no such kind.
    """
    arg = base.parse_arg(arg, kind="paired", steps=0, runlocal=False)
    if arg.kind not in _OF_KIND:
        raise ValueError(f"kind must be one of {', '.join(_OF_KIND)}, got {arg.kind!r}")
    experiment = openmoji if arg.kind == "paired" else openmoji_cycle
    config = experiment.get_config("runlocal" if arg.runlocal else None)
    config.update_from_flattened_dict(_LITERAL | _OF_KIND[arg.kind])
    if arg.steps:
        config.training.total_steps = arg.steps
    return config
