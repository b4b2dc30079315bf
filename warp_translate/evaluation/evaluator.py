"""Evaluation on pairs: the output beside the identity and beside its own branches."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from warp_translate import visualize
from warp_translate.evaluation import distribution_metrics, metrics, sharpness
from warp_translate.evaluation.accumulator import Accumulator
from warp_translate.evaluation.features import FeatureExtractor
from warp_translate.evaluation.perceptual import PerceptualDistance
from warp_translate.evaluation.recognition import Recogniser
from warp_translate.evaluation.sharded_eval import Batch, InOrder, Spread
from warp_translate.models import Translation
from warp_translate.ops.mask_statistics import mask_saturation
from warp_translate.types import Array, PyTree, to_float, to_uint8

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
_RATIOS = {
    "sharpness": sharpness.sharpness_ratio,
    "gradient": sharpness.gradient_ratio,
    "high_frequency": sharpness.high_frequency_ratio,
}

_CANDIDATES = ("output", "identity", "pretranslated", "warped")
_SHARPENED = ("output", "pretranslated")

AT_BOUND = 0.99
"""A displacement is at its bound if one of its components reaches this share of it."""


@dataclasses.dataclass(frozen=True)
class PairedResult:
    """What an evaluation on pairs found.

    Attributes:
      scalars: mean over all examples; ``output/l1``, ``output/psnr`` ... and the same for
        ``identity`` (the original taken as the translation), ``pretranslated`` and ``warped``;
        ``output/l1_ratio`` and ``output/psnr_gain`` against the identity; statistics of the maps;
        and what `sets.Judges` say of the outputs beside the originals and the truths.
      count: number of examples.
      examples: the rows of a sheet, one list of uint8 pictures in the order of ``COLUMNS`` each.
      wheel_magnitude: displacement in pixels that the examples show in full colour.
    """

    scalars: dict[str, float]
    count: int
    examples: list[list[np.ndarray]]
    wheel_magnitude: float


@dataclasses.dataclass(frozen=True)
class PairedEvaluation:
    """Measures a generator on pairs, over all devices; compiled once for all its parameters.

    Attributes:
      translate: maps parameters and floats ``[B, H, W, 3]`` in [-1, 1] to a translation, each
        example for itself.
      spread: the devices.
      bound: what the components of a displacement cannot pass, in pixels; None leaves out how
        often they reach it.
      extractor: what the distances between sets see, or None to leave them out.
      perceptual: what compares each output with its truth as ``output/perceptual``, or None.
      recogniser: what tells the domains apart, or None.
    """

    translate: Callable[[PyTree, Array], Translation]
    spread: Spread
    bound: float | None = None
    extractor: FeatureExtractor | None = None
    perceptual: PerceptualDistance | None = None
    recogniser: Recogniser | None = None

    def __call__(
        self,
        params: PyTree,
        batches: Iterable[Mapping[str, Any]],
        *,
        sheet_rows: int = 0,
        count: int | None = None,
    ) -> PairedResult:
        """Measures each pair exactly once, one batch in memory at a time.

        All processes must call this, each with its share of the pairs, and all get the same.

        Args:
          params: of the generator.
          batches: "source" and "target", uint8 ``[B, H, W, 3]``, as `Spread` deals them.
          sheet_rows: how many examples to keep as pictures, spread evenly over the set.
          count: number of pairs in the whole set, which ``sheet_rows`` needs to spread them.

        Returns:
          The means and the examples.

        Raises:
          ValueError: there is no example, or their number is not ``count``.
        """
        # The network is handed over: what a compiled function encloses is compiled with it.
        shared = self.spread.share((params, self.perceptual and self.perceptual.network.params))
        accumulator = Accumulator(
            self.spread, self._mapped, shared, keep=sheet_rows, expected=count
        )
        judges, seen = self.judges, InOrder(self.spread)
        for batch in batches:
            made = accumulator.add(batch)
            size = len(batch["source"])
            sides = {"before": batch["source"], "real": batch["target"]}
            sides["after"] = np.asarray(made["output"])[:size]
            seen.add(size, {name: judges.look(images) for name, images in sides.items()})
        totals = accumulator.totals()
        scalars = totals.means | against_identity(totals.means)
        scalars |= judges.scores(**seen.all()[1], target=1)
        kept = [(pair, made["translation"]) for pair, made in totals.kept]
        magnitude = wheel_magnitude([translation for _, translation in kept])
        examples = [_row(pair, translation, magnitude) for pair, translation in kept]
        return PairedResult(scalars, totals.count, examples, magnitude)

    def names(self) -> list[str]:
        """The names of the scalars, with those that may be left out."""
        perceptual = ["output/perceptual"] * (self.perceptual is not None)
        bounded = self.bound is not None
        return [*truth_names(), *perceptual, *map_names(bounded), *self.judges.names()]

    @functools.cached_property
    def judges(self) -> distribution_metrics.Judges:
        """The networks that look at the pictures."""
        return distribution_metrics.Judges(self.spread, self.extractor, self.recogniser)

    @functools.cached_property
    def _mapped(self) -> Callable[[PyTree, Batch], Any]:
        return self.spread.map(self._measure)

    def _measure(
        self, shared: tuple[PyTree, PyTree], pair: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, PyTree]]:
        params, network = shared
        original, truth = to_float(pair["source"]), to_float(pair["target"])
        translation = self.translate(params, original)
        values = against_truth(translation, original, truth)
        if self.perceptual is not None:
            loaded = dataclasses.replace(self.perceptual.network, params=network)
            distance = dataclasses.replace(self.perceptual, network=loaded)
            output = jnp.clip(translation.output, -1.0, 1.0)
            values["output/perceptual"] = distance(output, truth)
        made = {"translation": translation, "output": to_uint8(translation.output)}
        return values | map_statistics(translation, self.bound), made


def against_truth(translation: Translation, original: Array, truth: Array) -> dict[str, Array]:
    """Compares the output, both its branches and the untouched original with the truth.

    Args:
      translation: of the originals.
      original: floats ``[B, H, W, 3]`` in [-1, 1].
      truth: what the output ought to be, same shape.

    Returns:
      float32 ``[B]`` by name: ``output/l1``, ``identity/psnr``, ``warped/ssim`` and so on;
      ``output/ms_ssim``; and ``sharpness``, ``gradient`` and ``high_frequency`` of ``output`` and
      ``pretranslated``, see `sharpness`.
    """
    images = (translation.output, original, translation.pretranslated, translation.warped)
    candidates = dict(zip(_CANDIDATES, images, strict=True))
    values = {
        f"{name}/{metric}": function(jnp.clip(images, -1.0, 1.0), truth)
        for name, images in candidates.items()
        for metric, function in _METRICS.items()
    }
    values["output/ms_ssim"] = metrics.ms_ssim(jnp.clip(translation.output, -1.0, 1.0), truth)
    for name in _SHARPENED:
        for ratio, function in _RATIOS.items():
            values[f"{name}/{ratio}"] = function(candidates[name], truth)
    return values


def truth_names() -> list[str]:
    """The names of what `against_truth` and `against_identity` give."""
    return [
        *(f"{name}/{metric}" for name in _CANDIDATES for metric in _METRICS),
        "output/ms_ssim",
        *(f"{name}/{ratio}" for name in _SHARPENED for ratio in _RATIOS),
        *("output/l1_ratio", "output/psnr_gain"),
    ]


def against_identity(means: Mapping[str, float]) -> dict[str, float]:
    """What the output gained on the untouched original, from the means of `against_truth`."""
    return {
        "output/l1_ratio": means["output/l1"] / max(means["identity/l1"], 1e-12),
        "output/psnr_gain": means["output/psnr"] - means["identity/psnr"],
    }


def map_statistics(translation: Translation, bound: float | None = None) -> dict[str, Array]:
    """What the mask and the displacement are like.

    Args:
      translation: of a batch.
      bound: what the components of a displacement cannot pass, in pixels.

    Returns:
      float32 ``[B]`` by name: ``mask/mean``, ``mask/saturated``; of the lengths of an image's
      displacements their mean ``displacement/mean_px`` and their 95th percentile
      ``displacement/p95_px``; with a bound ``displacement/at_bound``, the share of pixels of which
      a component is within 1 % of it.
    """
    displacement = translation.displacement
    magnitude = jnp.sqrt(jnp.square(displacement).sum(-1))
    values = {
        "mask/mean": translation.mask.mean((1, 2, 3)),
        "mask/saturated": mask_saturation(translation.mask),
        "displacement/mean_px": magnitude.mean((1, 2)),
        "displacement/p95_px": jnp.percentile(magnitude, 95, axis=(1, 2)),
    }
    if bound is not None:
        there = (jnp.abs(displacement) >= AT_BOUND * bound).any(-1)
        values["displacement/at_bound"] = there.mean((1, 2), dtype=jnp.float32)
    return values


def map_names(bounded: bool) -> list[str]:
    """The names of what `map_statistics` gives, with a bound or without."""
    names = ["mask/mean", "mask/saturated", "displacement/mean_px", "displacement/p95_px"]
    return names + ["displacement/at_bound"] * bounded


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
    names = (*visualize.MAPS, "output")
    return visualize.draw({name: getattr(translation, name) for name in names}, names, magnitude)


def _row(pair: Mapping[str, Any], translation: Translation, magnitude: float) -> list[np.ndarray]:
    pictures = maps_as_images(translation, magnitude)
    pictures |= {"original": pair["source"], "truth": pair["target"]}
    return [pictures[name] for name in COLUMNS]
