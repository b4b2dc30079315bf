"""The flag ``--config``, defined once for the programs that take an experiment file."""

from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Experiment file, for example experiments/paired.py.", lock_config=True
)
