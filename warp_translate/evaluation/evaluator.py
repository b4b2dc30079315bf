"""Evaluation on pairs: the output beside the identity and beside its own branches."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from warp_translate import map_pictures
from warp_translate.evaluation import metrics
from warp_translate.evaluation.accumulator import Accumulator
from warp_translate.models import Translation
from warp_translate.ops.mask_statistics import mask_saturation
from warp_translate.types import Array, to_float

COLUMNS = (
    "original",
    "reduced",
    "pretranslated",
    "mask",
    "displacement",
    "warped",
    "output",
    "truth",
)
"""The columns of a sheet, in this order."""

_METRICS = {"l1": metrics.l1, "psnr": metrics.psnr, "ssim": metrics.ssim}


@dataclasses.dataclass(frozen=True)
class PairedResult:
    """What an evaluation on pairs found.

    Attributes:
      scalars: mean over all examples; ``output/l1``, ``output/psnr`` ... and the same for
        ``identity`` (the original taken as the translation), ``pretranslated`` and ``warped``;
        ``output/l1_ratio`` and ``output/psnr_gain`` against the identity; statistics of the maps.
      count: number of examples.
      examples: the rows of a sheet, one list of uint8 pictures in the order of ``COLUMNS`` each.
      wheel_magnitude: displacement in pixels that the examples show in full colour.
    """

    scalars: dict[str, float]
    count: int
    examples: list[list[np.ndarray]]
    wheel_magnitude: float


def evaluate_pairs(
    translate: Callable[[Array], Translation],
    batches: Iterable[Mapping[str, Any]],
    *,
    sheet_rows: int = 0,
    count: int | None = None,
) -> PairedResult:
    """Measures a generator on pairs, each exactly once, one batch in memory at a time.

    Args:
      translate: maps floats ``[B, H, W, 3]`` in [-1, 1] to a translation.
      batches: "source" and "target", uint8 ``[B, H, W, 3]``; the last one may be smaller.
      sheet_rows: how many examples to keep as pictures, spread evenly over the set.
      count: number of examples in all batches, which ``sheet_rows`` needs to spread them.

    Returns:
      The means and the examples.

    Raises:
      ValueError: there is no example.
    """

    def measure(pair: Mapping[str, Array]) -> tuple[dict[str, Array], Translation]:
        original, truth = to_float(pair["source"]), to_float(pair["target"])
        translation = translate(original)
        values = against_truth(translation, original, truth) | map_statistics(translation)
        return values, translation

    accumulator = Accumulator(measure, keep=sheet_rows, expected=count)
    for batch in batches:
        accumulator.add(batch)
    scalars = accumulator.means()
    scalars |= against_identity(scalars)
    magnitude = wheel_magnitude([translation for _, translation in accumulator.kept])
    examples = [_row(pair, translation, magnitude) for pair, translation in accumulator.kept]
    return PairedResult(scalars, accumulator.count, examples, magnitude)


def against_truth(translation: Translation, original: Array, truth: Array) -> dict[str, Array]:
    """Compares the output, both its branches and the untouched original with the truth.

    Args:
      translation: of the originals.
      original: floats ``[B, H, W, 3]`` in [-1, 1].
      truth: what the output ought to be, same shape.

    Returns:
      float32 ``[B]`` by name: ``output/l1``, ``identity/psnr``, ``warped/ssim`` and so on, and
      ``output/sharpness`` and ``pretranslated/sharpness``.
    """
    candidates = {
        "output": translation.output,
        "identity": original,
        "pretranslated": translation.pretranslated,
        "warped": translation.warped,
    }
    values = {
        f"{name}/{metric}": function(jnp.clip(images, -1.0, 1.0), truth)
        for name, images in candidates.items()
        for metric, function in _METRICS.items()
    }
    for name in ("output", "pretranslated"):
        values[f"{name}/sharpness"] = metrics.sharpness_ratio(candidates[name], truth)
    return values


def against_identity(means: Mapping[str, float]) -> dict[str, float]:
    """What the output gained on the untouched original, from the means of `against_truth`."""
    return {
        "output/l1_ratio": means["output/l1"] / max(means["identity/l1"], 1e-12),
        "output/psnr_gain": means["output/psnr"] - means["identity/psnr"],
    }


def map_statistics(translation: Translation) -> dict[str, Array]:
    """What the mask and the displacement are like: float32 ``[B]`` by name."""
    magnitude = jnp.sqrt(jnp.square(translation.displacement).sum(-1))
    return {
        "mask/mean": translation.mask.mean((1, 2, 3)),
        "mask/saturated": mask_saturation(translation.mask),
        "displacement/mean_px": magnitude.mean((1, 2)),
    }


def wheel_magnitude(translations: Iterable[Translation]) -> float:
    """The longest displacement of some examples in pixels, 1 at least, for their colours."""
    longest = [
        float(np.linalg.norm(np.asarray(each.displacement), axis=-1).max()) for each in translations
    ]
    return max([1.0, *longest])


def maps_as_images(translation: Translation, magnitude: float) -> dict[str, np.ndarray]:
    """The output and the intermediates of one example as pictures.

    Args:
      translation: one example, ``[H, W, C]`` each.
      magnitude: displacement in pixels to show in full colour.

    Returns:
      uint8 ``[H, W, 3]`` each: "reduced", "pretranslated", "mask", "displacement" (as a colour
      wheel), "warped" and "output".
    """
    names = (*map_pictures.MAPS, "output")
    return map_pictures.draw({name: getattr(translation, name) for name in names}, names, magnitude)


def _row(pair: Mapping[str, Any], translation: Translation, magnitude: float) -> list[np.ndarray]:
    pictures = maps_as_images(translation, magnitude)
    pictures |= {"original": pair["source"], "truth": pair["target"]}
    return [pictures[name] for name in COLUMNS]
