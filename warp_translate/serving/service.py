"""Answers requests: reads the image, finds the generator and the factor, translates, writes.

Knows nothing of HTTP. What a user can mend is a `UserError`, what passes by itself is `Busy`.
"""

import dataclasses
import functools
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import numpy as np

from warp_translate import image_io
from warp_translate.errors import UserError
from warp_translate.serving import footprint, latency_model
from warp_translate.serving.batcher import Batcher
from warp_translate.serving.classifier import Recognised
from warp_translate.serving.engine import Engine, Translated
from warp_translate.serving.footprint import Need
from warp_translate.serving.latency_model import FactorChooser
from warp_translate.serving.registry import Registry, Snapshot
from warp_translate.serving.routing import Choices, NoRoute, route

# Of one request, and of these in the queue at once.
_MOST_IMAGES, _TOGETHER = 64, 8


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
      milliseconds: from the queue to the translation, to a tenth.
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


@dataclasses.dataclass(frozen=True)
class Stack:
    """Translations of images of one size.

    Attributes:
      output: uint8 ``[N, H, W, 3]``.
      maps: float32 ``[N, ...]`` by name, see `engine.Translated`; None unless asked for.
      factor: how many times smaller the trunk's image was.
      milliseconds: from the queue to the last translation, to a tenth.
    """

    output: np.ndarray
    maps: Mapping[str, np.ndarray] | None
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
          most_pixels: larger images are refused, and more of one request together.
          seconds: how long a request may wait.
          cores: what the engines have of the machine's, for the estimate of a translation's time;
            None for all that this process may use.
        """
        self.registry = registry
        self.batcher = batcher
        self._budget = budget_milliseconds
        self._most_pixels = most_pixels
        self._seconds = seconds
        self._device = latency_model.find_device()
        if cores is not None:
            self._device = dataclasses.replace(self._device, cores=cores)
        self._choosers: dict[tuple[str, str, tuple[int, ...]], FactorChooser] = {}
        self._lock = threading.Lock()

    def snapshot(self) -> Snapshot:
        """What is served now."""
        return self.registry.snapshot()

    def need(
        self,
        data: bytes,
        *,
        source: str | None = None,
        target: str | None = None,
        factor: int | None = None,
        with_maps: bool = False,
        translated: bool = True,
    ) -> Need:
        """What a request will take, by the header of its image; see `answer`.

        Args:
          data: an image file.
          source: the image's domain, if the request says it.
          target: the domain that is wanted, if the request says it.
          factor: if the request says it.
          with_maps: whether the maps are wanted too.
          translated: whether it is more than unpacked.
        """
        size = image_io.image_size(data, trusted=False)
        if size is None or math.prod(size) > self._most_pixels:
            return footprint.LEAST  # It is refused.
        # Which of them it will be may depend on what the image shows.
        needs = [
            self._translation(engine, 1, *size, factor, with_maps)
            for pair, engine in self.snapshot().engines.items()
            if translated
            and source in (None, "", pair[0])
            and target in (None, "", pair[1])
            and factor in (None, *engine.bundle.factors)
        ]
        found = max(needs, key=lambda need: need.memory, default=None)
        return footprint.of_file(*size, found, with_maps)

    def need_of_stack(
        self, engine: Engine, shape: Sequence[int], factor: int | None, with_maps: bool
    ) -> Need:
        """What a stack of images will take; see `translate`.

        Args:
          engine: one of the snapshot's.
          shape: ``[N, H, W, 3]``.
          factor: one of the bundle's; None for the smallest that meets the budget.
          with_maps: whether the maps are wanted too.
        """
        count, height, width, _ = shape
        if count * height * width > self._most_pixels:
            return footprint.LEAST  # It is refused.
        return self._translation(engine, count, height, width, factor, with_maps)

    def _translation(
        self, engine: Engine, count: int, height: int, width: int, factor: int | None, maps: bool
    ) -> Need:
        chooser = self._chooser(engine)
        decided = chooser.choose(height, width).factor if factor is None else factor
        return footprint.of_translation(
            engine.bundle.architecture,
            (count, height, width),
            decided,
            1e-3 * count * chooser.milliseconds(height, width, decided),
            with_maps=maps,
        )

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
          data: an image file of any kind that is read, but AVIF and TIFF.
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
        flatten = functools.cache(lambda: image_io.flatten(decode()))
        recognised: Recognised | None = None

        def classify() -> str | None:
            nonlocal recognised
            assert classifier is not None
            recognised = classifier.classify(flatten())
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
        found = self.translate(engine, flatten()[None], factor, with_maps=with_maps)
        rgb = found.output[0]
        if decoded.alpha is not None:
            rgb = image_io.unflatten(rgb, decoded.alpha)
        return Answer(
            rgb=rgb,
            alpha=decoded.alpha,
            maps=found.maps and {name: each[0] for name, each in found.maps.items()},
            bundle=engine.bundle.name,
            source=chosen.source,
            target=chosen.target,
            recognised=chosen.recognised,
            factor=found.factor,
            milliseconds=found.milliseconds,
        )

    def translate(
        self,
        engine: Engine,
        images: np.ndarray,
        factor: int | None = None,
        *,
        with_maps: bool = False,
    ) -> Stack:
        """Translates images of one size through the queue; called in a thread of its own.

        Args:
          engine: one of the snapshot's.
          images: uint8 ``[N, H, W, 3]``, of at least one pixel.
          factor: one of the bundle's; None for the smallest that meets the budget.
          with_maps: whether the maps are wanted too.

        Returns:
          The translations.

        Raises:
          UserError: the bundle does not serve the factor, or there are too many images or pixels.
          Busy: too many are waiting.
          TooLate: one waited too long.
          MemoryError: the images are too large for this machine.
        """
        count, height, width, _ = images.shape
        if count > _MOST_IMAGES:
            raise UserError(f"{count} images are more than {_MOST_IMAGES}; send fewer at once")
        if count * height * width > self._most_pixels:
            raise UserError(
                f"{count} x {height} x {width} are more than {self._most_pixels} pixels; send "
                "fewer or smaller images"
            )
        chooser = self._chooser(engine)
        decided = engine.bundle.check_factor(factor)
        if factor is None:
            decided = chooser.choose(height, width).factor
        expected = 1e-3 * count * chooser.milliseconds(height, width, decided)
        begin = time.perf_counter()
        found: list[Translated] = []
        # A few at a time, so that a long stack neither fills the queue nor holds up the others.
        together = min(_TOGETHER, self.batcher.most_waiting)
        for start in range(0, count, together):
            futures: list[Future[Translated]] = []
            left = self._seconds - (time.perf_counter() - begin)
            try:
                for image in images[start : start + together]:
                    futures.append(
                        self.batcher.submit(
                            engine,
                            image,
                            decided,
                            with_maps=with_maps,
                            seconds=left,
                            quick=expected <= footprint.QUICK_SECONDS,
                        )
                    )
                found += [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
        milliseconds = 1000 * (time.perf_counter() - begin)
        if factor is None:
            chooser.observe(height, width, decided, milliseconds / count)
        maps = [each.maps for each in found if each.maps is not None]
        return Stack(
            _stack([each.output for each in found]),
            {name: _stack([each[name] for each in maps]) for name in maps[0]} if maps else None,
            decided,
            round(milliseconds, 1),
        )

    def classify(self, data: bytes) -> Recognised:
        """Tells which domain an image is of; called in a thread of its own.

        Args:
          data: an image file of any kind that is read, but AVIF and TIFF.

        Raises:
          UserError: the image is wrong.
          NoRoute: there is no classifier.
        """
        classifier = self.snapshot().classifier
        if classifier is None:
            raise NoRoute("there is no classifier; add its bundle to the folder that is served")
        return classifier.classify(image_io.flatten(self._decode(data)))

    def _decode(self, data: bytes) -> image_io.DecodedImage:
        return image_io.decode_image(
            data, "the image", most_pixels=self._most_pixels, trusted=False, warn=False
        )

    def _chooser(self, engine: Engine) -> FactorChooser:
        """Made once for each build, of what was measured on this device or of an estimate."""
        bundle = engine.bundle
        key = bundle.name, bundle.build, bundle.factors
        with self._lock:
            if key not in self._choosers:
                path = latency_model.cache_path(self._device, bundle, type(engine).__name__)
                model = latency_model.load(path) or latency_model.estimate(
                    self._device, bundle.architecture
                )
                self._choosers[key] = FactorChooser(model, bundle.factors, self._budget)
            return self._choosers[key]


def _stack(arrays: list[np.ndarray]) -> np.ndarray:
    # A single one may be large, and is not copied.
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
