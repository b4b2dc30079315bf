"""The part of ``warp-translate translate`` that translates video clips."""

import collections
import sys
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from warp_translate import file_tree, storage
from warp_translate.errors import UserError, shown
from warp_translate.image_io import SUFFIXES
from warp_translate.progress import Format, Progress
from warp_translate.serving import clips
from warp_translate.serving.batch_translate import Job, Source, Style, Translator
from warp_translate.serving.output_record import OutputRecord, made_by
from warp_translate.serving.smoothing import Smoother


def plan(inputs: Sequence[str], output: str, *, recursive: bool) -> list[Job] | None:
    """Decides which file is written for which clip.

    Args:
      inputs: files and folders; a folder with images is one of images, whatever else it holds.
      output: a folder; for one clip also a file.
      recursive: whether to include subfolders.

    Returns:
      The clips and their outputs, or None if the inputs are not clips.

    Raises:
      UserError: there are images beside clips, or the output does not suit the inputs.
    """
    found: dict[Path, PurePath] = {}
    others = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            held = [
                Path(entry.path)
                for entry, kind in file_tree.walk(path, recursive, once=True)
                if kind == "file"
            ]
            there = [each for each in held if each.suffix.lower() in clips.SUFFIXES]
            if not there or any(each.suffix.lower() in SUFFIXES for each in held):
                others.append(name)
            else:
                found |= {each: PurePath(each.relative_to(path)) for each in sorted(there)}
        elif path.suffix.lower() in clips.SUFFIXES:
            found[path] = PurePath(path.name)
        else:
            others.append(name)
    if not found:
        return None
    if others:
        raise UserError(f"{shown(others[0])} is not a clip: translate images and clips separately")
    for path in found:
        if not path.exists():
            raise UserError(f"{shown(path)}: there is no such file; check the path")
    target = Path(output)
    if target.suffix.lower() in clips.SUFFIXES and not target.is_dir():
        if len(found) > 1:
            raise UserError(f"--output={shown(output)} is for one clip: give a folder")
        if target.suffix.lower() not in clips.OUTPUT_SUFFIXES:
            known = ", ".join(clips.OUTPUT_SUFFIXES)
            raise UserError(f"--output={shown(output)}: clips are written as {known}")
        targets = [target]
    else:
        count = collections.Counter(each.with_suffix(".mp4") for each in found.values())
        targets = [
            target / (plain if count[plain] == 1 else f"{each}.mp4")
            for each in found.values()
            for plain in [each.with_suffix(".mp4")]
        ]
    jobs = [Job(source, each) for source, each in zip(found, targets, strict=True)]
    for job in jobs:
        if job.target is not None and job.target.exists() and job.target.samefile(str(job.source)):
            raise UserError(f"--output={shown(output)} would overwrite {job.name}")
    return jobs


def run(
    jobs: Sequence[Job],
    output: str,
    translator: Callable[[], Translator],
    *,
    name: str,
    factor: int | None,
    smoother: Callable[[], Smoother] | None,
    progress_format: Format,
) -> None:
    """Translates clips one after the other; a failure does not affect the others.

    Args:
      jobs: from `plan`.
      output: the flag.
      translator: opens the generator.
      name: identifies it.
      factor: the reduction.
      smoother: makes the smoother of a clip; None to translate every frame alone.
      progress_format: of the progress line.

    Raises:
      UserError: some failed; the message names each.
    """
    record, pending = None, list(jobs)
    if jobs[0].target != Path(output):
        by = made_by(name, factor, Style()) | {"smooth": smoother is not None}
        record = OutputRecord(Path(output), by)
        pending = record.begin(jobs, ())
        if len(pending) < len(jobs):
            print(f"{len(jobs) - len(pending)} of {len(jobs)} clips are done already")
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
            progress.update(min(done, max(total, done)))

        try:
            source = Source.of(job.source.stat(), storage.sha256(job.source))
            frames = clips.translate_clip(
                ready,
                job.source,
                job.target,
                name=name,
                factor=factor,
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
    if failures:
        raise UserError(
            "\n  ".join([f"{len(failures)} of {len(pending)} clips failed:", *failures])
        )
