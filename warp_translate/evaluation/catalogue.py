"""Titles, units, directions and definitions of the scalars of an evaluation."""

import dataclasses
import math
import re
from typing import Literal

Better = Literal["higher", "lower", "one", "none"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """How to read a scalar.

    Attributes:
      title: column header, for instance "PSNR".
      unit: "dB", "px", "GMAC" or "".
      better: which values are better; "one" is nearer to 1, "none" is descriptive only.
      digits: decimals to show.
      meaning: definition and source in a sentence; "" for an unknown name.
    """

    title: str
    unit: str
    better: Better
    digits: int
    meaning: str


_PREFIX = re.compile(
    r"(?:test/)?(?:factor_(?P<factor>\d+)/)?(?:(?:a_to_b|b_to_a)/)?"
    r"(?:(?:output|pretranslated|warped|identity)/)?"
)

_KERNEL = "unbiased (Gretton et al., 2012; Binkowski et al., 2018)"
_FRECHET = "biased by the number of images (Heusel et al., 2017)"
_AFTER = "translated images to real images of the target"
_BEFORE = "untouched originals to real images of the target"
_FACES = "under a network for faces, whether it is still the same person (Deng et al., 2019)"
_ERROR = "by the jackknife (Arvesen, 1969)"

# By name without its prefix; "*" stands for the name of a network or domain, in the title for "{}".
_METRICS: dict[str, Metric] = {
    "l1": Metric(
        *("L1", "", "lower", 4),
        "Mean absolute difference to the truth on the scale from 0 to 1.",
    ),
    "psnr": Metric(
        *("PSNR", "dB", "higher", 2),
        "Peak signal-to-noise ratio to the truth, at most 100 dB per image.",
    ),
    "ssim": Metric(
        *("SSIM", "", "higher", 4),
        "Structural similarity to the truth (Wang, Bovik, Sheikh and Simoncelli, 2004).",
    ),
    "ms_ssim": Metric(
        *("MS-SSIM", "", "higher", 4),
        "Multiscale structural similarity to the truth (Wang, Simoncelli and Bovik, 2003).",
    ),
    "perceptual": Metric(
        *("perceptual distance", "", "lower", 4),
        "Distance to the truth in the features of EfficientNet-Lite0, without learned weights "
        "(after Zhang et al., 2018).",
    ),
    "l1_ratio": Metric(
        *("L1 / identity", "", "lower", 3),
        "L1 of the output as a multiple of that of the untouched original.",
    ),
    "psnr_gain": Metric(
        *("PSNR gain", "dB", "higher", 2),
        "PSNR of the output minus that of the untouched original.",
    ),
    "sharpness": Metric(
        *("sharpness", "", "one", 3),
        "Variance of the luma's Laplacian as a multiple of the truth's (Pech-Pacheco et al., "
        "2000).",
    ),
    "sharpness_of_original": Metric(
        *("sharpness of original", "", "one", 3),
        "Variance of the luma's Laplacian as a multiple of the original's (Pech-Pacheco et al., "
        "2000).",
    ),
    "gradient": Metric(
        *("gradient", "", "one", 3),
        "Mean length of the luma's gradient as a multiple of the reference's (after Tenenbaum, "
        "1970).",
    ),
    "high_frequency": Metric(
        *("high frequencies", "", "one", 3),
        "Energy of the luma's spectrum above half the Nyquist frequency as a multiple of the "
        "reference's.",
    ),
    "background/psnr": Metric(
        *("background PSNR", "dB", "higher", 2),
        "PSNR to the original over the pixels that mask and displacement leave unchanged, mean "
        "over the images with such pixels.",
    ),
    "background/share": Metric(
        *("background", "", "none", 3),
        "Share of pixels that mask and displacement leave unchanged.",
    ),
    "mask/mean": Metric("mask mean", "", "none", 3, "Mean of the mask."),
    "mask/saturated": Metric(
        *("mask saturated", "", "none", 3), "Share of the mask's pixels within 0.02 of 0 or of 1."
    ),
    "displacement/mean_px": Metric(
        *("mean displacement", "px", "none", 2),
        "Mean length of the displacement in pixels of the original.",
    ),
    "displacement/p95_px": Metric(
        *("95 % displacement", "px", "none", 2),
        "95th percentile of the lengths of an image's displacements in pixels of the original.",
    ),
    "displacement/at_bound": Metric(
        *("displacement at bound", "", "none", 3),
        "Share of pixels with a displacement component within 1 % of its bound.",
    ),
    "cycle/l1": Metric(
        *("cycle L1", "", "lower", 4),
        "Mean absolute difference of the output translated back to the original, on the scale from "
        "0 to 1.",
    ),
    "kernel_distance": Metric(
        *("kernel distance", "", "lower", 4),
        "Squared maximum mean discrepancy of features of translated images to real images of the "
        "target (Gretton et al., 2012; Binkowski et al., 2018), mean over the directions.",
    ),
    "frechet_distance": Metric(
        *("Frechet distance", "", "lower", 2),
        "Squared distance of normal distributions fitted to features of translated images and of "
        "real images of the target (Heusel et al., 2017), mean over the directions; decreases with "
        "the number of images.",
    ),
    "kernel_distance/*/after": Metric(
        *("kernel distance ({})", "", "lower", 4),
        f"Squared maximum mean discrepancy of features of {_AFTER}, {_KERNEL}.",
    ),
    "kernel_distance/*/before": Metric(
        *("kernel distance ({}) untouched", "", "none", 4),
        f"Squared maximum mean discrepancy of features of {_BEFORE}, {_KERNEL}.",
    ),
    "kernel_distance/*/after_error": Metric(
        *("kernel distance ({}) standard error", "", "none", 4),
        f"Standard error of the distance of {_AFTER}, {_ERROR}.",
    ),
    "kernel_distance/*/before_error": Metric(
        *("kernel distance ({}) untouched standard error", "", "none", 4),
        f"Standard error of the distance of {_BEFORE}, {_ERROR}.",
    ),
    "kernel_distance/*/ratio": Metric(
        *("kernel distance ({}) ratio", "", "lower", 3),
        f"After translation over before; {_KERNEL}.",
    ),
    "frechet_distance/*/after": Metric(
        *("frechet distance ({})", "", "lower", 4),
        f"Squared Frechet distance of features of {_AFTER}, {_FRECHET}.",
    ),
    "frechet_distance/*/before": Metric(
        *("frechet distance ({}) untouched", "", "none", 4),
        f"Squared Frechet distance of features of {_BEFORE}, {_FRECHET}.",
    ),
    "frechet_distance/*/ratio": Metric(
        *("frechet distance ({}) ratio", "", "lower", 3),
        f"After translation over before; {_FRECHET}.",
    ),
    "similarity/*/original": Metric(
        *("similarity to its own original ({})", "", "none", 3),
        f"Cosine similarity of the features of a translated image and its own original; {_FACES}.",
    ),
    "similarity/*/others": Metric(
        *("similarity to the originals of others ({})", "", "none", 3),
        f"Cosine similarity of the features of a translated image and other originals; {_FACES}.",
    ),
    "recognised/*/after": Metric(
        *("taken for the target ({})", "", "higher", 3),
        "Share of translated images whose most probable class is the target.",
    ),
    "recognised/*/before": Metric(
        *("taken for the target ({}) untouched", "", "none", 3),
        "Share of untouched originals whose most probable class is the target.",
    ),
    "recognised/*/real": Metric(
        *("taken for the target ({}) real", "", "none", 3),
        "Share of real images of the target whose most probable class is the target.",
    ),
    "cross_entropy": Metric(
        *("cross entropy", "nat", "lower", 4),
        "Negative log probability of the true domain, mean over domains.",
    ),
    "accuracy": Metric(
        *("accuracy", "", "higher", 3),
        "Share of images whose most probable domain is the true one, mean over domains.",
    ),
    "accuracy/*": Metric(
        *("accuracy of {}", "", "higher", 3),
        "Share of images of the domain whose most probable domain is the true one.",
    ),
    "known": Metric(
        *("known", "", "higher", 3),
        "Share of images of the domains with a probability that reaches the threshold.",
    ),
    "accuracy_known": Metric(
        *("accuracy of known", "", "higher", 3),
        "Share of the known images whose most probable domain is the true one.",
    ),
    "unknown_scrambled": Metric(
        *("scrambled unknown", "", "higher", 3),
        "Share of images in scrambled pieces that are assigned to no domain.",
    ),
    "cost": Metric(
        *("cost", "GMAC", "lower", 2),
        "Multiplications of a translation of one image, uint8 to uint8, in billions.",
    ),
}


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
    found, network = _METRICS.get(name[prefix.end() :]), ""
    if found is None:
        network, _, part = rest.rpartition("/")
        found = _METRICS.get(f"{kind}/*/{part}") if network else None
    if found is None and rest:
        network, found = rest, _METRICS.get(f"{kind}/*")
    if found is None:
        return Metric(title=name, unit="", better="none", digits=4, meaning="")
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
