"""``warp-translate cost``: what a generator costs, by the size of the image and the factor.

Of an experiment (``--config``), whose parameters are drawn anew, or of a bundle (``--bundle``),
which is timed on the engine that ``--engine`` names. Multiplications are counted part by part, and
the program is compiled, and timed unless ``--latency=false``.

``--sizes`` are 256x256, 1024x1024, 1080x1920 and 2160x3840 by default, ``--factors`` 1, 2, 4 and
8, or the bundle's. ``--output`` is a JSON file and ``--plot`` a chart.
"""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from warp_translate import storage
from warp_translate.cli import bundle_flags, case_flags, program
from warp_translate.cli.config_flag import CONFIG, experiment
from warp_translate.cli.path_flag import define_path
from warp_translate.errors import UserError
from warp_translate.evaluation import cost_report
from warp_translate.evaluation.cost_report import Report
from warp_translate.experiment import build
from warp_translate.experiment.cost_measurement import Subject, measure
from warp_translate.models import Generator
from warp_translate.training.base import GeneratorTraining

_LATENCY = flags.DEFINE_bool("latency", True, "Time the translations.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed translations of each size and factor.")
_PLOT = define_path("plot", "File for a chart: .png, .pdf or .svg.")

_SIZES = ((256, 256), (1024, 1024), (1080, 1920), (2160, 3840))
_FACTORS = (1, 2, 4, 8)


def main(argv: Sequence[str]) -> None:
    """Counts, compiles, times, and writes what was found."""
    if len(argv) > 1:
        raise UserError(f"cost takes flags only, got {' '.join(argv[1:])!r}")
    if (CONFIG.value is None) == (bundle_flags.BUNDLE.value is None):
        raise UserError(
            "cost needs --config=experiments/FILE.py or --bundle=FOLDER, one of the two"
        )
    if _REPEATS.value < 1:
        raise UserError(f"--repeats={_REPEATS.value} must be at least 1")
    sizes = case_flags.sizes(*_SIZES)
    output, plot = _file("output", program.OUTPUT.value), _file("plot", _PLOT.value)
    draw = _chart_writer(plot) if plot else None
    subject = _of_config() if bundle_flags.BUNDLE.value is None else _of_bundle()
    factors = case_flags.factors(*subject.factors)

    repeats = _REPEATS.value if _LATENCY.value else 0
    for report in measure(subject, sizes, factors, repeats):
        if output:  # What there is after every size, so that it is there if the rest is cut short.
            _write(output, cost_report.to_json(report))
    print(cost_report.table(report))
    if plot and draw:
        try:
            draw(plot, report)
        except OSError as error:
            raise UserError(f"--plot={plot} cannot be written ({error.strerror})") from error
    for path in filter(None, (output, plot)):
        print(f"written: {path}")


def _of_config() -> Subject:
    if bundle_flags.backend() != "auto":
        raise UserError(f"--engine={bundle_flags.backend()} is for a --bundle; leave it out")
    config = experiment()
    training = build.training(config)
    if not isinstance(training, GeneratorTraining):
        raise UserError(
            "--config is a classifier's experiment, which translates nothing: give one of "
            "generators, experiments/paired.py for instance"
        )
    generator = training.generator
    return Subject(
        name=f"{config.method.training} experiment, {_in_words(generator)}",
        generator=generator,
        mask_weights=training.method.mask_weights,
        fusion=training.method.fusion,
        factors=_FACTORS,
        engine=None,
    )


def _of_bundle() -> Subject:
    opened = bundle_flags.read_bundle()
    for factor in case_flags.factors(*opened.factors):
        opened.check_factor(factor)
    fields = dataclasses.asdict(opened.architecture)
    mask_weights, fusion = fields.pop("mask_weights"), fields.pop("fusion")
    generator = Generator(**fields)
    return Subject(
        name=f"bundle {opened.name}, {_in_words(generator)}",
        generator=generator,
        mask_weights=mask_weights,
        fusion=fusion,
        factors=opened.factors,
        engine=bundle_flags.open_engine(opened),
    )


def _in_words(generator: Generator) -> str:
    return f"width {generator.width}, {generator.blocks} blocks, {generator.head} head"


def _file(flag: str, value: str | None) -> Path | None:
    """The file of a flag; whether it can be written is found out before the work."""
    if value is None:
        return None
    path = storage.disk_path(value, f"--{flag}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        with path.open("ab"):
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise UserError(
            f"--{flag}={value} cannot be written ({error.strerror}): choose another file"
        ) from error
    return path


def _chart_writer(path: Path) -> Callable[[Path, Report], None]:
    # Late, since it needs matplotlib, which the others do without.
    chart: Any = importlib.import_module("warp_translate.evaluation.cost_chart")
    if path.suffix not in chart.SUFFIXES:
        raise UserError(f"--plot={path} must end in {', '.join(chart.SUFFIXES)}")
    return chart.write_chart


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output={path} cannot be written ({error.strerror})") from error


def run() -> None:
    """Entry point of the command."""
    program.run(
        main,
        takes=(
            CONFIG,
            program.OUTPUT,
            bundle_flags.BUNDLE,
            bundle_flags.ENGINE,
            case_flags.SIZES,
            case_flags.FACTORS,
        ),
    )


if __name__ == "__main__":
    run()
