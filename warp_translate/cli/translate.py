"""``warp-translate translate``: translates images at their own sizes.

With a run (``--workdir``) or with a bundle (``--bundle``), which needs no jax. What is in
``--output`` already, made of the same image by the same generator and settings, is not done again;
see `output_plan` for the names, and `output_record` for what is known of them.
"""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
from absl import flags

from warp_translate import storage
from warp_translate.cli import bundle_flags, output_plan, program
from warp_translate.cli.output_plan import STANDARD, Plan
from warp_translate.cli.path_flag import define_paths
from warp_translate.cli.progress_flag import PROGRESS
from warp_translate.errors import UserError, shown
from warp_translate.image_io import FORMAT_OF, ImageFormat
from warp_translate.progress import Format, Progress
from warp_translate.serving import batch_translate
from warp_translate.serving.bundle import Bundle
from warp_translate.serving.engine import Translated, out_of_memory
from warp_translate.serving.output_record import OutputRecord, made_by
from warp_translate.visualize import MAPS, to_uint8

_INPUT = define_paths(
    "input",
    "An image, a folder of images, or - for standard input. It may be repeated, and the names may "
    "stand without it.",
)
_RECURSIVE = flags.DEFINE_bool("recursive", False, "Take the folders in folders of images too.")
_FORMAT: flags.FlagHolder[Any] = flags.DEFINE_enum(
    "format",
    None,
    ["png", "jpeg", "webp", "same"],
    "Format of the outputs: png by default; same takes that of each image's name.",
)
_QUALITY = flags.DEFINE_integer(
    "quality", None, "1 to 100, of jpeg (95 by default) and webp (without loss by default)."
)
_METADATA: flags.FlagHolder[Any] = flags.DEFINE_enum(
    "metadata",
    "safe",
    ["safe", "all", "drop"],
    "EXIF and DPI to keep: safe leaves out the location, serial numbers and the owner's name.",
)
_MAPS = flags.DEFINE_list(
    "maps", [], f"Intermediates to write beside each output: all, or some of {','.join(MAPS)}."
)
_WORKERS = flags.DEFINE_integer("workers", 4, "Threads that read and write.")

_OF_RUNS = (program.STEP, program.DIRECTION)
_OF_BUNDLES = (bundle_flags.ENGINE, bundle_flags.BATCH)
_MOST_NAMED = 10


@dataclasses.dataclass(frozen=True)
class _Generator:
    """What translates.

    Attributes:
      name: tells it from all others.
      factor: how many times smaller the trunk's image is.
      batch: most images at once.
      open: makes it ready.
    """

    name: str
    factor: int
    batch: int
    open: Callable[[], batch_translate.Translator]


def main(argv: Sequence[str]) -> None:
    """Translates every image; one that cannot be read is named, and the others go on."""
    # The words of the command line are no flags' values, which are expanded where they are read.
    inputs = [*(_INPUT.value or ()), *map(os.path.expanduser, argv[1:])]
    output = program.OUTPUT.value
    if not inputs or output is None:
        raise UserError(
            "translate needs --workdir=RUN or --bundle=FOLDER, --input=FILE_OR_FOLDER and "
            "--output=FOLDER"
        )
    if bundle_flags.BUNDLE.value is not None and program.WORKDIR.value is not None:
        raise UserError("translate takes --workdir=RUN or --bundle=FOLDER, not both")
    others = _OF_BUNDLES if bundle_flags.BUNDLE.value is None else _OF_RUNS
    for flag in others:
        if flag.value != flag.default:
            kind = "a bundle" if others is _OF_BUNDLES else "a run, and a bundle has one generator"
            raise UserError(f"--{flag.name}={flag.value} is for {kind}; leave it out")
    if program.FACTOR.value is not None and program.FACTOR.value < 1:
        raise UserError(f"--factor={program.FACTOR.value} must be at least 1")
    if _WORKERS.value < 1:
        raise UserError(f"--workers={_WORKERS.value} must be at least 1")
    for each in inputs:
        storage.disk_path(each, "--input")
    storage.disk_path(output, "--output")
    style = _style(inputs, output)
    plan = output_plan.plan_outputs(
        inputs, output, form=_FORMAT.value, maps=style.maps, recursive=_RECURSIVE.value
    )
    target = plan.folder or plan.jobs[0].target
    if target is not None:
        storage.check_folder(str(plan.folder or target.parent), "--output")
    elif sys.stdout.isatty():
        raise UserError("--output=- writes a picture, and standard output is a terminal: pipe it")
    generator = _of_run(style) if bundle_flags.BUNDLE.value is None else _of_bundle()
    jobs, record = plan.jobs, None
    if plan.folder is not None:
        record = OutputRecord(plan.folder, made_by(generator.name, generator.factor, style))
        jobs = record.begin(jobs, style.maps)
    elif target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
    finish(
        plan,
        jobs,
        lambda: batch_translate.translate_files(
            generator.open(),
            jobs,
            factor=generator.factor,
            batch=generator.batch,
            workers=_WORKERS.value,
            style=style,
            done=record.written if record else None,
        ),
        PROGRESS.value,
        record,
    )


def finish(
    plan: Plan,
    left: Sequence[batch_translate.Job],
    translate: Callable[[], Iterable[batch_translate.Finished]],
    progress_format: Format,
    record: OutputRecord | None = None,
) -> None:
    """Translates, shows how far it is, and says at the end what failed and what was passed over.

    Args:
      plan: what is to be there.
      left: those of its jobs that are still to be done.
      translate: does them; says of each, in any order, how it has ended.
      progress_format: how the progress is shown.
      record: knows how many translations of other images or settings are replaced.

    Raises:
      UserError: some failed; every one of them is named.
    """
    if len(left) < len(plan.jobs):
        before = len(plan.jobs) - len(left)
        print(f"{before} of {len(plan.jobs)} images were done before", file=sys.stderr)
    failures: list[str] = []
    if left:
        progress = Progress(
            len(left),
            noun="images",
            stream=sys.stderr if len(left) > 1 else None,
            format=progress_format,
        )
        for done, finished in enumerate(translate(), start=1):
            if finished.failure is not None:
                failures.append(finished.failure)
            progress.update(done)
        progress.close()
    _tell_passed_over(plan)
    where = plan.folder or plan.jobs[0].target
    if not left:
        print(f"nothing is left to do in {shown(plan.folder or '')}")
    elif where is not None and not (failures and len(left) == 1):
        replaced = record.replaced if record else 0
        older = f"; {replaced} of them replace others" if replaced else ""
        count = f"{len(left) - len(failures)} of {len(left)} images"
        print(f"{count} written to {shown(where)}{older}")
    if failures and len(left) == 1:
        raise UserError(failures[0])
    if failures:
        raise UserError("\n  ".join([f"{len(failures)} of {len(left)} images failed:", *failures]))


def _tell_passed_over(plan: Plan) -> None:
    if not plan.passed_over:
        return
    named = ", ".join(plan.passed_over[:_MOST_NAMED])
    more = len(plan.passed_over) - _MOST_NAMED
    further = f" and {more} more" if more > 0 else ""
    hint = "; --recursive looks into folders" if plan.folders_passed_over else ""
    print(f"passed over {len(plan.passed_over)}: {named}{further}{hint}", file=sys.stderr)


def _style(inputs: Sequence[str], output: str) -> batch_translate.Style:
    """How the outputs are written."""
    wanted = list(MAPS) if _MAPS.value == ["all"] else _MAPS.value
    unknown = [name for name in wanted if name not in MAPS]
    if unknown:
        raise UserError(f"--maps={','.join(unknown)} is unknown: use all, or {','.join(MAPS)}")
    form: output_plan.OutputFormat = _FORMAT.value or FORMAT_OF.get(
        PurePath(output).suffix.lower(), "png"
    )
    if form == "same" and STANDARD in inputs:
        raise UserError("--format=same needs the name of a picture, and --input=- has none")
    if _QUALITY.value is not None:
        if not 1 <= _QUALITY.value <= 100:
            raise UserError(f"--quality={_QUALITY.value} must be from 1 to 100")
        if form == "png":
            raise UserError(
                f"--quality={_QUALITY.value} is for jpeg and webp, and PNG is without loss: leave "
                "it out, or give --format"
            )
    # What is written to standard output; elsewhere names tell the format.
    known: ImageFormat = (
        FORMAT_OF.get(PurePath(inputs[0]).suffix.lower(), "png") if form == "same" else form
    )
    return batch_translate.Style(tuple(wanted), known, _QUALITY.value, _METADATA.value)


class _Trained:
    """A run's generator, one image after the other."""

    def __init__(self, translate: Callable[[np.ndarray], dict[str, np.ndarray]]) -> None:
        self._translate = translate

    def translate(
        self, images: np.ndarray, factor: int | None = None, *, with_maps: bool = False
    ) -> Translated:
        """As `bulk.Translator`; the factor and the maps are those it was made with."""
        try:
            found = self._translate(images)
        except Exception as error:
            if out_of_memory(error):
                raise MemoryError(str(images.shape)) from error
            raise
        output = to_uint8(found.pop("output"))
        return Translated(output, found if with_maps else None)


def _of_run(style: batch_translate.Style) -> _Generator:
    """The generator of a run's checkpoint."""
    import jax

    from warp_translate.cli import run_flags
    from warp_translate.types import Array, PyTree, to_float

    trained = run_flags.trained_generators()
    generators = trained.training.results
    direction = program.DIRECTION.value or generators[0]
    if direction not in generators:
        raise UserError(
            f"--direction={direction} is none of this run's generators: {', '.join(generators)}"
        )
    params = trained.params[direction]
    names = ("output", *style.maps)

    @jax.jit  # Compiled once for each size that comes; what is not asked for is not computed.
    def translate(params: PyTree, images: Array) -> dict[str, Array]:
        found = trained.training.translate(params, to_float(images), in_bands=True)
        return {name: getattr(found, name) for name in names}

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = jax.tree.map(np.asarray, translate(params, images))
        return found

    settings = {name: trained.config[name].to_dict() for name in ("generator", "method")}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return _Generator(
        f"{direction} of step {trained.step}, {digest.hexdigest()}",
        program.FACTOR.value or trained.config.method.factor,
        1,
        lambda: _Trained(run),
    )


def _of_bundle() -> _Generator:
    """The generator of a bundle."""
    batch = bundle_flags.batch()
    opened = bundle_flags.read_bundle()
    return _Generator(
        name_of(opened),
        opened.check_factor(program.FACTOR.value),
        batch,
        lambda: bundle_flags.open_engine(opened),
    )


def name_of(bundle: Bundle) -> str:
    """Tells a bundle from all others that may give other values."""
    files = json.dumps(dict(bundle.files), sort_keys=True).encode()
    return f"{bundle.name}, {hashlib.sha256(files).hexdigest()}"


def run() -> None:
    """Entry point of the command."""
    program.run(
        main,
        takes=(
            PROGRESS,
            program.WORKDIR,
            program.OUTPUT,
            program.STEP,
            program.FACTOR,
            program.DIRECTION,
            bundle_flags.BUNDLE,
            bundle_flags.ENGINE,
            bundle_flags.BATCH,
        ),
    )


if __name__ == "__main__":
    run()
