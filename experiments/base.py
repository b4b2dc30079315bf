"""The default configuration of an experiment, and the parser of an experiment file's argument."""

import ml_collections

from warp_translate.errors import did_you_mean
from warp_translate.experiment import fields


def parse_arg(arg: str | None, **defaults: bool | int | float | str) -> ml_collections.ConfigDict:
    """Parses the argument of an experiment file, ``file.py:size=128,factor=4,runlocal``.

    Args:
      arg: ``name=value`` pairs separated by commas; a name alone means true.
      **defaults: the default of every name, which decides its type.

    Returns:
      The values by name.

    Raises:
      ValueError: a name is unknown or a value has the wrong type.
    """
    values = dict(defaults)
    for part in filter(None, (arg or "").split(",")):
        name, has_value, text = part.partition("=")
        if name not in defaults:
            hint = f"{did_you_mean(name, defaults)} it takes {', '.join(defaults)}".lstrip()
            raise ValueError(f"unknown argument {name!r} of the experiment; {hint}")
        kind = type(defaults[name])
        if kind is bool:
            if text.lower() not in ("", "true", "false") or (has_value and not text):
                raise ValueError(f"argument {name} takes true or false, got {text!r}")
            values[name] = text.lower() != "false"
        else:
            try:
                values[name] = kind(text)
            except ValueError:
                raise ValueError(f"argument {name} takes {kind.__name__}, got {text!r}") from None
    return ml_collections.ConfigDict(values)


def get_config(kind: str) -> ml_collections.ConfigDict:
    """The default configuration; README.md lists its fields.

    Args:
      kind: "paired", "cycle", "contrastive" or "classifier".
    """
    return fields.default_config(kind)


def shrink(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks an experiment, in place, to one that runs in seconds, for ``runlocal``."""
    config.data.size = config.data.load_size = 32
    config.data.max_shift = min(config.data.max_shift, 2)
    if config.method.training == "classifier":
        config.classifier.update(width=8, stages=2)
    else:
        config.generator.update(width=8, blocks=1)
        # The frozen network of a projected one takes a minute to compile.
        config.discriminator.update(kind="patch", width=8, layers=1, scales=1)
        if config.method.training == "paired":
            config.losses.pyramid_levels = min(config.losses.pyramid_levels, 2)
        else:
            config.method.pool_size = 4
    config.training.update(
        global_batch=8, total_steps=4, log_every=1, evaluate_every=2, save_every=2
    )
    config.optim.warmup_steps = 0
    config.evaluation.sheet_rows = 4
    return config
