"""Argument parsing and exit statuses of the launchers.

They use argparse, not absl, because everything after ``--`` must reach ``warp-translate train``
unparsed.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from warp_translate.cli import status, streams
from warp_translate.errors import UserError

PROCESS_FLAGS = ("coordinator", "num_processes", "process_id", "heartbeat_timeout")


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors and no abbreviated flags."""

    def __init__(self, description: str):
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Prints the error and exits with the status of a user error."""
        _exit_with(message)


def run(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs a launcher; a UserError becomes one line on stderr and status 2.

    Args:
      main: maps the arguments without the program's name to the exit status.
    """
    with streams.ready():
        try:
            code = main(sys.argv[1:])
        except UserError as error:
            _exit_with(str(error))
        sys.exit(code)


def split_train(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits ``LAUNCHER_FLAGS -- train TRAIN_FLAGS`` into the two lists of flags.

    Raises:
      UserError: no ``train`` follows ``--``.
    """
    own, command = split(argv)
    if command[:1] != ["train"] and own[-1:] not in (["-h"], ["--help"]):
        raise UserError(
            f"expected 'train' after --, got {' '.join(command)!r}: add the command to start, for "
            "example -- train --config=experiments/paired.py --workdir=runs/paired"
        )
    return own, command[1:]


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits arguments at the first ``--``, which may be missing."""
    at = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:at]), list(argv[at + 1 :])


def flag_value(flags: Sequence[str], name: str) -> str | None:
    """Returns the last value of ``--name=value`` or ``--name value``, or None."""
    value = None
    for index, word in enumerate(flags):
        flag, has_value, text = word.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            value = text if has_value else "".join(flags[index + 1 : index + 2])
    return value


def refuse_flags(
    flags: Sequence[str], names: Sequence[str], remedy: str = "remove it after --"
) -> None:
    """Raises a UserError if ``flags`` contain one of ``names``, which the launcher sets."""
    for name in names:
        if flag_value(flags, name) is not None:
            raise UserError(f"--{name} is set by the launcher: {remedy}")


def _exit_with(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status.USER_ERROR)
