"""Names in requests: a misspelled one is an error, and is not passed over."""

import difflib
from collections.abc import Iterable, Sequence

from warp_translate.errors import UserError


def check(given: Iterable[str], known: Sequence[str], what: str) -> None:
    """Refuses names that are not known, and those that are there more than once.

    Args:
      given: the names.
      known: what they may be.
      what: they name, in the singular: "field".

    Raises:
      UserError: it names the first of them, and the nearest known one.
    """
    seen = set()
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name[:40], known, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
            raise UserError(f"there is no {what} {name[:40]!a}; {hint}")
        if name in seen:
            raise UserError(f"the {what} {name} is there more than once; send it once")
        seen.add(name)
