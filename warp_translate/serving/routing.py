"""Which generator answers a request: the four cases of the patent.

A request holds an image and may hold a target domain (JP7133003B2, claims 3 to 6):

1. a target to which one generator leads: that generator;
2. a target to which several lead: the image is classified, and the one from its domain is taken;
3. no target, and from the image's domain one generator leads on: that generator;
4. no target, and several lead on: the targets are offered as choices.

Domains are names; what the image is, is only asked when it decides something.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping

from warp_translate.errors import UserError

Pair = tuple[str, str]
"""The source and the target domain of a generator."""

Classify = Callable[[], str | None]
"""Returns the domain of the request's image, or None if it is none that is known."""


@dataclasses.dataclass(frozen=True)
class Route:
    """The generator that answers.

    Attributes:
      source: the domain that it translates from.
      target: the domain that it translates to.
      recognised: what the image was classified as; None where nobody asked.
    """

    source: str
    target: str
    recognised: str | None = None


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the user can choose from where the request leaves it open.

    Attributes:
      recognised: what the image was classified as; None if it is none of the known domains.
      pairs: the generators that could answer, sorted.
      probabilities: of every domain that is known, by name; None where nothing was classified.
    """

    recognised: str | None
    pairs: tuple[Pair, ...]
    probabilities: Mapping[str, float] | None = None


class NoRoute(UserError):
    """No generator answers the request.

    Attributes:
      pairs: those that could if the image were of another domain than it looks like.
    """

    def __init__(self, message: str, pairs: tuple[Pair, ...] = ()) -> None:
        super().__init__(message)
        self.pairs = pairs


def route(
    pairs: Collection[Pair],
    classify: Classify | None,
    *,
    source: str | None = None,
    target: str | None = None,
) -> Route | Choices:
    """Chooses a generator.

    Args:
      pairs: the generators that there are.
      classify: tells what the image is; None where there is no classifier. Called once at most,
        and only if its answer matters.
      source: the image's domain, if the request says it; then nothing is classified.
      target: the domain that is wanted, if the request says it.

    Returns:
      The generator, or the choices. Choices are also the answer where the image's domain decides
      and is not known. Without a classifier the only generator there is takes every image.

    Raises:
      NoRoute: no generator leads to the target, from the source, or from what the image is.
    """
    leading = sorted(
        pair
        for pair in set(pairs)
        if (source is None or pair[0] == source) and (target is None or pair[1] == target)
    )
    if not leading:
        raise NoRoute(_nothing_leads(pairs, source, target))
    if source is not None:
        # Said and not to be classified: it is as if there were no other domains.
        return Route(*leading[0]) if len(leading) == 1 else Choices(source, tuple(leading))
    if len(leading) == 1 and (target is not None or classify is None):
        return Route(*leading[0])
    recognised = classify() if classify is not None else None
    if recognised is None:
        return Choices(None, tuple(leading))
    matching = [pair for pair in leading if pair[0] == recognised]
    if not matching:
        to = f" to {target}" if target is not None else ""
        raise NoRoute(
            f"the image looks like {recognised}, but no generator leads from there{to}; say what "
            f"it is with source, one of {_join(pair[0] for pair in leading)}",
            tuple(leading),
        )
    if len(matching) == 1:
        return Route(*matching[0], recognised=recognised)
    return Choices(recognised, tuple(matching))


def _nothing_leads(pairs: Collection[Pair], source: str | None, target: str | None) -> str:
    if not pairs:
        return "there is no generator; add a bundle to the folder that is served"
    sources, targets = ({pair[place] for pair in pairs} for place in (0, 1))
    if source is not None and source not in sources:
        return f"no generator leads from {source}; there are those from {_join(sources)}"
    if target is not None and target not in targets:
        return f"no generator leads to {target}; there are those to {_join(targets)}"
    known = _join(f"{a} to {b}" for a, b in pairs)
    return f"no generator leads from {source} to {target}; there are {known}"


def _join(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))
