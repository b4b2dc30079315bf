"""What networks say of sets of pictures: how far apart they are, and who is taken for whom."""

import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from warp_translate.errors import UserError
from warp_translate.evaluation.distances import (
    KERNEL,
    LEAST_ROWS,
    frechet_distance,
    kernel_distance,
)
from warp_translate.evaluation.features import FeatureExtractor
from warp_translate.evaluation.recognition import Recogniser
from warp_translate.evaluation.sharded_eval import Spread

_KINDS = {"kernel_distance": "kernel distance", "frechet_distance": "Frechet distance"}

_PARTS = {
    "kernel_distance": ("before", "before_error", "after", "after_error", "ratio"),
    "frechet_distance": ("before", "after", "ratio"),
    "similarity": ("original", "others"),
}


@dataclasses.dataclass(frozen=True)
class Judges:
    """The networks that look at originals, translated and real pictures, each of which may be none.

    Attributes:
      spread: the devices.
      extractor: what distances and similarities see.
      recogniser: what tells the domains apart.
    """

    spread: Spread
    extractor: FeatureExtractor | None = None
    recogniser: Recogniser | None = None

    @property
    def blind(self) -> bool:
        """Whether there is no network at all."""
        return self.extractor is None and self.recogniser is None

    def look(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What the networks see in this process's batch, for `spread.InOrder` and then `scores`.

        Args:
          images: uint8 ``[B, H, W, 3]``, at most a batch of ``spread``.

        Returns:
          Rows in the order of the images: "features", and "class", the most probable one.
        """
        seen = {}
        if self.extractor is not None:
            seen["features"] = embed(self.extractor, self.spread, images)
        if self.recogniser is not None:
            scores = embed(self.recogniser.network, self.spread, images)
            seen["class"] = self.recogniser.most_probable(scores)
        return seen

    def scores(
        self,
        before: Mapping[str, np.ndarray],
        after: Mapping[str, np.ndarray],
        real: Mapping[str, np.ndarray],
        *,
        target: int,
        further: np.ndarray | None = None,
    ) -> dict[str, float]:
        """What they say of one direction: `distances`, `similarity` and `Recogniser.scores`.

        Args:
          before: all of `look` of the originals.
          after: of the translated pictures, in the same order.
          real: of real pictures of the domain they should belong to.
          target: that domain, 0 for A and 1 for B.
          further: features ``[N, D]`` of further real pictures of that domain, for the distances.

        Returns:
          The scalars by name; none without a network.

        Raises:
          UserError: there are too few pictures for a distance.
        """
        found: dict[str, float] = {}
        if self.extractor is not None:
            name = self.extractor.name
            features = before["features"], after["features"]
            joined = [real["features"]] if further is None else [real["features"], further]
            found |= distances(name, *features, np.concatenate(joined))
            found |= similarity(name, *features)
        if self.recogniser is not None:
            sides = {"before": before, "after": after, "real": real}
            classes = {name: each["class"] for name, each in sides.items()}
            found |= self.recogniser.scores(classes, target)
        return found

    def names(self) -> list[str]:
        """The names of what `scores` gives, with those that it may leave out."""
        found = []
        if self.extractor is not None:
            found += [
                f"{kind}/{self.extractor.name}/{part}"
                for kind, parts in _PARTS.items()
                for part in parts
            ]
        if self.recogniser is not None:
            found += self.recogniser.names()
        return found

    def protocol(self) -> dict[str, Any]:
        """What a reader of the scores must know, ready for JSON."""
        found: dict[str, Any] = {}
        if self.extractor is not None:
            found |= {
                "extractor": self.extractor.protocol(),
                "kernel_distance": f"unbiased, all pairs, kernel {KERNEL}",
                "frechet_distance": "unbiased covariances; biased by the numbers of images",
            }
        if self.recogniser is not None:
            found["recogniser"] = self.recogniser.protocol()
        return found


def embed(extractor: FeatureExtractor, spread: Spread, images: np.ndarray) -> np.ndarray:
    """Features of this process's batch, a chunk on each device.

    Args:
      extractor: the network.
      spread: the devices.
      images: uint8 ``[B, H, W, 3]``, at most a batch of ``spread``.

    Returns:
      float32 ``[B, D]``, or as many rows for each image as the extractor has views of it; the same
      bits whatever the number of devices.
    """

    def on(device: jax.Device, chunk: np.ndarray) -> np.ndarray:
        with jax.default_device(device):
            return extractor(chunk)

    chunks = spread.chunks(images)
    # The extractor waits for its device, and may be none that jax could map.
    with ThreadPoolExecutor(len(chunks)) as pool:
        return np.concatenate(list(pool.map(on, spread.devices, chunks)))


def distances(
    name: str, before: np.ndarray, after: np.ndarray, real: np.ndarray
) -> dict[str, float]:
    """How far translated pictures are from real ones, and how far the originals were.

    Args:
      name: of the extractor.
      before: features ``[N, D]`` of the originals.
      after: of the translated pictures.
      real: features ``[M, D]`` of real pictures of the domain they should belong to.

    Returns:
      ``kernel_distance/NAME/after`` of the translated and ``before`` of the originals to the real
      ones; ``after_error`` and ``before_error``, standard errors; ``ratio``: after / before, left
      out where before is not positive. Of ``frechet_distance`` the same without errors.

    Raises:
      UserError: there are too few pictures.
    """
    if min(len(after), len(real)) < LEAST_ROWS:
        raise UserError(
            f"{len(after)} translated and {len(real)} real images are too few for a "
            f"kernel distance: give {LEAST_ROWS} of either, or evaluate without an extractor"
        )
    untouched, translated = kernel_distance(before, real), kernel_distance(after, real)
    found = {
        "before": untouched.value,
        "before_error": untouched.standard_error,
        "after": translated.value,
        "after_error": translated.standard_error,
    }
    found = {f"kernel_distance/{name}/{key}": value for key, value in found.items()}
    found[f"frechet_distance/{name}/before"] = frechet_distance(before, real)
    found[f"frechet_distance/{name}/after"] = frechet_distance(after, real)
    for kind in _KINDS:
        if (untouched_value := found[f"{kind}/{name}/before"]) > 0:
            found[f"{kind}/{name}/ratio"] = found[f"{kind}/{name}/after"] / untouched_value
    return found


def similarity(name: str, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Whether translated pictures can still be told to be those of their originals.

    The cosine similarity of features, by which networks for faces tell persons: under such a
    network, ``onnx_features``, it is how far a translation keeps the identity (Deng et al. 2019,
    arXiv:1801.07698).

    Args:
      name: of the extractor.
      before: features ``[N, D]`` of the originals.
      after: of the translated pictures, in the same order.

    Returns:
      ``similarity/NAME/original``, mean of the similarities of each translated picture to its own
      original, and ``others``, mean of those to all originals but its own, which is left out where
      there are no others. Both in [-1, 1].
    """
    first, second = _unit(before), _unit(after)
    own = np.sum(first * second, axis=1)
    found = {f"similarity/{name}/original": float(own.mean())}
    if (count := len(own)) > 1:
        # The sum over all pairs is the product of the sums.
        others = first.sum(axis=0) @ second.sum(axis=0) - own.sum()
        found[f"similarity/{name}/others"] = float(others / (count * (count - 1)))
    return found


def _unit(features: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays as it is."""
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)


def in_words(scalars: Mapping[str, float]) -> list[str]:
    """One line for each kind of figure of `Judges.scores` that is there."""
    lines = []
    for name, value in scalars.items():
        kind, _, rest = name.partition("/")
        if kind in _KINDS and rest.endswith("/after"):
            start = name.removesuffix("after")
            error = scalars.get(f"{start}after_error")
            lines.append(
                f"{_KINDS[kind]} ({rest.removesuffix('/after')}) to real images of the target: "
                f"{scalars[f'{start}before']:.4f} untouched, {value:.4f} translated"
                + (f" (standard error {error:.4f})" if error is not None else "")
            )
        if kind == "similarity" and rest.endswith("/original"):
            others = scalars.get(f"{name.removesuffix('original')}others")
            lines.append(
                f"similarity ({rest.removesuffix('/original')}) of translated images to their own "
                f"originals {value:.3f}"
                + (f", to others {others:.3f}" if others is not None else "")
            )
        if kind == "recognised" and rest.endswith("/after"):
            start = name.removesuffix("after")
            lines.append(
                f"taken for the target by {rest.removesuffix('/after')}: "
                f"{100 * scalars[f'{start}before']:.1f} % untouched, {100 * value:.1f} % "
                f"translated, {100 * scalars[f'{start}real']:.1f} % of the real ones"
            )
    return lines
