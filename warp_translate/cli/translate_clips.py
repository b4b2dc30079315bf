"""The part of ``warp-translate translate`` that translates video clips."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from warp_translate import file_tree, storage
from warp_translate.errors import UserError, reason, shown
from warp_translate.image_io import SUFFIXES
from warp_translate.progress import Format, Progress
from warp_translate.serving import clips
from warp_translate.serving.batch_translate import Source, Style, Translator
from warp_translate.serving.output_plan import Kind, Plan
from warp_translate.serving.output_record import OutputRecord, made_by
from warp_translate.serving.smoothing import Smoother

KIND = Kind("clip", clips.SUFFIXES, clips.OUTPUT_SUFFIXES, "mp4")


def are_clips(inputs: Sequence[str], *, recursive: bool) -> bool:
    """Whether the inputs are clips: files, or folders that hold clips and no image.

    Raises:
      UserError: some are and others are not.
    """
    found = {name: _is_clip(Path(name), recursive) for name in inputs}
    if any(found.values()) and not all(found.values()):
        other = next(name for name, is_clip in found.items() if not is_clip)
        raise UserError(f"{shown(other)} is not a clip: translate images and clips separately")
    return all(found.values())


def _is_clip(path: Path, recursive: bool) -> bool:
    if not path.is_dir():
        return path.suffix.lower() in clips.SUFFIXES
    try:
        suffixes = {
            Path(entry.path).suffix.lower()
            for entry, kind in file_tree.walk(path, recursive, once=True)
            if kind == "file"
        }
    except OSError:
        return False  # The plan reports it.
    return not suffixes.isdisjoint(clips.SUFFIXES) and suffixes.isdisjoint(SUFFIXES)


def run(
    plan: Plan,
    translator: Callable[[], Translator],
    *,
    name: str,
    factor: int | None,
    smoother: Callable[[], Smoother] | None,
    progress_format: Format,
) -> None:
    """Translates clips one after the other; a failure does not affect the others.

    Args:
      plan: the clips and their outputs.
      translator: opens the generator.
      name: identifies it.
      factor: the reduction.
      smoother: makes the smoother of a clip; None to translate every frame alone.
      progress_format: of the progress line.

    Raises:
      UserError: some failed; the message names each.
    """
    record, pending = None, list(plan.jobs)
    if plan.folder is not None:
        by = made_by(name, factor, Style()) | {"smooth": smoother is not None}
        record = OutputRecord(plan.folder, by)
        pending = record.begin(plan.jobs, ())
        if len(pending) < len(plan.jobs):
            print(f"{len(plan.jobs) - len(pending)} of {len(plan.jobs)} clips are done already")
    if pending:
        clips.library()  # Reports a missing package once.
    ready = translator() if pending else None
    failures = []
    for number, job in enumerate(pending, start=1):
        assert ready is not None and job.source is not None and job.target is not None
        job.target.parent.mkdir(parents=True, exist_ok=True)
        print(f"{job.name} ({number} of {len(pending)})", file=sys.stderr)
        progress: Progress | None = None

        def note(done: int, total: int) -> None:
            nonlocal progress
            if progress is None:
                progress = Progress(
                    max(total, done),
                    done - 1,
                    noun="frames",
                    stream=sys.stderr,
                    format=progress_format,
                )
            progress.update(done)

        try:
            source = _source(job.source)
            frames = clips.translate_clip(
                ready,
                job.source,
                job.target,
                name=name,
                factor=factor,
                checksum=source.sha256,
                smoother=smoother() if smoother else None,
                note=note,
            )
        except UserError as error:
            failures.append(str(error))
            continue
        finally:
            if progress is not None:
                progress.close()
        print(f"{frames} frames written to {shown(job.target)}")
        if record is not None:
            record.written(job, source)
    if failures and len(pending) == 1:
        raise UserError(failures[0])
    if failures:
        raise UserError(
            "\n  ".join([f"{len(failures)} of {len(pending)} clips failed:", *failures])
        )


def _source(path: Path) -> Source:
    try:
        return Source.of(path.stat(), storage.sha256(path))
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read ({reason(error)})") from error
