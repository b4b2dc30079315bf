"""The flag ``--config``, which takes an experiment file."""

import re
import sys
from collections.abc import Iterable, Iterator

import ml_collections
from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from warp_translate.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment file, FILE.py or FILE.py:ARGUMENTS; --config.FIELD=VALUE overrides a field.",
    lock_config=True,
)


class _Parser(ConfigFileFlagParser):
    """Loads the file, and checks the names of overridden fields."""

    def parse(self, path: str) -> ml_collections.ConfigDict:
        from warp_translate.evaluation.runs import flat
        from warp_translate.experiment import experiment_file, fields

        file, has_arg, arg = path.partition(":")
        module = experiment_file.load(file)
        config = experiment_file.configuration(module, path, *[arg] * bool(has_arg))
        known = flat(config.to_dict())
        for name in _overridden(sys.argv):
            if name not in known:
                hint = fields.near(name, known, "--config.")
                raise UserError(f"--config.{name} is no field of {file}; {hint}")
        config.lock()
        return config

    def flag_type(self) -> str:
        return "path"


# config_flags accepts no parser.
flags.FLAGS["config"].parser = _Parser("config")


def _overridden(words: Iterable[str]) -> Iterator[str]:
    """Yields the fields that a command line overrides."""
    for word in words:
        if match := re.match(r"--?(?:no)?config\.([^=]*)", word):
            yield match[1]


def experiment() -> ml_collections.ConfigDict:
    """Returns the configuration that the flag names, with overrides; `build` checks it."""
    config: ml_collections.ConfigDict = CONFIG.value
    return config
