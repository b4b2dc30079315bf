"""The flags of the commands that run a bundle; no jax is needed."""

from typing import cast

from absl import flags

from warp_translate.serving import engine
from warp_translate.serving.bundle import Bundle

BUNDLE = flags.DEFINE_string("bundle", None, "A bundle that warp-translate export made.")
_ENGINE = flags.DEFINE_enum(
    "engine", "auto", ["auto", "onnx", "jax"], "What runs a bundle: the first that is installed."
)


def open_engine(bundle: Bundle) -> engine.Engine:
    """Makes a bundle ready on the engine that ``--engine`` names.

    Raises:
      UserError: it is not installed, or the bundle's file is damaged.
    """
    return engine.open_engine(bundle, cast(engine.Backend, _ENGINE.value))
