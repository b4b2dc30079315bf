"""Evaluation between two domains without pairs: distances between sets, cycles, what was kept."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from warp_translate.errors import UserError
from warp_translate.evaluation import evaluator, metrics
from warp_translate.evaluation.accumulator import Accumulator, Batch
from warp_translate.evaluation.distances import KERNEL, LEAST_ROWS, kernel_distance
from warp_translate.evaluation.features import FeatureExtractor
from warp_translate.models import Translation
from warp_translate.ops import MaskWeights
from warp_translate.types import Array, PyTree, to_float, to_uint8

Translate = Callable[[Array], Translation]

_COLUMNS = (*evaluator.COLUMNS[:-1], "back", evaluator.COLUMNS[-1])


@dataclasses.dataclass(frozen=True)
class DirectionSheet:
    """Examples of one direction for ``sheet.write_sheet``.

    Attributes:
      columns: the titles.
      rows: one list of uint8 pictures in the order of the columns for each example.
      wheel_magnitude: displacement in pixels that the pictures show in full colour.
    """

    columns: tuple[str, ...]
    rows: list[list[np.ndarray]]
    wheel_magnitude: float


@dataclasses.dataclass(frozen=True)
class DomainsResult:
    """What an evaluation between two domains found.

    Attributes:
      scalars: by direction and name, see `evaluate_domains`.
      protocol: how they were found, ready for JSON.
      sheets: by direction, ``a_to_b`` and ``b_to_a``; none where no example was kept.
    """

    scalars: dict[str, float]
    protocol: dict[str, Any]
    sheets: dict[str, DirectionSheet]


def evaluate_domains(
    translate_ab: Translate,
    translate_ba: Translate | None,
    batches_a: Iterable[Batch],
    batches_b: Iterable[Batch],
    *,
    extractor: FeatureExtractor | None = None,
    paired: bool = False,
    sheet_rows: int = 0,
    counts: tuple[int, int] | None = None,
    further_a: np.ndarray | None = None,
    further_b: np.ndarray | None = None,
    mask_weights: MaskWeights = "pretranslated",
) -> DomainsResult:
    """Measures one or two generators on the test images of two domains.

    Every test image is translated once, and back once where there is a generator for it. For each
    direction, ``a_to_b`` and, with a second generator, ``b_to_a``, the scalars are means over the
    test images unless noted:

    * ``output/sharpness_of_original``: fine detail as a multiple of the original's.
    * ``background/psnr`` and ``background/share``: `metrics.background_kept`. The first is the mean
      over the images that have a background, and is left out where none has.
    * ``mask/mean``, ``mask/saturated``, ``displacement/mean_px``.
    * ``cycle/l1``: the output translated back against the original, on the [0, 1] scale, with a
      second generator.
    * ``kernel_distance/NAME/after``: of the translated images to the real ones of the domain they
      should belong to, under the extractor of that name; ``before``: of the originals to the same;
      ``after_error`` and ``before_error``: standard errors; ``ratio``: after / before, left out
      where before is not positive. With an extractor.
    * all scalars of `evaluator.PairedResult`, where the images are paired.

    Args:
      translate_ab: maps floats ``[B, H, W, 3]`` in [-1, 1] of domain A to a translation.
      translate_ba: the same from B, or None.
      batches_a: test images of A, "image" uint8 ``[B, H, W, 3]``; read once, and the last batch may
        be smaller.
      batches_b: test images of B.
      extractor: what the kernel distances see, or None to leave them out.
      paired: the i-th images of A and B match point by point; their batches have the same sizes.
      sheet_rows: how many examples of each direction to keep as pictures.
      counts: number of test images of A and B, which ``sheet_rows`` needs to spread them.
      further_a: features ``[N, D]`` of further real images of A, for instance those of training, by
        the same extractor. They join the test images as what translations from B are compared
        with.
      further_b: the same of B. Of paired images, the test images of B are the very truth of the
        translated ones, not an independent sample, and alone they make the distances too small,
        even negative.
      mask_weights: the image that is multiplied by the mask, see ``ops.fuse``.

    Returns:
      The scalars, the protocol and the sheets.

    Raises:
      ValueError: a domain has no image.
      UserError: a domain has too few images for a kernel distance, or images said to be paired do
        not match in number.
    """
    domain_a, domain_b = _RealImages(extractor), _RealImages(extractor)
    forth = _Direction(translate_ab, translate_ba, mask_weights, sheet_rows, counts, extractor)
    back = None
    if translate_ba is not None:
        turned = counts and counts[::-1]
        back = _Direction(translate_ba, translate_ab, mask_weights, sheet_rows, turned, extractor)

    if paired:
        for batch_a, batch_b in _matched(batches_a, batches_b):
            domain_a.add_test(batch_a)
            domain_b.add_test(batch_b)
            forth.add(batch_a, batch_b)
            if back:
                back.add(batch_b, batch_a)
    else:
        for batch in batches_a:
            domain_a.add_test(batch)
            forth.add(batch, None)
        for batch in batches_b:
            domain_b.add_test(batch)
            if back:
                back.add(batch, None)
    if extractor is not None:
        domain_a.add_further(further_a)
        domain_b.add_further(further_b)

    scalars: dict[str, float] = {}
    sheets: dict[str, DirectionSheet] = {}
    for name, direction, source, target in (
        ("a_to_b", forth, domain_a, domain_b),
        ("b_to_a", back, domain_b, domain_a),
    ):
        if direction:
            found = direction.scalars(source, target)
            scalars |= {f"{name}/{key}": value for key, value in found.items()}
            if sheet_rows:
                sheets[name] = direction.sheet()
    protocol = {
        "images": {"a": domain_a.tested, "b": domain_b.tested},
        "paired": paired,
        "mask_weights": mask_weights,
        "background": f"weight of the pretranslated image < {metrics.BACKGROUND_WEIGHT}, "
        f"displacement < {metrics.BACKGROUND_DISPLACEMENT} px",
        "kernel_distance": extractor
        and {
            "extractor": extractor.protocol(),
            "estimate": f"unbiased, all pairs, kernel {KERNEL}",
            "real_a": {"test": domain_a.tested, "further": domain_a.further},
            "real_b": {"test": domain_b.tested, "further": domain_b.further},
        },
    }
    return DomainsResult(scalars, protocol, sheets)


class _RealImages:
    """The real images of one domain: how many, and their features."""

    def __init__(self, extractor: FeatureExtractor | None) -> None:
        self._extractor = extractor
        self.tested, self.further = 0, 0
        self._features: list[np.ndarray] = []

    def add_test(self, batch: Batch) -> None:
        if self._extractor:
            self._features.append(self._extractor(batch["image"]))
        self.tested += len(batch["image"])

    def add_further(self, features: np.ndarray | None) -> None:
        """Takes the features of real images that are not to be translated."""
        if features is not None:
            self._features.append(features)
            self.further += len(features)

    def test_features(self) -> np.ndarray:
        return np.concatenate(self._features)[: self.tested]

    def features(self) -> np.ndarray:
        return np.concatenate(self._features)


class _Direction:
    """One generator's translations of the test images of one domain, measured as they come."""

    def __init__(
        self,
        forward: Translate,
        backward: Translate | None,
        mask_weights: MaskWeights,
        sheet_rows: int,
        counts: tuple[int, ...] | None,
        extractor: FeatureExtractor | None,
    ) -> None:
        self._extractor = extractor
        self._features: list[np.ndarray] = []
        self._accumulator = Accumulator(
            lambda batch: _measure(forward, backward, mask_weights, batch),
            keep=sheet_rows,
            expected=counts[0] if counts else None,
        )

    def add(self, source: Batch, truth: Batch | None) -> None:
        """Translates test images; the truth is the other domain's batch where they are paired."""
        batch = {"source": source["image"]}
        if truth is not None:
            batch["target"] = truth["image"]
        made = self._accumulator.add(batch)
        if self._extractor:
            translated = np.asarray(made["output"])[: len(source["image"])]
            self._features.append(self._extractor(translated))

    def scalars(self, source: _RealImages, target: _RealImages) -> dict[str, float]:
        means = self._accumulator.means()
        present = means.pop("background/present")
        background = means.pop("background/psnr")
        if present:
            means["background/psnr"] = background / present
        if "identity/l1" in means:
            means |= evaluator.against_identity(means)
        if self._extractor:
            means |= self._distances(self._extractor.name, source, target)
        return means

    def sheet(self) -> DirectionSheet:
        kept = self._accumulator.kept
        magnitude = evaluator.wheel_magnitude([made["translation"] for _, made in kept])
        pictures = [_pictures(example, made, magnitude) for example, made in kept]
        columns = tuple(name for name in _COLUMNS if all(name in each for each in pictures))
        rows = [[each[name] for name in columns] for each in pictures]
        return DirectionSheet(columns, rows, magnitude)

    def _distances(
        self, extractor: str, source: _RealImages, target: _RealImages
    ) -> dict[str, float]:
        translated, real = np.concatenate(self._features), target.features()
        if min(len(translated), len(real)) < LEAST_ROWS:
            raise UserError(
                f"{len(translated)} translated and {len(real)} real images are too few for a "
                f"kernel distance: give {LEAST_ROWS} of either, or evaluate without an extractor"
            )
        before = kernel_distance(source.test_features(), real)
        after = kernel_distance(translated, real)
        found = {
            "before": before.value,
            "before_error": before.standard_error,
            "after": after.value,
            "after_error": after.standard_error,
        }
        if before.value > 0:
            found["ratio"] = after.value / before.value
        return {f"kernel_distance/{extractor}/{name}": value for name, value in found.items()}


def _matched(
    batches_a: Iterable[Batch], batches_b: Iterable[Batch]
) -> Iterator[tuple[Batch, Batch]]:
    nothing: Batch = {"image": np.empty(0)}
    for batch_a, batch_b in itertools.zip_longest(batches_a, batches_b, fillvalue=nothing):
        sizes = len(batch_a["image"]), len(batch_b["image"])
        if sizes[0] != sizes[1]:
            raise UserError(
                f"paired test images come in batches of {sizes[0]} and {sizes[1]}: give both "
                "domains the same number of images, or evaluate them as unpaired"
            )
        yield batch_a, batch_b


def _measure(
    forward: Translate,
    backward: Translate | None,
    mask_weights: MaskWeights,
    batch: Mapping[str, Array],
) -> tuple[dict[str, Array], PyTree]:
    """Measures "source" and, where there is one, "target", uint8 ``[B, H, W, 3]`` each."""
    original = to_float(batch["source"])
    translation = forward(original)
    made = {"translation": translation, "output": to_uint8(translation.output)}
    output = jnp.clip(translation.output, -1.0, 1.0)
    mask = translation.mask
    kept = metrics.background_kept(
        output,
        original,
        mask if mask_weights == "pretranslated" else 1.0 - mask,
        translation.displacement,
    )
    values = evaluator.map_statistics(translation) | {
        "output/sharpness_of_original": metrics.sharpness_ratio(output, original),
        "background/share": kept.share,
        # The mean over the images that have a background is the quotient of the next two.
        "background/psnr": jnp.where(kept.share > 0, kept.psnr, 0.0),
        "background/present": (kept.share > 0).astype(jnp.float32),
    }
    if backward is not None:
        returned = backward(translation.output).output
        made["back"] = to_uint8(returned)
        values["cycle/l1"] = metrics.l1(jnp.clip(returned, -1.0, 1.0), original)
    if "target" in batch:
        values |= evaluator.against_truth(translation, original, to_float(batch["target"]))
    return values, made


def _pictures(
    example: Mapping[str, np.ndarray], made: Mapping[str, Any], magnitude: float
) -> dict[str, np.ndarray]:
    """The pictures of one example by the title of their column."""
    pictures = evaluator.maps_as_images(made["translation"], magnitude)
    pictures["original"] = example["source"]
    if "back" in made:
        pictures["back"] = made["back"]
    if "target" in example:
        pictures["truth"] = example["target"]
    return pictures
