"""The flag ``--config``, defined once for the programs that take an experiment file."""

import ml_collections
from ml_collections import config_flags

from warp_translate.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Experiment file, for example experiments/paired.py.", lock_config=True
)


def experiment() -> ml_collections.ConfigDict:
    """The configuration that the flag names, with its overrides, locked.

    Raises:
      UserError: the file cannot be read.
    """
    config = CONFIG.value
    try:
        config.lock()
    except OSError as error:  # What config_flags answers with when the file was not there.
        raise UserError(f"--config cannot be read: {str(error).split()[-1]}") from error
    return config
