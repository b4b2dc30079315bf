"""How well a classifier tells domains apart, and what it says of images of none of them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from warp_translate.ops.outliers import scramble

_scramble_each = jax.jit(jax.vmap(lambda key, image: scramble(key, image[None])))


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


def evaluate_classifier(
    probabilities: Callable[[np.ndarray], Any],
    images: Sequence[Iterable[Mapping[str, np.ndarray]]],
    domains: Sequence[str],
    *,
    threshold: float,
    kept: int = 0,
) -> ClassificationResult:
    """Measures a classifier on images of known domains, each exactly once.

    Args:
      probabilities: maps uint8 ``[B, S, S, 3]`` to ``[B, D]``.
      images: for each domain batches of ``image``, uint8 ``[B, S, S, 3]``; 4 divides ``S``.
      domains: their names.
      threshold: an image is of none of the domains if no probability reaches it.
      kept: how many doubtful images of each domain are kept.

    Returns:
      The figures.

    Raises:
      ValueError: a domain has no images.
    """
    confusion = np.zeros((len(domains), len(domains)), np.int64)
    entropies, known, right_known, doubtful = [], [], [], []
    unknown_scrambled: list[np.ndarray] = []
    key = jax.random.key(0)
    for place, batches in enumerate(images):
        seen: list[tuple[np.ndarray, float]] = []
        found = []
        for batch in batches:
            shown = batch["image"]
            given = np.asarray(probabilities(shown), np.float64)
            found.append(given)
            seen += zip(shown, given[:, place].tolist(), strict=True)
            seen = sorted(seen, key=lambda each: each[1])[:kept]
            keys = jax.random.split(jax.random.fold_in(key, len(unknown_scrambled)), len(shown))
            pieces = np.asarray(_scramble_each(keys, shown))
            unknown_scrambled.append(np.asarray(probabilities(pieces)).max(1) < threshold)
        if not found:
            raise ValueError(f"the domain {domains[place]} has no images")
        whole = np.concatenate(found)
        best = whole.argmax(1)
        confusion[place] = np.bincount(best, minlength=len(domains))
        entropies.append(-np.log(np.maximum(whole[:, place], 1e-12)).mean())
        sure = whole.max(1) >= threshold
        known.append(sure)
        right_known.append((best == place)[sure])
        doubtful.append(seen)
    each = confusion.diagonal() / confusion.sum(1)
    among_known = np.concatenate(right_known)
    scalars = {
        "cross_entropy": float(np.mean(entropies)),
        "accuracy": float(each.mean()),
        **{f"accuracy/{name}": float(value) for name, value in zip(domains, each, strict=True)},
        "known": float(np.concatenate(known).mean()),
        "accuracy_known": float(among_known.mean()) if among_known.size else 0.0,
        "unknown_scrambled": float(np.concatenate(unknown_scrambled).mean()),
    }
    return ClassificationResult(scalars, confusion, doubtful)
