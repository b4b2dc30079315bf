"""Runs an experiment file; whatever is wrong with it is its user's to mend."""

import os
import traceback
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import ml_collections

from warp_translate.errors import UserError

Result = TypeVar("Result")


def load(path: str) -> ModuleType:
    """Runs an experiment file.

    Args:
      path: the file.

    Returns:
      Its module, which has a ``get_config``.

    Raises:
      UserError: there is no such file, or it cannot be run.
    """
    if not path:
        raise UserError(
            "--config is empty: give an experiment, for example experiments/quickstart.py"
        )
    path = os.path.expanduser(path)
    if not Path(path).is_file():
        state = "is a folder" if Path(path).is_dir() else "is no file"
        raise UserError(
            f"--config={path} {state}: give an experiment, for example experiments/quickstart.py, "
            "in the folder that holds experiments/"
        )
    loader = SourceFileLoader("experiment", path)
    module = ModuleType(loader.name)
    call(path, lambda: loader.exec_module(module))
    if not hasattr(module, "get_config"):
        raise UserError(
            f"--config={path} has no get_config(arg), which returns the configuration: give an "
            "experiment, for example experiments/quickstart.py"
        )
    return module


def configuration(module: ModuleType, path: str, *arg: str) -> ml_collections.ConfigDict:
    """What the ``get_config`` of an experiment returns.

    Args:
      module: from `load`.
      path: of its file, with its argument behind a colon if it has one, for messages.
      *arg: the argument, if there is one.

    Raises:
      UserError: it raises something, or returns something else.
    """
    config = call(path, lambda: module.get_config(*arg))
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"--config={path}: get_config returns {config!r:.60}, it must return a configuration, "
            "as experiments/base.py makes it"
        )
    return config


def call(path: str, function: Callable[[], Result]) -> Result:
    """Calls what an experiment file defines.

    Args:
      path: of the file, with its argument behind a colon if it has one, for messages.
      function: calls it.

    Raises:
      UserError: it raises something; the message says what and where.
    """
    try:
        return function()
    except (Exception, SystemExit) as error:
        words = " ".join(str(error).split())
        if isinstance(error, ModuleNotFoundError) and error.name == "experiments":
            words += ": start the command in the folder that holds experiments/"
        elif not isinstance(error, ValueError | UserError):  # Those say by themselves what to mend.
            words = f"{type(error).__name__}: {words}{_where(error, path.partition(':')[0])}"
        raise UserError(f"--config={path}: {words}") from error


def _where(error: BaseException, path: str) -> str:
    """The line of the file, or of what it has called, that raised an error."""
    if isinstance(error, SyntaxError):
        found = [(error.filename or path, error.lineno)]
    else:
        frames = traceback.extract_tb(error.__traceback__)
        found = [(frame.filename, frame.lineno) for frame in frames if frame.filename != __file__]
    own = [each for each in found if each[0] == path]
    file, line = (own or found or [(path, None)])[-1]
    if line is None:
        return ""
    return f" (line {line})" if file == path else f" ({file}, line {line})"
