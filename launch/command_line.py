"""What the launchers share: arguments, and how a user's mistake ends them.

They take argparse where the package takes absl, because what stands behind ``--`` belongs to
``warp-translate train`` and must reach it as it was typed.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from warp_translate.cli import status, streams
from warp_translate.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and that takes no abbreviated flag."""

    def __init__(self, description: str):
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Ends the program as every mistake of the user does."""
        _leave(message)


def run(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs a launcher; a UserError becomes one line on stderr and status 2.

    Args:
      main: takes the command line without the program's name, returns the exit status.
    """
    with streams.ready():
        try:
            code = main(sys.argv[1:])
        except UserError as error:
            _leave(str(error))
        sys.exit(code)


def split_train(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits ``launcher flags -- train its flags``.

    Args:
      argv: the command line without the program's name.

    Returns:
      The launcher's flags, and train's flags without the word ``train``.

    Raises:
      UserError: what stands behind ``--`` is missing or is not ``train``.
    """
    own, separated, command = _split(argv)
    if own and own[-1] in ("-h", "--help"):
        return own, []
    if not separated or not command or command[0] != "train":
        raise UserError(
            f"behind -- stands {' '.join(command)!r}: give the command to start there, for example "
            "-- train --config=experiments/paired.py --workdir=runs/paired"
        )
    return own, command[1:]


def split_further(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits ``launcher flags [-- further flags]``, which may be missing."""
    own, _, further = _split(argv)
    return own, further


def flag_value(flags: Sequence[str], name: str) -> str | None:
    """Returns what ``--name=value`` or ``--name value`` sets last, None if nothing does."""
    value = None
    for index, word in enumerate(flags):
        flag, has_value, text = word.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            value = text if has_value else "".join(flags[index + 1 : index + 2])
    return value


def refuse_flags(flags: Sequence[str], names: Sequence[str], remedy: str) -> None:
    """Raises a UserError if train's flags hold one that the launcher sets itself."""
    for name in names:
        if flag_value(flags, name) is not None:
            raise UserError(f"--{name} is set by the launcher: {remedy}")


def _split(argv: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in argv:
        return list(argv), False, []
    at = list(argv).index("--")
    return list(argv[:at]), True, list(argv[at + 1 :])


def _leave(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status.USER_ERROR)
