"""The flags of the commands that run a bundle; no jax is needed."""

from typing import cast

from absl import flags

from warp_translate.errors import UserError
from warp_translate.serving import engine
from warp_translate.serving.bundle import Bundle

BUNDLE = flags.DEFINE_string("bundle", None, "A bundle that warp-translate export made.")
_ENGINE = flags.DEFINE_enum(
    "engine", "auto", ["auto", "onnx", "jax"], "What runs a bundle: the first that is installed."
)
_BATCH = flags.DEFINE_integer("batch", 8, "Most images that a bundle translates at once.")
_BUDGET = flags.DEFINE_float("budget_ms", 200.0, "What a translation may take, in ms.")


def batch() -> int:
    """The value of ``--batch``.

    Raises:
      UserError: it is less than 1.
    """
    if _BATCH.value < 1:
        raise UserError(f"--batch={_BATCH.value} must be at least 1")
    return _BATCH.value


def budget_milliseconds() -> float:
    """The value of ``--budget_ms``.

    Raises:
      UserError: it is not more than 0.
    """
    if not _BUDGET.value > 0:
        raise UserError(f"--budget_ms={_BUDGET.value} must be more than 0")
    return _BUDGET.value


def backend() -> engine.Backend:
    """The value of ``--engine``."""
    return cast(engine.Backend, _ENGINE.value)


def open_engine(bundle: Bundle) -> engine.Engine:
    """Makes a bundle ready on the engine that ``--engine`` names.

    Raises:
      UserError: it is not installed, or the bundle's file is damaged.
    """
    return engine.open_engine(bundle, backend())
