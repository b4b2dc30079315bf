"""``warp-translate translate``: translates images and clips at their own sizes.

Outputs that already exist, made from the same image by the same generator and settings, are
skipped; see `output_plan` for their names and `output_record` for how they are recognized.
"""

import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any

from absl import flags

from warp_translate import storage
from warp_translate.cli import program, translate_clips
from warp_translate.cli.commands import Command
from warp_translate.cli.shared_flags import (
    BATCH,
    BUDGET,
    BUNDLE,
    BUNDLES,
    DIRECTION,
    ENGINE,
    FACTOR,
    OUTPUT,
    PROGRESS,
    SOURCE,
    STEP,
    TARGET,
    WORKDIR,
    define_paths,
)
from warp_translate.errors import UserError, shown
from warp_translate.image_io import FORMAT_OF, ImageFormat
from warp_translate.progress import Format, Progress
from warp_translate.serving import batch_translate, bundle, output_plan
from warp_translate.serving.engine import open_engine
from warp_translate.serving.output_plan import STANDARD, Plan
from warp_translate.serving.output_record import OutputRecord, made_by
from warp_translate.serving.registry import Snapshot
from warp_translate.serving.router import Router, open_router
from warp_translate.serving.smoothing import Smoother
from warp_translate.visualize import MAPS

_INPUT = define_paths(
    "input",
    "Image or clip, folder of images or of clips, or - for an image on standard input; may be "
    "repeated, or given without --input.",
)
_RECURSIVE = flags.DEFINE_bool("recursive", False, "Include the subfolders of folders.")
_FORMAT: flags.FlagHolder[Any] = flags.DEFINE_enum(
    "format",
    None,
    ["png", "jpeg", "webp", "same"],
    "Format of the outputs: png by default; same: that of each image's name.",
)
_QUALITY = flags.DEFINE_integer(
    "quality",
    None,
    "From 1 to 100, for jpeg (95 by default) and webp (lossless by default).",
    lower_bound=1,
    upper_bound=100,
)
_METADATA: flags.FlagHolder[Any] = flags.DEFINE_enum(
    "metadata",
    "safe",
    ["safe", "all", "drop"],
    "EXIF and DPI to keep; safe: all but location, serial numbers and the owner's name.",
)
_MAPS = flags.DEFINE_list(
    "maps", [], f"Intermediates to write beside each output: all, or some of {','.join(MAPS)}."
)
_SMOOTH = flags.DEFINE_bool(
    "smooth", False, "Steady the maps of a clip over time; with the extra video."
)
_WORKERS = flags.DEFINE_integer("workers", 4, "Threads that read and write files.", lower_bound=1)

COMMAND = Command(
    "translate",
    examples=(
        "--workdir=runs/retouch --input=photos --output=translated",
        "--bundle=retouch --output=retouched.jpg photo.jpg",
    ),
    one_of=(WORKDIR, BUNDLE, BUNDLES),
    required=(OUTPUT,),
    common=(
        _INPUT,
        _RECURSIVE,
        _FORMAT,
        _MAPS,
        _SMOOTH,
        FACTOR,
        SOURCE,
        TARGET,
        STEP,
        DIRECTION,
        PROGRESS,
    ),
    advanced=(_QUALITY, _METADATA, ENGINE, BATCH, BUDGET, _WORKERS),
    words="[IMAGE...]",
    text={
        "output": "Folder to write to; for one image also a file, or - for standard output.",
        "source": "Domain of the images, for --bundles; by default the classifier's.",
        "target": "Domain to translate to, for --bundles.",
        "budget_ms": "Time limit of a translation, for bundles: each image gets the smallest "
        "factor that meets it on this machine. (default: the bundle's factor)",
    },
)

_MOST_NAMED = 10


@dataclasses.dataclass(frozen=True)
class _Generator:
    """The generator to use; `name` identifies it, `open` loads it."""

    name: str
    factor: int | None
    batch: int
    open: Callable[[], batch_translate.Translator]


def main(argv: Sequence[str]) -> None:
    """Translates every image; reports those that fail and continues with the others."""
    # Flags expand ~ themselves.
    inputs = [*(_INPUT.value or ()), *map(os.path.expanduser, argv[1:])]
    output = OUTPUT.value
    if not inputs or output is None:
        raise UserError(
            "translate needs an image or a folder of images, for example --input=photos"
        )
    _check_flags()
    for each in inputs:
        storage.disk_path(each, "--input")
    storage.disk_path(output, "--output")
    if translate_clips.are_clips(inputs, recursive=_RECURSIVE.value):
        _translate_clips(inputs, output)
        return
    if _SMOOTH.value:
        raise UserError("--smooth is for clips: omit it")
    style = _style(inputs, output)
    plan = output_plan.plan_outputs(
        inputs, output, form=_FORMAT.value, maps=style.maps, recursive=_RECURSIVE.value
    )
    target = plan.folder or plan.jobs[0].target
    if target is not None:
        storage.check_folder(str(plan.folder or target.parent), "--output")
    elif sys.stdout.isatty():
        raise UserError("--output=- writes an image to the terminal: pipe it")
    generator = _generator(style)
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


def _translate_clips(inputs: Sequence[str], output: str) -> None:
    for flag in (_FORMAT, _QUALITY, _METADATA, _MAPS):
        if flag.value != flag.default:
            raise UserError(f"omit --{flag.name}={flag.value}, which is for images, not for clips")
    if BUNDLES.value is not None and (SOURCE.value is None or TARGET.value is None):
        # The frames of a clip must not change their generator.
        raise UserError(f"--bundles={BUNDLES.value} needs --source and --target for clips")
    plan = output_plan.plan_outputs(
        inputs, output, recursive=_RECURSIVE.value, kind=translate_clips.KIND
    )
    smoother = None
    if _SMOOTH.value:
        if BUNDLE.value is None:
            raise UserError("--smooth needs --bundle: export the run, or choose one of the bundles")
        architecture = bundle.find(BUNDLE.value).architecture
        smoother = functools.partial(Smoother, architecture)
        smoother()  # Reports a missing package now.
    target = plan.jobs[0].target
    assert target is not None
    storage.check_folder(str(plan.folder or target.parent), "--output")
    generator = _generator(batch_translate.Style())
    translate_clips.run(
        plan,
        generator.open,
        name=generator.name,
        factor=generator.factor,
        smoother=smoother,
        progress_format=PROGRESS.value,
    )


def _generator(style: batch_translate.Style) -> _Generator:
    if BUNDLE.value is not None:
        return _of_bundle(BUNDLE.value)
    return _of_run(style) if BUNDLES.value is None else _of_bundles(BUNDLES.value)


def finish(
    plan: Plan,
    pending: Sequence[batch_translate.Job],
    translate: Callable[[], Iterable[batch_translate.Finished]],
    progress_format: Format,
    record: OutputRecord | None = None,
) -> None:
    """Runs the jobs with a progress line and prints a summary.

    Args:
      plan: all jobs.
      pending: those that are not done yet.
      translate: runs them; yields the result of each, in any order.
      progress_format: of the progress line.
      record: counts the outputs of other images or settings that were replaced.

    Raises:
      UserError: some failed; the message names each.
    """
    if len(pending) < len(plan.jobs):
        before = len(plan.jobs) - len(pending)
        print(f"{before} of {len(plan.jobs)} images are done already", file=sys.stderr)
    failures: list[str] = []
    if pending:
        progress = Progress(
            len(pending),
            noun="images",
            stream=sys.stderr if len(pending) > 1 else None,
            format=progress_format,
        )
        for done, finished in enumerate(translate(), start=1):
            if finished.failure is not None:
                failures.append(finished.failure)
            progress.update(done)
        progress.close()
    _print_skipped(plan)
    where = plan.folder or plan.jobs[0].target
    if not pending:
        print(f"nothing to do in {shown(plan.folder or '')}")
    elif where is not None and not (failures and len(pending) == 1):
        replaced = record.replaced if record else 0
        older = f", {replaced} of them over older outputs" if replaced else ""
        count = f"{len(pending) - len(failures)} of {len(pending)} images"
        print(f"{count} written to {shown(where)}{older}")
    if failures and len(pending) == 1:
        raise UserError(failures[0])
    if failures:
        raise UserError(
            "\n  ".join([f"{len(failures)} of {len(pending)} images failed:", *failures])
        )


def _print_skipped(plan: Plan) -> None:
    if not plan.passed_over:
        return
    named = ", ".join(plan.passed_over[:_MOST_NAMED])
    more = len(plan.passed_over) - _MOST_NAMED
    others = f" and {more} more" if more > 0 else ""
    hint = "; --recursive includes folders" if plan.folders_passed_over else ""
    print(f"skipped {len(plan.passed_over)}: {named}{others}{hint}", file=sys.stderr)


def _style(inputs: Sequence[str], output: str) -> batch_translate.Style:
    """Returns how the outputs are written."""
    wanted = list(MAPS) if _MAPS.value == ["all"] else _MAPS.value
    unknown = [name for name in wanted if name not in MAPS]
    if unknown:
        raise UserError(f"--maps={','.join(unknown)} is unknown: use all, or {','.join(MAPS)}")
    form: output_plan.OutputFormat = _FORMAT.value or FORMAT_OF.get(
        PurePath(output).suffix.lower(), "png"
    )
    if form == "same" and STANDARD in inputs:
        raise UserError("--format=same needs the name of an image, and --input=- has none")
    if _QUALITY.value is not None and form == "png":
        raise UserError(f"omit --quality={_QUALITY.value}: PNG is lossless; or give --format")
    # Of standard output; files get the format of their names.
    known: ImageFormat = (
        FORMAT_OF.get(PurePath(inputs[0]).suffix.lower(), "png") if form == "same" else form
    )
    return batch_translate.Style(tuple(wanted), known, _QUALITY.value, _METADATA.value)


def _of_run(style: batch_translate.Style) -> _Generator:
    from warp_translate.cli.run_flags import trained_generators
    from warp_translate.experiment.run_translator import RunTranslator

    trained = trained_generators()
    ready = RunTranslator(trained, DIRECTION.value, style.maps)
    factor = FACTOR.value or trained.config.method.factor
    return _Generator(ready.name, factor, batch=1, open=lambda: ready)


def _check_flags() -> None:
    """Refuses flags that the kind of generator does not have."""
    of_bundles = (ENGINE, BATCH, BUDGET)
    for place, kind, refused in (
        (WORKDIR, "--bundle and --bundles", (*of_bundles, SOURCE, TARGET)),
        (BUNDLE, "--bundles; a bundle has one generator", (SOURCE, TARGET)),
        (BUNDLE, "--workdir; a bundle has one generator", (STEP, DIRECTION)),
        (BUNDLES, "--workdir", (STEP, DIRECTION)),
    ):
        for flag in refused if place.value is not None else ():
            if flag.value != flag.default:
                raise UserError(f"omit --{flag.name}={flag.value}, which is only for {kind}")
    if BUDGET.value is not None and FACTOR.value is not None:
        raise UserError(f"--budget_ms chooses the factor: omit it, or --factor={FACTOR.value}")


def _of_bundle(folder: str) -> _Generator:
    opened = bundle.find(folder)
    if BUDGET.value is not None:
        engines = {(opened.source, opened.target): open_engine(opened, ENGINE.value)}
        ready = Router(Snapshot(engines, None, {}), budget_milliseconds=BUDGET.value)
        return _Generator(ready.name, None, batch=1, open=lambda: ready)
    return _Generator(
        name_of(opened),
        opened.check_factor(FACTOR.value),
        BATCH.value,
        lambda: open_engine(opened, ENGINE.value),
    )


def _of_bundles(folder: str) -> _Generator:
    ready = open_router(
        folder,
        ENGINE.value,
        source=SOURCE.value,
        target=TARGET.value,
        budget_milliseconds=BUDGET.value,
    )
    return _Generator(ready.name, FACTOR.value, batch=1, open=lambda: ready)


def name_of(opened: bundle.Bundle) -> str:
    """Identifies a bundle by its name and the checksums of its files."""
    files = json.dumps(dict(opened.files), sort_keys=True).encode()
    return f"{opened.name}, {hashlib.sha256(files).hexdigest()}"


if __name__ == "__main__":
    program.run(main, COMMAND)
