"""Flags that name a file or a folder."""

import os
from collections.abc import Iterable
from typing import Any

from absl import flags

from warp_translate import storage

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


def folders(words: Iterable[str]) -> list[str]:
    """The folders of a list that was parted at its commas.

    Some have commas in their own names, as those of earlier sweeps: where parts that follow each
    other name a folder together, they are one.
    """
    rest, found = [word.strip() for word in words if word.strip()], []
    while rest:
        joined = {count: ",".join(rest[:count]) for count in range(len(rest), 1, -1)}
        count = next((n for n, name in joined.items() if storage.to_path(name).is_dir()), 1)
        found.append(",".join(rest[:count]))
        del rest[:count]
    return found
