"""Answers requests: reads the image, finds the generator and the factor, translates, writes.

Knows nothing of HTTP. What a user can mend is a `UserError`, what passes by itself is `Busy`.
"""

import dataclasses
import functools
import threading
import time
from collections.abc import Mapping

import numpy as np

from warp_translate import image_files
from warp_translate.serving import device
from warp_translate.serving.batcher import Batcher
from warp_translate.serving.classifier import Recognised
from warp_translate.serving.device import FactorChooser
from warp_translate.serving.engine import Engine
from warp_translate.serving.registry import Registry, Snapshot
from warp_translate.serving.routing import Choices, NoRoute, route


@dataclasses.dataclass(frozen=True)
class Answer:
    """A translation.

    Attributes:
      rgb: uint8 ``[H, W, 3]``, the size of the image that came.
      alpha: uint8 ``[H, W]``, the alpha that came, or None.
      maps: float32 by name, see `engine.Translated`; None unless asked for.
      bundle: name of the bundle that translated.
      source: the domain that it translates from.
      target: the domain that it translates to.
      recognised: what the image was classified as; None if nothing depended on it.
      factor: how many times smaller the trunk's image was.
      milliseconds: from the queue to the translation.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    maps: Mapping[str, np.ndarray] | None
    bundle: str
    source: str
    target: str
    recognised: str | None
    factor: int
    milliseconds: float


class Service:
    """The registry, the batcher, and a choice of the factor for every build."""

    def __init__(
        self,
        registry: Registry,
        batcher: Batcher,
        *,
        budget_milliseconds: float,
        most_pixels: int,
        seconds: float,
        cores: int | None = None,
    ) -> None:
        """Takes over the parts; the registry has been scanned.

        Args:
          registry: the generators.
          batcher: the queue before them.
          budget_milliseconds: what a translation may take where the request names no factor.
          most_pixels: larger images are refused.
          seconds: how long a request may wait.
          cores: what the engines have of the machine's, for the estimate of a translation's time;
            None for all that this process may use.
        """
        self.registry = registry
        self.batcher = batcher
        self._budget = budget_milliseconds
        self._most_pixels = most_pixels
        self._seconds = seconds
        self._device = device.find_device()
        if cores is not None:
            self._device = dataclasses.replace(self._device, cores=cores)
        self._choosers: dict[tuple[str, str], FactorChooser] = {}
        self._lock = threading.Lock()

    def snapshot(self) -> Snapshot:
        """What is served now."""
        return self.registry.snapshot()

    def answer(
        self,
        data: bytes,
        *,
        source: str | None = None,
        target: str | None = None,
        factor: int | None = None,
        with_maps: bool = False,
    ) -> Answer | Choices:
        """Answers a request; called in a thread of its own.

        Args:
          data: a JPEG, PNG or WebP file.
          source: the image's domain, if the request says it.
          target: the domain that is wanted, if the request says it.
          factor: if the request says it; else the smallest that meets the budget.
          with_maps: whether the maps are wanted too.

        Returns:
          The translation, or what the user has to choose from.

        Raises:
          UserError: the image or the request is wrong.
          Busy: too many are waiting.
          TooLate: it waited too long.
        """
        served = self.snapshot()
        classifier = served.classifier
        decode = functools.cache(lambda: self._decode(data))
        recognised: Recognised | None = None

        def classify() -> str | None:
            nonlocal recognised
            assert classifier is not None
            recognised = classifier.classify(image_files.flatten(decode()))
            return recognised.domain

        chosen = route(
            served.engines.keys(),
            None if classifier is None else classify,
            source=source,
            target=target,
        )
        # An image that cannot be read is said to be one whatever the choice.
        decoded = decode()
        if isinstance(chosen, Choices):
            if recognised is None:
                return chosen
            return dataclasses.replace(chosen, probabilities=recognised.probabilities)
        engine = served.engines[chosen.source, chosen.target]
        original = image_files.flatten(decoded)
        height, width = original.shape[:2]
        chooser = self._chooser(engine)
        decided = engine.bundle.check_factor(factor)
        if factor is None:
            decided = chooser.choose(height, width).factor
        begin = time.perf_counter()
        future = self.batcher.submit(
            engine, original, decided, with_maps=with_maps, seconds=self._seconds
        )
        found = future.result()
        milliseconds = 1000 * (time.perf_counter() - begin)
        if factor is None:
            chooser.observe(height, width, decided, milliseconds)
        rgb = found.output
        if decoded.alpha is not None:
            rgb = image_files.unflatten(rgb, decoded.alpha)
        return Answer(
            rgb=rgb,
            alpha=decoded.alpha,
            maps=found.maps,
            bundle=engine.bundle.name,
            source=chosen.source,
            target=chosen.target,
            recognised=chosen.recognised,
            factor=decided,
            milliseconds=milliseconds,
        )

    def classify(self, data: bytes) -> Recognised:
        """Tells which domain an image is of; called in a thread of its own.

        Args:
          data: a JPEG, PNG or WebP file.

        Raises:
          UserError: the image is wrong.
          NoRoute: there is no classifier.
        """
        classifier = self.snapshot().classifier
        if classifier is None:
            raise NoRoute("there is no classifier; add its bundle to the folder that is served")
        return classifier.classify(image_files.flatten(self._decode(data)))

    def _decode(self, data: bytes) -> image_files.DecodedImage:
        return image_files.decode_image(data, "the image", most_pixels=self._most_pixels)

    def _chooser(self, engine: Engine) -> FactorChooser:
        """Made once for each build, of what was measured on this device or of an estimate."""
        bundle = engine.bundle
        key = bundle.name, bundle.build
        with self._lock:
            if key not in self._choosers:
                path = device.cache_path(self._device, bundle, type(engine).__name__)
                model = device.load(path) or device.estimate(self._device, bundle.architecture)
                self._choosers[key] = FactorChooser(model, bundle.factors, self._budget)
            return self._choosers[key]
