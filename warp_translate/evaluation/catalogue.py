"""Titles, units, directions and definitions of the scalars in ``metrics.toml``."""

import dataclasses
import functools
import math
import re
import tomllib
from importlib import resources
from typing import Literal

Better = Literal["higher", "lower", "one", "none"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """How to read a scalar.

    Attributes:
      title: column header, for instance "PSNR".
      better: which values are better; "one" is nearer to 1, "none" is descriptive only.
      digits: decimals to show.
      meaning: definition and source in a sentence; "" for an unknown name.
      unit: "dB", "px", "GMAC", "nat" or "".
    """

    title: str
    better: Better
    digits: int
    meaning: str
    unit: str = ""


_PREFIX = re.compile(
    r"(?:test/)?(?:factor_(?P<factor>\d+)/)?(?:(?:a_to_b|b_to_a)/)?"
    r"(?:(?:output|pretranslated|warped|identity)/)?"
)


@functools.cache
def _metrics() -> dict[str, Metric]:
    path = resources.files("warp_translate.evaluation") / "metrics.toml"
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: Metric(**fields) for name, fields in found.items()}


def describe(name: str) -> Metric:
    """Looks up a scalar.

    Args:
      name: scalar name such as ``test/factor_4/a_to_b/output/l1``, where ``test/``, the factor, the
        direction and the measured image are optional.

    Returns:
      The metric, with the factor in its title if the name has one; for an unknown name a `Metric`
      with that title, no direction and no meaning.
    """
    prefix = _PREFIX.match(name)
    assert prefix is not None  # All parts are optional.
    kind, _, rest = name[prefix.end() :].partition("/")
    found, network = _metrics().get(name[prefix.end() :]), ""
    if found is None:
        network, _, part = rest.rpartition("/")
        found = _metrics().get(f"{kind}/*/{part}") if network else None
    if found is None and rest:
        network, found = rest, _metrics().get(f"{kind}/*")
    if found is None:
        return Metric(title=name, better="none", digits=4, meaning="")
    title = found.title.replace("{}", network)
    if prefix["factor"]:
        title += f" at factor {prefix['factor']}"
    return dataclasses.replace(found, title=title)


def improvement(name: str, value: float) -> float:
    """Maps a score to a number that is larger for better values.

    Args:
      name: scalar name, as for `describe`.
      value: the scalar's value.

    Returns:
      ``value`` if higher is better, ``-value`` if lower is better, and ``-abs(log(value))`` if 1 is
      best, so that half is as bad as double. ``-inf`` for NaN and for a ratio that is not positive.

    Raises:
      ValueError: the name is unknown or only descriptive.
    """
    metric = describe(name)
    if metric.better == "none":
        known = "only describes" if metric.meaning else "is not known"
        raise ValueError(f"{name} {known}: no value of it is better than another")
    if math.isnan(value):
        return -math.inf
    if metric.better == "one":
        return -abs(math.log(value)) if value > 0 else -math.inf
    return value if metric.better == "higher" else -value
