"""The console script ``warp-translate COMMAND [--flags]``."""

import difflib
import importlib
import sys
from typing import NoReturn

from absl import flags

from warp_translate.cli import status, streams
from warp_translate.cli.extras import missing_package

COMMANDS = {
    "doctor": "tell whether this machine trains and exports, and what to mend if not",
    "data": "look at a folder of images: counts, faults, duplicates, how to train on it",
    "train": "train an experiment, or go on with it",
    "ablate": "run a sweep of an experiment and measure every run",
    "checkpoints": "list what the checkpoints of a run take, remove some",
    "evaluate": "measure a trained generator on the test split and draw a sheet",
    "report": "put runs side by side on a page, as Markdown, as a table",
    "translate": "translate images with a trained generator",
    "device": "tell how fast a bundle is here, and which factor it takes",
    "cost": "count and time a generator by size and factor, part by part",
    "export": "make a folder of a trained generator that can be served",
    "serve": "answer translations over HTTP",
}

_USAGE = "\n".join(
    [
        "usage: warp-translate COMMAND [--flags]",
        "",
        *(f"  {name:<11} {purpose}" for name, purpose in COMMANDS.items()),
        "",
        "warp-translate COMMAND --help lists the flags of a command.",
    ]
)


def main() -> None:
    """Hands the rest of the command line to the command's own program."""
    with streams.ready():
        _start()


def _start() -> None:
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in ("-h", "--help", "help"):
        print(_USAGE)
        return
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        problem = f"there is no command {command!r}{hint}" if command else "no command was given"
        _leave(f"{problem}\n\n{_USAGE}")
    sys.argv = [f"{sys.argv[0]} {command}", *sys.argv[2:]]
    try:
        module = importlib.import_module(f"warp_translate.cli.{command}")
    except ModuleNotFoundError as error:
        message = missing_package(error)
        if message is None:
            raise
        _leave(message)
    except flags.Error as error:  # --flagfile is read as soon as --config is defined.
        _leave(" ".join(str(error).removeprefix("ERROR:: ").split()))
    module.run()


def _leave(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status.USER_ERROR)


if __name__ == "__main__":
    main()
