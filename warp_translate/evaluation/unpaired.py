"""Evaluation between two domains without pairs: distances between sets, cycles, what was kept."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from warp_translate.errors import UserError
from warp_translate.evaluation import distribution_metrics, evaluator, metrics, sharpness
from warp_translate.evaluation.accumulator import Accumulator
from warp_translate.evaluation.features import FeatureExtractor
from warp_translate.evaluation.recognition import Recogniser
from warp_translate.evaluation.sharded_eval import Batch, InOrder, Spread
from warp_translate.models import Translation
from warp_translate.ops import MaskWeights
from warp_translate.types import Array, PyTree, to_float, to_uint8

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
      scalars: by direction and name, see `DomainsEvaluation`.
      sheets: by direction, ``a_to_b`` and ``b_to_a``; none where no example was kept.
    """

    scalars: dict[str, float]
    sheets: dict[str, DirectionSheet]


@dataclasses.dataclass(frozen=True)
class DomainsEvaluation:
    """Measures generators between two domains, over all devices; compiled once for all of them.

    Attributes:
      translate: maps parameters and floats ``[B, H, W, 3]`` in [-1, 1] to a translation, each
        example for itself.
      spread: the devices.
      extractor: what the distances between sets see, or None to leave them out.
      paired: the i-th images of A and B match point by point.
      mask_weights: the image that is multiplied by the mask, see ``ops.fuse``.
      bound: what the components of a displacement cannot pass, in pixels; None leaves out how
        often they reach it.
      recogniser: what tells the domains apart, or None.
    """

    translate: Callable[[PyTree, Array], Translation]
    spread: Spread
    extractor: FeatureExtractor | None = None
    paired: bool = False
    mask_weights: MaskWeights = "pretranslated"
    bound: float | None = None
    recogniser: Recogniser | None = None

    def __call__(
        self,
        params_ab: PyTree,
        params_ba: PyTree | None,
        batches_a: Iterable[Batch],
        batches_b: Iterable[Batch],
        *,
        sheet_rows: int = 0,
        counts: tuple[int, int] | None = None,
        further_a: np.ndarray | None = None,
        further_b: np.ndarray | None = None,
    ) -> DomainsResult:
        """Measures one or two generators on the test images of two domains.

        Every test image is translated once, and back once where there is a generator for it. All
        processes must call this, each with its share of the images, and all get the same. For each
        direction, ``a_to_b`` and, with a second generator, ``b_to_a``, the scalars are means over
        the test images unless noted:

        * ``output/sharpness_of_original``: fine detail as a multiple of the original's.
        * ``background/psnr`` and ``background/share``: `metrics.background_kept`. The first is the
          mean over the images that have a background, and is left out where none has.
        * what `evaluator.map_statistics` says of the maps.
        * ``cycle/l1``: the output translated back against the original, on the [0, 1] scale, with a
          second generator.
        * what `sets.Judges` say of the translated images beside their originals and the real ones
          of the domain they should belong to.
        * all scalars of `evaluator.PairedResult`, where the images are paired.

        Args:
          params_ab: of the generator from A to B.
          params_ba: of the one from B to A, or None.
          batches_a: test images of A, "image" uint8 ``[B, H, W, 3]``, as `Spread` deals them; read
            once.
          batches_b: test images of B. Of paired images, batches of the same sizes.
          sheet_rows: how many examples of each direction to keep as pictures.
          counts: number of test images of A and B in the whole set, which ``sheet_rows`` needs to
            spread them.
          further_a: features ``[N, D]`` of further real images of A, for instance those of
            training, by the same extractor. They join the test images as what translations from B
            are compared with.
          further_b: the same of B. Of paired images, the test images of B are the very truth of the
            translated ones, not an independent sample, and alone they make the distances too small,
            even negative.

        Returns:
          The scalars and the sheets.

        Raises:
          ValueError: a domain has no image, or another number than was said.
          UserError: a domain has too few images for a distance, or images said to be paired do not
            match in number.
        """
        if self.paired and counts and counts[0] != counts[1]:
            # Known to all processes alike, before any of them waits for the others.
            raise _unequal(*counts)
        domain_a, domain_b = _RealImages(self, 0), _RealImages(self, 1)
        counts_ab = counts or (None, None)
        forth = _Direction(self, params_ab, params_ba, sheet_rows, counts_ab[0])
        back = None
        if params_ba is not None:
            back = _Direction(self, params_ba, params_ab, sheet_rows, counts_ab[1])

        if self.paired:
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
        domain_a.close(further_a)
        domain_b.close(further_b)

        scalars: dict[str, float] = {}
        sheets: dict[str, DirectionSheet] = {}
        for name, direction, source, target in (
            ("a_to_b", forth, domain_a, domain_b),
            ("b_to_a", back, domain_b, domain_a),
        ):
            if direction:
                found, kept = direction.close(source, target)
                scalars |= {f"{name}/{key}": value for key, value in found.items()}
                if sheet_rows:
                    sheets[name] = _sheet(kept)
        return DomainsResult(scalars, sheets)

    def names(self, *, both: bool) -> list[str]:
        """The names of the scalars, with those that may be left out.

        Args:
          both: whether there is a generator back.
        """
        found = [
            *evaluator.map_names(self.bound is not None),
            *("output/sharpness_of_original", "background/share", "background/psnr"),
            *["cycle/l1"] * both,
            *(evaluator.truth_names() if self.paired else ()),
            *self.judges.names(),
        ]
        directions = ("a_to_b", "b_to_a") if both else ("a_to_b",)
        return [f"{direction}/{name}" for direction in directions for name in found]

    def embed(self, batches: Iterable[Batch]) -> np.ndarray:
        """Features ``[N, D]`` of a whole set, for ``further_a`` and ``further_b``.

        All processes must call this, each with its share of the images, and all get the same.
        """
        assert self.extractor is not None
        found = InOrder(self.spread)
        for batch in batches:
            features = distribution_metrics.embed(self.extractor, self.spread, batch["image"])
            found.add(len(batch["image"]), features)
        return found.all()[1]

    @functools.cached_property
    def judges(self) -> distribution_metrics.Judges:
        """The networks that look at the pictures."""
        return distribution_metrics.Judges(self.spread, self.extractor, self.recogniser)

    @functools.cached_property
    def mapped(self) -> Callable[[PyTree, Batch], Any]:
        """`measure` over the devices."""
        return self.spread.map(self.measure)

    def measure(
        self, params: tuple[PyTree, PyTree | None], batch: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, PyTree]]:
        """Measures "source" and, where there is one, "target", uint8 ``[B, H, W, 3]`` each.

        Args:
          params: of the generator of this direction and of the one back, which may be None.
          batch: images of one domain.

        Returns:
          Values ``[B]`` by name, and "translation", "output" and "back".
        """
        forward, backward = params
        original = to_float(batch["source"])
        translation = self.translate(forward, original)
        made = {"translation": translation, "output": to_uint8(translation.output)}
        output = jnp.clip(translation.output, -1.0, 1.0)
        mask = translation.mask
        kept = metrics.background_kept(
            output,
            original,
            mask if self.mask_weights == "pretranslated" else 1.0 - mask,
            translation.displacement,
        )
        values = evaluator.map_statistics(translation, self.bound) | {
            "output/sharpness_of_original": sharpness.sharpness_ratio(output, original),
            "background/share": kept.share,
            # The mean over the images that have a background is the quotient of the next two.
            "background/psnr": jnp.where(kept.share > 0, kept.psnr, 0.0),
            "background/present": (kept.share > 0).astype(jnp.float32),
        }
        if backward is not None:
            returned = self.translate(backward, translation.output).output
            made["back"] = to_uint8(returned)
            values["cycle/l1"] = metrics.l1(jnp.clip(returned, -1.0, 1.0), original)
        if "target" in batch:
            values |= evaluator.against_truth(translation, original, to_float(batch["target"]))
        return values, made

    def protocol(
        self, counts: tuple[int, int], further: tuple[int, int] = (0, 0)
    ) -> dict[str, Any]:
        """How the scalars are found, ready for JSON.

        Args:
          counts: number of test images of A and B.
          further: number of further real images of A and B.
        """
        protocol = {
            "images": {"a": counts[0], "b": counts[1]},
            "paired": self.paired,
            "mask_weights": self.mask_weights,
            "background": f"weight of the pretranslated image < {metrics.BACKGROUND_WEIGHT}, "
            f"displacement < {metrics.BACKGROUND_DISPLACEMENT} px",
        }
        if self.extractor is not None:
            protocol |= {
                f"real_{domain}": {"test": tested, "further": others}
                for domain, tested, others in zip("ab", counts, further, strict=True)
            }
        return protocol | self.judges.protocol()


class _RealImages:
    """What the networks see in the real images of one domain."""

    def __init__(self, evaluation: DomainsEvaluation, domain: int) -> None:
        self.domain = domain
        self._judges = evaluation.judges
        self._tested = InOrder(evaluation.spread)
        self.seen: dict[str, np.ndarray] = {}
        self.further: np.ndarray | None = None

    def add_test(self, batch: Batch) -> None:
        self._tested.add(len(batch["image"]), self._judges.look(batch["image"]))

    def close(self, further: np.ndarray | None) -> None:
        """Takes the features of real images that are not to be translated."""
        count, seen = self._tested.all()
        if not count and not self._judges.blind:
            raise ValueError("there is nothing to evaluate: no batch came of one of the domains")
        self.seen, self.further = seen or {}, further


class _Direction:
    """One generator's translations of the test images of one domain, measured as they come."""

    def __init__(
        self,
        evaluation: DomainsEvaluation,
        forward: PyTree,
        backward: PyTree | None,
        sheet_rows: int,
        count: int | None,
    ) -> None:
        self._evaluation = evaluation
        self._seen = InOrder(evaluation.spread)
        self._accumulator = Accumulator(
            evaluation.spread,
            evaluation.mapped,
            evaluation.spread.share((forward, backward)),
            keep=sheet_rows,
            expected=count,
        )

    def add(self, source: Batch, truth: Batch | None) -> None:
        """Translates test images; the truth is the other domain's batch where they are paired."""
        batch = {"source": source["image"]}
        if truth is not None:
            batch["target"] = truth["image"]
        made = self._accumulator.add(batch)
        size = len(source["image"])
        translated = np.asarray(made["output"])[:size]
        self._seen.add(size, self._evaluation.judges.look(translated))

    def close(
        self, source: _RealImages, target: _RealImages
    ) -> tuple[dict[str, float], list[tuple[dict[str, np.ndarray], PyTree]]]:
        """The scalars, and the examples that were kept with what was made of them."""
        totals = self._accumulator.totals()
        means = totals.means
        present = means.pop("background/present")
        background = means.pop("background/psnr")
        if present:
            means["background/psnr"] = background / present
        if "identity/l1" in means:
            means |= evaluator.against_identity(means)
        means |= self._evaluation.judges.scores(
            source.seen,
            self._seen.all()[1],
            target.seen,
            target=target.domain,
            further=target.further,
        )
        return means, totals.kept


def _sheet(kept: list[tuple[dict[str, np.ndarray], PyTree]]) -> DirectionSheet:
    magnitude = evaluator.wheel_magnitude([made["translation"] for _, made in kept])
    pictures = [_pictures(example, made, magnitude) for example, made in kept]
    columns = tuple(name for name in _COLUMNS if all(name in each for each in pictures))
    rows = [[each[name] for name in columns] for each in pictures]
    return DirectionSheet(columns, rows, magnitude)


def _matched(
    batches_a: Iterable[Batch], batches_b: Iterable[Batch]
) -> Iterator[tuple[Batch, Batch]]:
    nothing: Batch = {"image": np.empty(0)}
    for batch_a, batch_b in itertools.zip_longest(batches_a, batches_b, fillvalue=nothing):
        sizes = len(batch_a["image"]), len(batch_b["image"])
        if sizes[0] != sizes[1]:
            raise _unequal(*sizes)
        yield batch_a, batch_b


def _unequal(first: int, second: int) -> UserError:
    return UserError(
        f"paired test images come in numbers of {first} and {second}: give both domains the same "
        "number of images, or evaluate them as unpaired"
    )


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
