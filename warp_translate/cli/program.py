"""Runs a command: parses its flags and turns errors into one line and an exit status.

Modules of commands import jax and other heavy packages inside ``main``, so that ``--help`` is fast
and works without them.
"""

import contextlib
import difflib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from warp_translate import interrupts
from warp_translate.cli import status, streams
from warp_translate.cli.commands import Command
from warp_translate.cli.extras import missing_package
from warp_translate.errors import Preempted, UserError, reason, shown

_HELP = ("-h", "-help", "--help", "-?", "--helpshort")
# How absl and Python describe a value of the wrong type, and how this program does.
_REASONS = {
    "could not convert string to float": "a number",
    "invalid literal for int()": "a whole number",
    "('Non-boolean argument to boolean flag'": "true or false",
}


def run(main: Callable[[Sequence[str]], None], command: Command | None = None) -> None:
    """Runs an absl program; a UserError becomes one line on stderr and exit status 2.

    Args:
      main: takes the arguments that are not flags, the name of the program first.
      command: which flags the program takes; by default all that are defined.
    """
    # Experiment files import their base from the current folder, under the console script as
    # under `python -m`.
    sys.path.insert(0, os.getcwd())
    logging.getLogger("absl").addFilter(_drop_orbax)
    logging.getLogger("asyncio").addFilter(_drop_lost_tasks)
    absl_logging.get_absl_handler().setFormatter(_PlainFormatter())
    sys.unraisablehook = _drop_closed_loop
    for chatty in ("jax", "fsspec"):  # Backends that are not there, every file that is read.
        logging.getLogger(chatty).setLevel(logging.WARNING)
    interrupts.watch(_exit_interrupted)

    def checked(argv: Sequence[str]) -> None:
        if command is not None:
            check(command, argv)
        main(argv)

    with streams.ready():
        app.run(
            lambda argv: _guard(lambda: checked(argv)),
            flags_parser=lambda argv: _parse(argv, command),
        )


def check(command: Command, argv: Sequence[str]) -> None:
    """Checks that the required flags are given, and no unexpected argument.

    Raises:
      UserError: they are not.
    """
    if argv[1:] and not command.words:
        raise UserError(f"{command.name} takes flags only, not {' '.join(argv[1:])!r}")
    names = " or ".join(f"--{flag.name}" for flag in command.one_of)
    given = [flag for flag in command.one_of if flag.value is not None]
    if len(given) > 1:
        raise UserError(f"{command.name} takes one of {names}")
    prints = any(flag.value for flag in command.prints)
    required = command.required[:1] if prints else command.required
    missing = [f"--{flag.name}" for flag in required if flag.value is None]
    if names and not given:
        missing.insert(0, names)
    if missing:
        raise UserError(
            f"{command.name} needs {' and '.join(missing)}, for example: "
            f"warp-translate {command.name} {command.examples[0]}"
        )


def _guard(action: Callable[[], None]) -> None:
    try:
        with contextlib.ExitStack() as stack:
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                stack.enter_context(interrupts.handled_by(signal.SIGINT, _interrupt, limit=1))
            action()
    except UserError as error:
        _fail(str(error))
    except Preempted as notice:
        print(f"preempted: saved step {notice.step}; rerun to resume", file=sys.stderr)
        sys.exit(status.INTERRUPTED if notice.by_user else status.PREEMPTED)
    except KeyboardInterrupt:
        _exit_interrupted()
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (message := missing_package(error)):
            _fail(message)
        distributed = _other_processes()
        if not distributed:
            raise
        if distributed.is_peer_loss(error):
            print(
                f"error: lost contact with another process ({reason(error)}); restart all "
                "processes to resume from the last checkpoint",
                file=sys.stderr,
            )
            _exit(status.PEER_LOST)
        traceback.print_exc()
        _exit(status.CRASHED)


def _parse(argv: list[str], command: Command | None) -> list[str]:
    """Parses flags, which runs the experiment file and checks the fields that are overridden."""
    if command is not None:
        for word in argv[1 : argv.index("--") if "--" in argv else None]:
            if word in _HELP:
                print(command.help())
                sys.exit(0)
            if word in ("-helpfull", "--helpfull"):
                print(flags.FLAGS.get_help())
                sys.exit(0)
    own = {flag.name for flag in command.flags} if command else set(flags.FLAGS)
    try:
        rest = flags.FLAGS(argv)
    except UserError as error:
        _fail(str(error))
    except flags.UnrecognizedFlagError as error:
        _fail(f"unknown flag --{error.flagname}; {_suggestion(error.flagname, own)}")
    except flags.IllegalFlagValueError as error:
        _fail(_plain(str(error)))
    except (flags.Error, ValueError) as error:  # A ValueError for --noflag=value.
        _fail(" ".join(str(error).split()))
    for name in sorted(_package_flags() - own):
        if flags.FLAGS[name].present:
            _fail(f"--{name} is a flag of other commands; {_suggestion(name, own)}")
    return rest


def _package_flags() -> set[str]:
    """Names of the flags that this package defines, whatever command they belong to."""
    return {
        flag.name
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        for flag in defined
        if module.startswith("warp_translate.")
    }


def _suggestion(name: str, own: set[str]) -> str:
    """Returns a hint for an unknown flag."""
    if name.startswith("config."):
        if "config" in flags.FLAGS:
            return "give --config=experiments/FILE.py, which defines the fields"
        return "this command takes no --config: a run and a bundle contain their own"
    close = difflib.get_close_matches(name, own, n=1)
    return f"did you mean --{close[0]}?" if close else "--help lists the flags"


def _plain(message: str) -> str:
    """Rewrites absl's message about a value of the wrong type."""
    message = " ".join(message.removeprefix("flag ").split())
    for cause, expected in _REASONS.items():
        given, found, _ = message.partition(f": {cause}")
        if found:
            return f"{given} must be {expected}"
    return message


def _fail(message: str) -> NoReturn:
    # A list of failures has indented lines.
    lines = "\n  ".join(map(shown, message.split("\n  ")))
    print(f"error: {lines}", file=sys.stderr, flush=True)
    if distributed := _other_processes():
        # All processes make most mistakes, and each must have the time to print its own.
        distributed.wait_to_leave()
    _exit(status.USER_ERROR)


def _exit(code: int) -> NoReturn:
    """Exits; with other processes without jax's shutdown, which waits for them."""
    if _other_processes():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _exit_interrupted() -> None:
    """Exits at once, from any thread: the main thread may be in the compiler.

    It skips Python's shutdown, in which jax crashes while its threads run.
    """
    with contextlib.suppress(Exception):
        # Not print, which the signal may have interrupted.
        os.write(2, b"\ninterrupted; saved files are kept\n")
        sys.stdout.flush()
    os._exit(status.INTERRUPTED)


def _other_processes() -> Any:
    """Returns the module `distributed` if there are other processes, else None.

    It does not import jax, which commands that serve do without.
    """
    distributed = sys.modules.get("warp_translate.training.distributed")
    return distributed if distributed and distributed.is_one_of_several() else None


class _PlainFormatter(logging.Formatter):
    """Formats log records as the commands print: the message, with its level if a warning."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return level + record.getMessage()


# Libraries raise the error of a failed read or write, and also print it from their threads. These
# functions drop that output.


def _drop_closed_loop(unraisable: "sys.UnraisableHookArgs") -> None:
    """TensorStore: the first failed array closes the event loop that the others use."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _drop_lost_tasks(record: logging.LogRecord) -> bool:
    """Asyncio: other tasks of Orbax that failed after the first."""
    message = record.getMessage()
    return not ("never retrieved" in message and f"orbax{os.sep}checkpoint" in message)


def _drop_orbax(record: logging.LogRecord) -> bool:
    """Orbax: warnings about its internals, and tracebacks."""
    return "orbax" not in record.pathname
