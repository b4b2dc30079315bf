"""``warp-translate export``: makes bundles of what a run has trained, ready to be served.

Each generator becomes one folder in ``--output``, called SOURCE-TARGET. ``--factors`` are 1, 2, 4
and 8 by default, and the run's own in any case. It is compared with the checkpoint on images of
the run's test split, and not written if it differs. A classifier becomes one folder, called
classifier.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from absl import flags

from warp_translate import storage
from warp_translate.cli import case_flags, program
from warp_translate.cli.path_flag import define_path
from warp_translate.cli.run_flags import BEST_BY, trained, trained_generators
from warp_translate.data import names
from warp_translate.errors import UserError
from warp_translate.experiment import build, run_config
from warp_translate.experiment.restore import Trained
from warp_translate.serving import bundle as bundles
from warp_translate.serving.architecture import Architecture
from warp_translate.serving.bundle import Bundle, ClassifierBundle
from warp_translate.training.base import GeneratorTraining
from warp_translate.training.classifier_step import ClassifierTraining

_SOURCE = flags.DEFINE_string("source", None, "Name of the domain that is translated from.")
_TARGET = flags.DEFINE_string("target", None, "Name of the domain that is translated to.")
_NAME = flags.DEFINE_string("bundle_name", None, "Name of the bundle; SOURCE-TARGET by default.")
_THRESHOLD = flags.DEFINE_float(
    "threshold", None, "Of a classifier: below this probability an image is unknown."
)
_TRITON = define_path(
    "triton", "Model repository of Triton; the generators are laid out there as well."
)

_OF_GENERATORS = (program.DIRECTION, case_flags.FACTORS, _SOURCE, _TARGET, _TRITON)

PARITY_IMAGES = 20
_FACTORS = (1, 2, 4, 8)


def main(argv: Sequence[str]) -> None:
    """Exports and says how far each format is from the checkpoint."""
    if len(argv) > 1:
        raise UserError(f"export takes flags only, got {' '.join(argv[1:])!r}")
    if program.WORKDIR.value is None or program.OUTPUT.value is None:
        raise UserError("export needs --workdir=RUN and --output=FOLDER, where the bundles go")
    storage.check_folder(program.OUTPUT.value, "--output")
    if _TRITON.value is not None:
        storage.check_folder(_TRITON.value, "--triton")
    # Late, since it needs onnx, which the others do without.
    from warp_translate.serving import export, triton

    classifies = run_config.load(program.WORKDIR.value).method.training == "classifier"
    others = _OF_GENERATORS if classifies else (_THRESHOLD,)
    for flag in others:
        if flag.value != flag.default:
            kind = "generators, no classifier" if classifies else "a classifier, no generator"
            given = _join(flag.value) if isinstance(flag.value, list) else flag.value
            raise UserError(f"--{flag.name}={given} is for {kind}; leave it out")
    if classifies:
        _export_classifier()
        return
    trained = trained_generators()
    if (reduction := trained.config.method.reduction) != "box":
        raise UserError(
            f"the run in {program.WORKDIR.value} was trained with method.reduction={reduction}, an "
            "ablation that bundles do not have: give a run with box"
        )
    directions = list(trained.training.results)
    if program.DIRECTION.value is not None:
        if program.DIRECTION.value not in directions:
            raise UserError(
                f"--direction={program.DIRECTION.value} is none of this run's generators: "
                f"{', '.join(directions)}"
            )
        directions = [program.DIRECTION.value]
    if _NAME.value is not None and len(directions) > 1:
        raise UserError(f"--bundle_name={_NAME.value} can be only one's: give --direction as well")

    output, repository = storage.to_path(program.OUTPUT.value), _TRITON.value
    if repository is not None and storage.disk_path(
        repository, "--triton"
    ).resolve() == storage.absolute(output):
        raise UserError(f"--triton and --output are both {repository}: give two folders")
    source, target = _domains(trained.config)
    factors = _factors(trained.training.method.factor)
    planned = []
    for direction in directions:
        ends = (target, source) if direction == "b_to_a" else (source, target)
        name = bundles.check_name(_NAME.value or "-".join(ends), "the name")
        if repository is not None:
            triton.model_folder(repository, name)  # Said before the work rather than after it.
        planned.append(_describe(trained, output, direction, name, ends, factors))
    for direction, bundle in zip(directions, planned, strict=True):
        begin = time.monotonic()

        def note(line: str, bundle: Bundle = bundle, begin: float = begin) -> None:
            print(f"{bundle.name}: {line} ({time.monotonic() - begin:.0f} s)", file=sys.stderr)

        images = _test_images(trained.config, direction)
        with _written(bundle.folder) as local:
            found = export.write_bundle(
                dataclasses.replace(bundle, folder=local),
                trained.training.generator,
                trained.params[direction],
                images,
                note=note,
            )
            if repository is not None:
                model = triton.write(bundles.read(local, verify=False), repository)
        print(f"{bundle.folder}: {bundle.source} to {bundle.target}, factors {_join(factors)}")
        for form, parity in found.items():
            print(
                f"  {form:<16} {parity.images} images, largest difference {parity.largest} of 255, "
                f"{100 * parity.differing / parity.values:.3f} % of the values differ"
            )
        if repository is not None:
            print(f"{model}: the same for Triton")


def _export_classifier() -> None:
    from warp_translate.serving import export

    assert program.OUTPUT.value is not None
    found = trained()
    config, training = found.config, found.training
    assert isinstance(training, ClassifierTraining)
    threshold = config.method.threshold if _THRESHOLD.value is None else _THRESHOLD.value
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold={threshold} must be within 0 and 1")
    data = build.labelled(config)
    name = bundles.check_name(_NAME.value or "classifier", "the name")
    bundle = ClassifierBundle(
        folder=storage.to_path(program.OUTPUT.value) / name,
        name=name,
        size=config.data.size,
        provenance=bundles.provenance(config.to_dict(), found.step, found.figures),
        files={},
        domains=data.domains,
        threshold=threshold,
    )
    images = [image for source in data.test for image in _spread(source, PARITY_IMAGES)]
    with _written(bundle.folder) as local:
        measured = export.write_classifier(
            dataclasses.replace(bundle, folder=local),
            training.classifier,
            found.params["classifier"],
            images,
            note=lambda line: print(f"{name}: {line}", file=sys.stderr),
        )
    print(f"{bundle.folder}: {' or '.join(bundle.domains)}, unknown below {threshold:g}")
    for form, parity in measured.items():
        print(
            f"  {form:<20} {parity.images} images, largest difference of a probability "
            f"{parity.largest:.1e}, {parity.domains_differ} taken for another domain"
        )


@contextlib.contextmanager
def _written(folder: Path) -> Iterator[Path]:
    """The folder to write a bundle to, which is put into its bucket if it is to be in one."""
    try:
        with storage.written_locally(folder, last=(bundles.CONFIG,)) as local:
            yield local
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): choose another --output"
        ) from error


def _domains(config: ml_collections.ConfigDict) -> tuple[str, str]:
    known = names.domain_names(config.data.name, config.data.get("domains"))
    for flag, value in (("source", _SOURCE.value), ("target", _TARGET.value)):
        if value is None and known is None:
            raise UserError(
                f"--{flag}=NAME is missing: what the data set {config.data.name} is translated "
                f"{'from' if flag == 'source' else 'to'}, apple for instance"
            )
    default = known or ("", "")
    source, target = _SOURCE.value or default[0], _TARGET.value or default[1]
    bundles.check_name(source, "--source")
    bundles.check_name(target, "--target")
    if source == target:
        raise UserError(f"--source and --target are both {source}: give two domains")
    return source, target


def _factors(own: int) -> tuple[int, ...]:
    """The run's own factor comes in any case."""
    found = tuple(sorted({*case_flags.factors(*_FACTORS), own}))
    if found[-1] > bundles.MOST_FACTOR:
        raise UserError(
            f"factor {found[-1]} is more than {bundles.MOST_FACTOR}, which a bundle cannot serve: "
            "give smaller --factors"
        )
    return found


def _describe(
    trained: Trained[GeneratorTraining],
    folder: Path,
    direction: str,
    name: str,
    ends: tuple[str, str],
    factors: tuple[int, ...],
) -> Bundle:
    config = trained.config
    fields = config.generator.to_dict() | {
        "mask_weights": config.method.mask_weights,
        "fusion": config.method.fusion,
    }
    # A cycle run measures both of its generators.
    generators = trained.training.results
    figures = {
        name: value
        for name, value in trained.figures.items()
        if direction in name or not any(each in name for each in generators)
    }
    architecture = {field.name: fields[field.name] for field in dataclasses.fields(Architecture)}
    return Bundle(
        folder=folder / name,
        name=name,
        source=ends[0],
        target=ends[1],
        architecture=Architecture.from_json(architecture, str(program.WORKDIR.value)),
        factors=factors,
        factor=trained.training.method.factor,
        size=config.data.size,
        provenance=bundles.provenance(config.to_dict(), trained.step, figures),
        files={},
    )


def _test_images(config: ml_collections.ConfigDict, direction: str) -> list[np.ndarray]:
    """Test images of the domain that is translated from, spread over the split."""
    source: Any
    if config.method.training == "paired":
        (source,) = build.pairs(config, "test")
    else:
        both = build.domains(config)
        source = both.test_b if direction == "b_to_a" else both.test_a
    found = _spread(source, PARITY_IMAGES)
    return [each["source"] for each in found] if config.method.training == "paired" else found


def _spread(source: Any, count: int) -> list[Any]:
    return [source[number * len(source) // count] for number in range(count)]


def _join(factors: Sequence[Any]) -> str:
    return ",".join(map(str, factors))


def run() -> None:
    """Entry point of the command."""
    program.run(
        main,
        takes=(
            program.WORKDIR,
            program.OUTPUT,
            program.STEP,
            program.FACTOR,
            program.DIRECTION,
            BEST_BY,
            case_flags.FACTORS,
        ),
    )


if __name__ == "__main__":
    run()
