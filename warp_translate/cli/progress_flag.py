"""The flag ``--progress``, defined once for the commands that tell how far they are."""

from typing import Any

from absl import flags

from warp_translate.progress import FORMATS

PROGRESS: flags.FlagHolder[Any] = flags.DEFINE_enum(
    "progress",
    "auto",
    FORMATS,
    "How progress is told on stderr: auto rewrites a line on a terminal, json is for programs.",
)
