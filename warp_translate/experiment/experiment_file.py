"""Runs an experiment file; whatever is wrong with it is its user's to mend."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import ml_collections

from warp_translate.errors import UserError

Result = TypeVar("Result")

_FOLDER = "experiments"
_NO_EXPERIMENT = ("__init__", "base", "bases")  # What those of the package are made of.


def shipped() -> Path:
    """The folder ``experiments`` of the package: inside it in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / _FOLDER
    return inside if inside.is_dir() else package.parent / _FOLDER


class _Shipped:
    """Finds ``experiments`` in the package: ``from experiments import base`` works anywhere.

    It comes last among the finders: a folder ``experiments`` of the user's own is imported first,
    and only what is not in it comes from here. For a file of the package it comes first.
    """

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parts = name.split(".")
        if parts[0] != _FOLDER:
            return None
        return PathFinder.find_spec(name, [str(shipped().parent.joinpath(*parts[:-1]))])


def load(path: str) -> ModuleType:
    """Runs an experiment file.

    The file may lie anywhere. It may import what is beside it, and the package's ``experiments``.

    Args:
      path: the file; ``experiments/FILE.py`` is the package's where there is none of one's own.

    Returns:
      Its module, which has a ``get_config``.

    Raises:
      UserError: there is no such file, or it cannot be run.
    """
    if not path:
        raise UserError(
            "--config is empty: give an experiment, for example experiments/quickstart.py"
        )
    file = Path(os.path.expanduser(path))
    if not file.exists() and file.parts[0] == _FOLDER:
        file = shipped().parent / file
    if not file.is_file():
        state = "is a folder" if file.is_dir() else "is no file"
        raise UserError(
            f"--config={path} {state}: give a file of your own, or an experiment of the package: "
            f"{_names()}"
        )
    if _Shipped not in sys.meta_path:
        own = shipped().resolve() in file.resolve().parents
        sys.meta_path.insert(0 if own else len(sys.meta_path), _Shipped)
    if (folder := str(file.parent.absolute())) not in sys.path:
        sys.path.append(folder)
    loader = SourceFileLoader("experiment", str(file))
    module = ModuleType(loader.name)
    module.__file__ = str(file)
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
        if not isinstance(error, ValueError | UserError):  # Those say by themselves what to mend.
            words = f"{type(error).__name__}: {words}{_where(error, path.partition(':')[0])}"
        raise UserError(f"--config={path}: {words}") from error


def _names() -> str:
    """The experiments of the package, by folder."""
    found = []
    for folder in (shipped(), shipped() / "ablations"):
        files = [
            file.name for file in sorted(folder.glob("*.py")) if file.stem not in _NO_EXPERIMENT
        ]
        found.append(f"{folder.relative_to(shipped().parent)}/{', '.join(files)}")
    return "; ".join(found)


def _where(error: BaseException, path: str) -> str:
    """The line of the file, or of what it has called, that raised an error."""
    if isinstance(error, SyntaxError):
        found = [(error.filename or path, error.lineno)]
    else:
        frames = traceback.extract_tb(error.__traceback__)
        found = [(frame.filename, frame.lineno) for frame in frames if frame.filename != __file__]
    own = [each for each in found if Path(each[0]).name == Path(path).name]
    file, line = (own or found or [(path, None)])[-1]
    if line is None:
        return ""
    return f" (line {line})" if own else f" ({file}, line {line})"
