"""What all commands share: how a program starts and how a user's mistake ends it."""

import contextlib
import difflib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from types import FrameType
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from warp_translate import interrupts
from warp_translate.cli import status, streams
from warp_translate.cli.extras import missing_package
from warp_translate.cli.path_flag import define_path
from warp_translate.errors import Preempted, UserError, shown

WORKDIR = define_path("workdir", "Folder of the run: checkpoints, logs, config.")
OUTPUT = define_path(
    "output",
    "Folder to write to; cost takes a JSON file, and translate of one picture a file, or - for "
    "standard output.",
)
DIRECTION = flags.DEFINE_string(
    "direction",
    None,
    "Which generator of a cycle run, a_to_b or b_to_a: translate takes the first by default, and "
    "export both.",
)
STEP = flags.DEFINE_string(
    "step", "best", "Checkpoint: best, latest, or a number of steps; evaluate takes all as well."
)
FACTOR = flags.DEFINE_integer(
    "factor",
    None,
    "How many times smaller the trunk's image is; the run's or the bundle's own by default.",
)

# What absl and Python say of values of a wrong type, and what it means.
_REASONS = {
    "could not convert string to float": "a number",
    "invalid literal for int()": "a whole number",
    "('Non-boolean argument to boolean flag'": "true or false",
}


def run(
    main: Callable[[Sequence[str]], None], *, takes: Collection[flags.FlagHolder] | None = None
) -> None:
    """Runs an absl program; a UserError becomes one line on stderr and status 2.

    Args:
      main: takes the command line without its flags.
      takes: the flags of other modules that it reads; all of them by default. One that it would not
        look at is a mistake.
    """
    # Experiment files import their base from the checkout they are called in, with the console
    # script as well as with `python -m`.
    sys.path.insert(0, os.getcwd())
    logging.getLogger("absl").addFilter(_without_orbax)
    logging.getLogger("asyncio").addFilter(_without_lost_tasks)
    absl_logging.get_absl_handler().setFormatter(_PlainFormatter())
    sys.unraisablehook = _without_late_answers
    for talkative in ("jax", "fsspec"):  # Of every backend they did not find, of every file read.
        logging.getLogger(talkative).setLevel(logging.WARNING)
    others: set[str] = set()
    if takes is not None:
        others = _flags_of_others(main.__module__) - {flag.name for flag in takes}
    interrupts.watch(_leave_interrupted)
    with streams.ready():
        app.run(
            lambda argv: _guard(lambda: main(argv)), flags_parser=lambda argv: _parse(argv, others)
        )


def _flags_of_others(module: str) -> set[str]:
    """The names of the flags that the modules of the package define, one module aside."""
    return {
        flag.name
        for name, found in flags.FLAGS.flags_by_module_dict().items()
        for flag in found
        if name.startswith("warp_translate.") and name != module
    }


def _guard(action: Callable[[], None]) -> None:
    try:
        with contextlib.ExitStack() as stack:
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                answer = interrupts.handled_by(signal.SIGINT, _interrupt, limit=1)
                stack.enter_context(answer)
            action()
    except UserError as error:
        _leave(str(error))
    except Preempted as notice:
        print(
            f"asked to leave: step {notice.step} is saved, and the same command goes on from it",
            file=sys.stderr,
        )
        sys.exit(status.INTERRUPTED if notice.by_user else status.PREEMPTED)
    except KeyboardInterrupt:
        _leave_interrupted()
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (message := missing_package(error)):
            _leave(message)
        distributed = _with_others()
        if not distributed:
            raise
        if distributed.is_peer_loss(error):
            words = " ".join(str(error).split())[:200]
            print(
                f"error: the processes lost each other ({words}); start all of them again to go "
                "on from the last checkpoint",
                file=sys.stderr,
            )
            _exit(status.PEER_LOST)
        traceback.print_exc()
        _exit(status.CRASHED)


def _parse(argv: list[str], others: set[str]) -> list[str]:
    """Parses flags; experiment files run here, and overrides of their fields are checked here.

    Args:
      argv: the command line.
      others: the names of flags that are defined, and that the program does not look at.
    """
    try:
        rest = flags.FLAGS(argv)
    except UserError as error:
        _leave(str(error))
    except flags.UnrecognizedFlagError as error:
        _leave(f"there is no flag --{error.flagname}; {_nearest_flag(error.flagname, others)}")
    except flags.IllegalFlagValueError as error:
        _leave(_in_plain_words(str(error)))
    except flags.Error as error:
        _leave(" ".join(str(error).split()))
    for name in sorted(others):
        if flags.FLAGS[name].present:
            _leave(f"--{name} is not for this command: leave it out; {_nearest_flag(name, others)}")
    return rest


def _nearest_flag(name: str, others: set[str]) -> str:
    """What to try in place of a flag that is none of the program's."""
    if name.startswith("config."):
        if "config" in flags.FLAGS:
            return "--config=experiments/FILE.py, which has such fields, is missing"
        return "this command has no --config: a run and a bundle have their own"
    known = {
        flag.name
        for module, found in flags.FLAGS.flags_by_module_dict().items()
        for flag in found
        if not module.startswith("absl.")
    }
    close = difflib.get_close_matches(name, known - others, n=1)
    return f"did you mean --{close[0]}?" if close else "--help lists those there are"


def _in_plain_words(message: str) -> str:
    """What absl says of a value that a flag does not take, with what it does take."""
    message = " ".join(message.removeprefix("flag ").split())
    for reason, words in _REASONS.items():
        given, found, _ = message.partition(f": {reason}")
        if found:
            return f"{given} must be {words}"
    return message


def _leave(message: str) -> NoReturn:
    print(f"error: {shown(message)}", file=sys.stderr, flush=True)
    if distributed := _with_others():
        # Most mistakes are made by all of them, and each is to say so.
        distributed.wait_to_leave()
    _exit(status.USER_ERROR)


def _exit(code: int) -> NoReturn:
    """Leaves; where there are other processes without waiting for them to do so too."""
    if _with_others():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _leave_interrupted() -> None:
    """Leaves at once, in whatever thread: the main one may be in the compiler.

    Without Python's own way to end, in which jax crashes where its threads still work.
    """
    with contextlib.suppress(Exception):
        # Not by print, which may be what was interrupted.
        os.write(2, b"\ninterrupted; what was saved is kept\n")
        sys.stdout.flush()
    os._exit(status.INTERRUPTED)


def _with_others() -> Any:
    """The module `distributed` where there are other processes, else None.

    Without jax, which commands that serve do not need.
    """
    distributed = sys.modules.get("warp_translate.training.distributed")
    return distributed if distributed and distributed.is_one_of_several() else None


def _without_late_answers(unraisable: "sys.UnraisableHookArgs") -> None:
    """Leaves out what TensorStore's threads print of a loop that Orbax has closed.

    That happens where several arrays cannot be read: the first ends the loop, and is told.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


class _PlainFormatter(logging.Formatter):
    """What is logged as the commands print it: a warning begins with the word, and that is all."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return level + record.getMessage()


def _without_lost_tasks(record: logging.LogRecord) -> bool:
    """Drops what asyncio logs of Orbax's tasks of which the first failure was raised already."""
    message = record.getMessage()
    return not ("never retrieved" in message and f"orbax{os.sep}checkpoint" in message)


def _without_orbax(record: logging.LogRecord) -> bool:
    """Drops what Orbax logs: warnings of its own internals, and tracebacks of its threads.

    Their errors are raised where their results are waited for, and told there in one line.
    """
    return "orbax" not in record.pathname
