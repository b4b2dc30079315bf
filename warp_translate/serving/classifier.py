"""Runs a domain classifier's bundle: which domain is an image of, if any that is known?

Like the engines it needs ONNX Runtime and no jax, or jax and nothing of the training code.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from warp_translate.serving import bundle as bundles
from warp_translate.serving.bundle import ClassifierBundle
from warp_translate.serving.engine import (
    Backend,
    choose_backend,
    load_computation,
    load_parameters,
    open_session,
)


@dataclasses.dataclass(frozen=True)
class Recognised:
    """What a classifier says of an image.

    Attributes:
      domain: the most probable domain, or None if its probability is below the threshold.
      probabilities: of every domain, by name; they add up to 1.
    """

    domain: str | None
    probabilities: Mapping[str, float]


class Classifier:
    """A classifier that is ready; several threads may use it."""

    def __init__(
        self, bundle: ClassifierBundle, backend: Backend = "auto", *, threads: int | None = None
    ) -> None:
        """Loads the network.

        Args:
          bundle: the bundle.
          backend: what runs it, see `engine.open_engine`.
          threads: most threads of one call in ONNX Runtime, see there.

        Raises:
          UserError: the backend is not installed, or a file is missing or damaged.
        """
        self._bundle = bundle
        if choose_backend(backend) == "onnx":
            self._run = _open_onnx(bundle, threads)
        else:
            self._run = _open_jax(bundle)

    @property
    def bundle(self) -> ClassifierBundle:
        """What it runs."""
        return self._bundle

    def classify(self, image: np.ndarray) -> Recognised:
        """Classifies one image.

        Args:
          image: uint8 ``[H, W, 3]``, of at least one pixel.

        Returns:
          The domain and the probabilities.
        """
        (found,) = self.probabilities(prepare(image, self._bundle.size)[None])
        best = int(found.argmax())
        known = float(found[best]) >= self._bundle.threshold
        return Recognised(
            domain=self._bundle.domains[best] if known else None,
            probabilities=dict(zip(self._bundle.domains, found.tolist(), strict=True)),
        )

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Runs the network itself.

        Args:
          images: uint8 ``[N, S, S, 3]``, as `prepare` makes them.

        Returns:
          float32 ``[N, domains]``.
        """
        return self._run(images)


def prepare(image: np.ndarray, size: int) -> np.ndarray:
    """The middle square of an image at the size of a classifier, as its test images were made.

    Args:
      image: uint8 ``[H, W, 3]``, of at least one pixel.
      size: side of the result in pixels.

    Returns:
      uint8 ``[size, size, 3]``, averaged where the image is larger.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    resampling = Image.Resampling.BOX if side > size else Image.Resampling.BICUBIC
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(
        picture.resize((size, size), resampling, box=(left, top, left + side, top + side))
    )


def _open_onnx(bundle: ClassifierBundle, threads: int | None) -> Callable[[np.ndarray], np.ndarray]:
    session = open_session(bundle.path(bundles.CLASSIFIER_ONNX), threads=threads)

    def run(images: np.ndarray) -> np.ndarray:
        (found,) = session.run(["probabilities"], {"image": images})
        return np.asarray(found)

    return run


def _open_jax(bundle: ClassifierBundle) -> Callable[[np.ndarray], np.ndarray]:
    import jax

    params = jax.device_put(load_parameters(bundle))
    run = jax.jit(load_computation(bundle, bundles.CLASSIFIER_JAX).call)
    return lambda images: np.asarray(run(params, images))
