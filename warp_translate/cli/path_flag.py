"""Flags that name a file or a folder."""

import os
from typing import Any

from absl import flags

# What is defined here belongs to the module that asks for it.
flags.disclaim_key_flags()


class _PathParser(flags.ArgumentParser[str | None]):
    """Takes any text that is not empty, as an unset variable of a shell would be.

    Shells leave the ``~`` of ``--flag=~/folder`` as it is, so it is replaced here.
    """

    def parse(self, argument: str) -> str:
        if not argument.strip():
            raise ValueError("must not be empty")
        return os.path.expanduser(argument)

    def flag_type(self) -> str:
        return "path"


def define_path(name: str, help: str) -> flags.FlagHolder[str | None]:
    """Defines a flag that names a file or a folder, None where it is not given."""
    holder: flags.FlagHolder[str | None] = flags.DEFINE(_PathParser(), name, None, help)
    return holder


def define_paths(name: str, help: str) -> flags.FlagHolder[list[str] | None]:
    """Defines a flag that names a file or a folder each time it is given, None where it is not."""
    parser: Any = _PathParser()
    holder: flags.FlagHolder[list[str] | None] = flags.DEFINE_multi(
        parser, flags.ArgumentSerializer(), name, None, help
    )
    return holder
