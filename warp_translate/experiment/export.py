"""Exports the networks of a run as bundles, for ``warp-translate export``."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

from warp_translate import image_io, storage
from warp_translate.constants import BUNDLE_OPTIONS
from warp_translate.data import names
from warp_translate.errors import UserError
from warp_translate.experiment import build
from warp_translate.experiment.restore import Trained
from warp_translate.serving import bundle as bundles
from warp_translate.serving import export, triton
from warp_translate.serving.architecture import Architecture
from warp_translate.serving.bundle import Bundle, ClassifierBundle
from warp_translate.training.base import GeneratorTraining, Training
from warp_translate.training.classifier_step import ClassifierTraining

PARITY_IMAGES = 20
"""Test images on which a bundle is compared with the checkpoint."""

_SAMPLE_SIDE = 512


def generator_bundles(
    trained: Trained[GeneratorTraining],
    output: str,
    *,
    direction: str | None,
    source: str | None,
    target: str | None,
    name: str | None,
    factors: Sequence[int],
    repository: str | None,
    half: bool,
    sample: str | None,
) -> None:
    """Writes a bundle for each generator, compares it with the checkpoint, and prints the result.

    Args:
      trained: the restored run.
      output: folder for the bundles.
      direction: which generator; None for all.
      source: domain to translate from; None for that of the data set.
      target: domain to translate to, likewise.
      name: of the bundle; None for SOURCE-TARGET.
      factors: that the bundles serve, besides the run's own.
      repository: model repository of Triton for copies; None for none.
      half: whether to store the parameters as float16.
      sample: picture to try the generator with; None for none.

    Raises:
      UserError: an argument is invalid, a bundle differs from the checkpoint, or the folder cannot
        be written.
    """
    config = trained.config
    if (reduction := config.method.get("reduction", "box")) != "box":
        raise UserError(
            f"the run was trained with method.reduction={reduction}, an ablation that bundles do "
            "not support: give a run with box"
        )
    directions = list(trained.training.results)
    if direction is not None:
        if direction not in directions:
            raise UserError(
                f"--direction={direction} is none of this run's generators: {', '.join(directions)}"
            )
        directions = [direction]
    for flag, value in (("bundle_name", name), ("sample", sample)):
        if value is not None and len(directions) > 1:
            raise UserError(f"--{flag}={value} is for one generator: give --direction as well")
    picture = _sample(sample) if sample is not None else None
    folder = storage.to_path(output)
    if repository is not None and storage.disk_path(
        repository, "--triton"
    ).resolve() == storage.absolute(folder):
        raise UserError(f"--triton and --output are both {repository}: give two folders")
    source, target = _domains(config, source, target)
    served = tuple(sorted({*factors, trained.training.method.factor}))
    if served[-1] > bundles.MOST_FACTOR:
        raise UserError(
            f"factor {served[-1]} is more than {bundles.MOST_FACTOR}, the largest of a bundle: "
            "give smaller --factors"
        )
    for factor in served:
        trained.training.at_factor(factor)  # Raises for one that the generator does not have.
    planned = []
    for each in directions:
        ends = (target, source) if each == "b_to_a" else (source, target)
        bundle_name = bundles.check_name(name or "-".join(ends), "the name")
        if repository is not None:
            triton.model_folder(repository, bundle_name)  # Raises before the work.
        planned.append(_describe(trained, folder / bundle_name, each, ends, served))
    for each, bundle in zip(directions, planned, strict=True):
        _write(trained, each, bundle, repository, half, picture)


def _sample(path: str) -> np.ndarray:
    """A picture, at most `_SAMPLE_SIDE` pixels a side."""
    decoded = image_io.flatten(image_io.decode_image(image_io.read_file(path), path))
    image = Image.fromarray(decoded)
    image.thumbnail((_SAMPLE_SIDE, _SAMPLE_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _write(
    trained: Trained[GeneratorTraining],
    direction: str,
    bundle: Bundle,
    repository: str | None,
    half: bool,
    sample: np.ndarray | None,
) -> None:
    begin = time.monotonic()

    def note(line: str) -> None:
        print(f"{bundle.name}: {line} ({time.monotonic() - begin:.0f} s)", file=sys.stderr)

    images = _test_images(trained.config, direction)
    with _written(bundle.folder) as local:
        found = export.write_bundle(
            dataclasses.replace(bundle, folder=local),
            trained.training.generator,
            trained.params[direction],
            images,
            half=half,
            sample=sample,
            note=note,
        )
        if repository is not None:
            model = triton.write(bundles.read(local, verify=False), repository)
    factors = ",".join(map(str, bundle.factors))
    print(f"{bundle.folder}: {bundle.source} to {bundle.target}, factors {factors}")
    for form, parity in found.items():
        print(
            f"  {form:<16} {parity.images} images, largest difference {parity.largest} of 255, "
            f"{100 * parity.differing / parity.values:.3f} % of the values differ"
        )
    if repository is not None:
        print(f"{model}: the same for Triton")


def classifier_bundle(
    trained: Trained[Training], output: str, *, name: str | None, threshold: float | None
) -> None:
    """Writes the bundle of a classifier, compares it with the checkpoint, and prints the result.

    Args:
      trained: the restored run.
      output: folder for the bundle.
      name: of the bundle; None for ``classifier``.
      threshold: probability below which an image is unknown; None for the run's.

    Raises:
      UserError: as `generator_bundles`.
    """
    config, training = trained.config, trained.training
    assert isinstance(training, ClassifierTraining)
    data = build.labelled(config)
    name = bundles.check_name(name or "classifier", "the name")
    bundle = ClassifierBundle(
        folder=storage.to_path(output) / name,
        name=name,
        size=config.data.size,
        provenance=bundles.provenance(config.to_dict(), trained.step, trained.figures),
        files={},
        domains=data.domains,
        threshold=config.method.threshold if threshold is None else threshold,
    )
    images = [image for source in data.test for image in _spread(source)]
    with _written(bundle.folder) as local:
        found = export.write_classifier(
            dataclasses.replace(bundle, folder=local),
            training.classifier,
            trained.params["classifier"],
            images,
            note=lambda line: print(f"{name}: {line}", file=sys.stderr),
        )
    print(f"{bundle.folder}: {' or '.join(bundle.domains)}, unknown below {bundle.threshold:g}")
    for form, parity in found.items():
        print(
            f"  {form:<20} {parity.images} images, largest difference of a probability "
            f"{parity.largest:.1e}, {parity.domains_differ} with another domain"
        )


@contextlib.contextmanager
def _written(folder: Path) -> Iterator[Path]:
    """Yields a local folder to write a bundle to; uploads it if ``folder`` is in a bucket."""
    with (
        storage.writing(folder, "--output"),
        storage.written_locally(folder, last=(bundles.CONFIG,)) as local,
    ):
        yield local


def _domains(
    config: ml_collections.ConfigDict, source: str | None, target: str | None
) -> tuple[str, str]:
    known = names.domain_names(config.data.name, config.data.get("domains"))
    source, target = source or (known and known[0]), target or (known and known[1])
    for flag, value in (("source", source), ("target", target)):
        if value is None:
            raise UserError(
                f"give --{flag}=NAME, such as apple: the data set {config.data.name} does not name "
                "its domains"
            )
        bundles.check_name(value, f"--{flag}")
    assert source and target
    if source == target:
        raise UserError(f"--source and --target are both {source}: give two domains")
    return source, target


def _describe(
    trained: Trained[GeneratorTraining],
    folder: Path,
    direction: str,
    ends: tuple[str, str],
    factors: tuple[int, ...],
) -> Bundle:
    config = trained.config
    fields = config.generator.to_dict() | {name: config.method[name] for name in BUNDLE_OPTIONS}
    # The metrics of a cycle run are of both generators.
    generators = trained.training.results
    figures = {
        name: value
        for name, value in trained.figures.items()
        if direction in name or not any(each in name for each in generators)
    }
    architecture = {field.name: fields[field.name] for field in dataclasses.fields(Architecture)}
    return Bundle(
        folder=folder,
        name=folder.name,
        source=ends[0],
        target=ends[1],
        architecture=Architecture.from_json(architecture, "the run"),
        factors=factors,
        factor=trained.training.method.factor,
        size=config.data.size,
        provenance=bundles.provenance(config.to_dict(), trained.step, figures),
        files={},
    )


def _test_images(config: ml_collections.ConfigDict, direction: str) -> list[np.ndarray]:
    """Returns test images of the source domain."""
    if config.method.training == "paired":
        (pairs,) = build.pairs(config, "test")
        return [each["source"] for each in _spread(pairs)]
    both = build.domains(config)
    return _spread(both.test_b if direction == "b_to_a" else both.test_a)


def _spread(source: Any) -> list[Any]:
    """Returns `PARITY_IMAGES` elements, spread evenly."""
    return [source[number * len(source) // PARITY_IMAGES] for number in range(PARITY_IMAGES)]
