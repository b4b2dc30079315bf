"""What the commands answer with a line and an exit status of its own."""

import difflib
import os
from collections.abc import Iterable, Sequence


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


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The hint ``did you mean NAME?`` with the known name closest to a wrong one.

    Args:
      name: the wrong name.
      known: the valid names.
      cutoff: least similarity, 0 to 1; see ``difflib.get_close_matches``.

    Returns:
      The hint, or an empty string if no known name is close enough.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {close[0]}?" if close else ""


def check_names(given: Iterable[str], known: Sequence[str], what: str) -> None:
    """Checks that names are known and unique.

    Args:
      given: the names.
      known: the valid names.
      what: what a name denotes, in the singular, such as "field".

    Raises:
      UserError: with the first wrong name and the closest valid one.
    """
    seen = set()
    for name in given:
        if name not in known:
            hint = did_you_mean(name[:40], known) or f"known: {', '.join(known) or 'none'}"
            raise UserError(f"there is no {what} {name[:40]!a}; {hint}")
        if name in seen:
            raise UserError(f"the {what} {name} occurs more than once; send it once")
        seen.add(name)
