"""What the commands answer with a line and an exit status of its own."""

import os


def shown(text: str | os.PathLike[str]) -> str:
    """A path or other text as messages show it: on one line, escaped where not printable.

    File names hold any bytes; those that are not UTF-8 are lone surrogates in Python.
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in os.fspath(text))


class UserError(Exception):
    """A mistake in the input, the configuration or the files that the user can mend.

    The message is one line that names the value, the place and the remedy. Commands print it as
    ``error: ...`` and leave with status 2; they never show a traceback for it.
    """


class Preempted(Exception):
    """The job was asked to leave; the step is saved.

    Attributes:
      step: steps done.
      by_user: whether it was Ctrl-C that asked, and no cluster.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"preempted after step {step}")
        self.step = step
        self.by_user = False
