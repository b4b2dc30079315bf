"""How well a classifier tells domains apart, and what it says of images of none of them."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np

from warp_translate.evaluation.sharded_eval import Batch, InOrder, Spread
from warp_translate.ops.ood_images import scramble
from warp_translate.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class ClassificationResult:
    """What an evaluation found.

    Attributes:
      scalars: ``cross_entropy`` and ``accuracy``, means over domains, so that each counts alike;
        ``accuracy/NAME`` of each domain; ``known``, the share of images above the threshold;
        ``accuracy_known`` among those; ``unknown_scrambled``, the share of images in scrambled
        pieces that are taken for none of the domains.
      confusion: ``[D, D]`` counts, true domain by the most probable one.
      doubtful: for each domain its images and their probability for the true domain, the least
        sure first.
    """

    scalars: dict[str, float]
    confusion: np.ndarray
    doubtful: list[list[tuple[np.ndarray, float]]]


@dataclasses.dataclass(frozen=True)
class ClassifierEvaluation:
    """Measures classifiers on images of known domains, over all devices; compiled once for all.

    Attributes:
      probabilities: maps parameters and uint8 ``[B, S, S, 3]`` to ``[B, D]``, each image for
        itself; 4 divides ``S``.
      spread: the devices.
      domains: their D names.
      threshold: an image is of none of the domains if no probability reaches it.
    """

    probabilities: Callable[[PyTree, Array], Array]
    spread: Spread
    domains: Sequence[str]
    threshold: float

    def __call__(
        self,
        params: PyTree,
        images: Sequence[Iterable[Batch]],
        *,
        kept: int = 0,
        counts: Sequence[int] | None = None,
    ) -> ClassificationResult:
        """Measures each image exactly once, one batch in memory at a time.

        All processes must call this, each with its share of the images, and all get the same.

        Args:
          params: of the classifier.
          images: for each domain batches of ``image``, uint8 ``[B, S, S, 3]``, as `Spread` deals
            them.
          kept: how many doubtful images of each domain are kept.
          counts: number of images of each domain in the whole set, if known.

        Returns:
          The figures.

        Raises:
          ValueError: a domain has no images, or another number than was said.
        """
        shared = self.spread.share(params)
        confusion = np.zeros((len(self.domains), len(self.domains)), np.int64)
        entropies, known, right_known, unknown_scrambled, doubtful = [], [], [], [], []
        for place, (name, batches) in enumerate(zip(self.domains, images, strict=True)):
            found, seen = self._of_domain(shared, place, batches, kept)
            count, probabilities = found.all()
            if not count:
                raise ValueError(f"the domain {name} has no images")
            if counts is not None and count != counts[place]:
                raise ValueError(f"{count} images of {name} were measured, not {counts[place]}")
            whole = probabilities["shown"].astype(np.float64)
            best = whole.argmax(1)
            confusion[place] = np.bincount(best, minlength=len(self.domains))
            entropies.append(-np.log(np.maximum(whole[:, place], 1e-12)).mean())
            sure = whole.max(1) >= self.threshold
            known.append(sure)
            right_known.append((best == place)[sure])
            unknown_scrambled.append(probabilities["scrambled"].max(1) < self.threshold)
            everyones = [each for of_one in self.spread.gather(seen) for each in of_one]
            doubtful.append([(each.image, each.probability) for each in _worst(everyones, kept)])
        each = confusion.diagonal() / confusion.sum(1)
        among_known = np.concatenate(right_known)
        scalars = {
            "cross_entropy": float(np.mean(entropies)),
            "accuracy": float(each.mean()),
            **{
                f"accuracy/{name}": float(value)
                for name, value in zip(self.domains, each, strict=True)
            },
            "known": float(np.concatenate(known).mean()),
            "accuracy_known": float(among_known.mean()) if among_known.size else 0.0,
            "unknown_scrambled": float(np.concatenate(unknown_scrambled).mean()),
        }
        return ClassificationResult(scalars, confusion, doubtful)

    def names(self) -> list[str]:
        """The names of the scalars."""
        return [
            *("cross_entropy", "accuracy", *(f"accuracy/{name}" for name in self.domains)),
            *("known", "accuracy_known", "unknown_scrambled"),
        ]

    def _of_domain(
        self, shared: PyTree, domain: int, batches: Iterable[Batch], kept: int
    ) -> tuple[InOrder, list["_Seen"]]:
        """Measures this process's images of one domain."""
        found = InOrder(self.spread)
        seen: list[_Seen] = []
        for number, batch in enumerate(batches):
            shown = batch["image"]
            places = self.spread.start(number) + np.arange(len(shown), dtype=np.int32)
            domains = np.full_like(places, domain)
            made = self._mapped(shared, {"image": shown, "place": places, "domain": domains})
            rows = {name: np.asarray(row)[: len(shown)] for name, row in made.items()}
            found.add(len(shown), rows)
            seen += map(_Seen, rows["shown"][:, domain].tolist(), places.tolist(), shown)
            # A view would keep the whole batch in memory.
            seen = [
                dataclasses.replace(each, image=each.image.copy()) for each in _worst(seen, kept)
            ]
        return found, seen

    @functools.cached_property
    def _mapped(self) -> Callable[[PyTree, Batch], dict[str, Array]]:
        return self.spread.map(self._measure)

    def _measure(self, params: PyTree, batch: Mapping[str, Array]) -> dict[str, Array]:
        # A picture is cut by its place in the set, wherever and with whomever it is measured.
        root = jax.random.key(0)
        keys = jax.vmap(lambda *names: functools.reduce(jax.random.fold_in, names, root))(
            batch["domain"], batch["place"]
        )
        pieces = jax.vmap(lambda key, image: scramble(key, image[None]))(keys, batch["image"])
        return {
            "shown": self.probabilities(params, batch["image"]),
            "scrambled": self.probabilities(params, pieces),
        }


@dataclasses.dataclass(frozen=True)
class _Seen:
    """An image, its place in its set and its probability for its own domain."""

    probability: float
    place: int
    image: np.ndarray


def _worst(seen: list[_Seen], count: int) -> list[_Seen]:
    return sorted(seen, key=lambda each: (each.probability, each.place))[:count]
