"""``warp-translate translate``: translates a file or a folder at the images' own sizes.

Outputs are PNG files in ``--output``, named like the inputs.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags

from warp_translate.cli import program
from warp_translate.cli.restore import trained_generators
from warp_translate.data import images
from warp_translate.errors import UserError
from warp_translate.evaluation.evaluator import maps_as_images
from warp_translate.training.logging import Progress
from warp_translate.types import PyTree, to_float

MAPS = ("reduced", "pretranslated", "mask", "displacement", "warped")

_INPUT = flags.DEFINE_string("input", None, "An image (JPEG, PNG or WebP) or a folder of images.")
_MAPS = flags.DEFINE_list(
    "maps", [], f"Intermediates to write beside each output: all, or some of {','.join(MAPS)}."
)

_DIRECTION = flags.DEFINE_string(
    "direction", None, "Which generator of a cycle run translates: a_to_b (default) or b_to_a."
)

# Nothing on a sheet says how long a colour is, so a fixed share of the side is shown in full.
_FULL_COLOR_SHARE = 0.05


def main(argv: Sequence[str]) -> None:
    """Translates every image; one that cannot be read is named, and the others go on."""
    if len(argv) > 1:
        raise UserError(f"translate takes flags only, got {' '.join(argv[1:])!r}")
    if _INPUT.value is None or program.OUTPUT.value is None:
        raise UserError("translate needs --workdir=RUN, --input=FILE_OR_FOLDER, --output=FOLDER")
    wanted = list(MAPS) if _MAPS.value == ["all"] else _MAPS.value
    unknown = [name for name in wanted if name not in MAPS]
    if unknown:
        raise UserError(f"--maps={','.join(unknown)} is unknown: use all, or {','.join(MAPS)}")
    jobs = plan_outputs(Path(_INPUT.value), Path(program.OUTPUT.value))
    trained = trained_generators()
    generators = trained.training.generators
    direction = _DIRECTION.value or generators[0]
    if direction not in generators:
        raise UserError(
            f"--direction={direction} is none of this run's generators: {', '.join(generators)}"
        )
    params = trained.params[direction]
    try:
        Path(program.OUTPUT.value).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output={program.OUTPUT.value} cannot be made ({error.strerror}): choose another"
        ) from error

    # Compiled once for each size that comes.
    translate = jax.jit(lambda params, x: trained.training.translate(params, to_float(x)))
    failures: list[str] = []
    progress = Progress(len(jobs), batch_size=1, stream=sys.stderr if len(jobs) > 1 else None)
    for done, (source, target) in enumerate(jobs, start=1):
        try:
            _translate_file(translate, params, source, target, wanted)
        except UserError as error:
            if len(jobs) == 1:
                raise
            failures.append(str(error))
        progress.update(done)
    progress.close()
    print(f"{len(jobs) - len(failures)} of {len(jobs)} images written to {program.OUTPUT.value}")
    if failures:
        raise UserError("\n  ".join([f"{len(failures)} of {len(jobs)} images failed:", *failures]))


def plan_outputs(source: Path, folder: Path) -> list[tuple[Path, Path]]:
    """Which file is written for which image.

    Args:
      source: an image or a folder of images.
      folder: where the outputs go.

    Returns:
      Pairs of input and output path. Outputs are PNG, since alpha and sharpness are kept; two
      images that differ in their suffix alone keep it in the name.

    Raises:
      UserError: there is no image, or outputs would be written over the inputs.
    """
    inputs = images.list_images(source) if source.is_dir() else [source]
    stems = [path.stem for path in inputs]
    jobs = []
    for path in inputs:
        name = path.stem if stems.count(path.stem) == 1 else path.name
        jobs.append((path, folder / f"{name}.png"))
    taken = {path.resolve() for path in inputs}
    if any(target.resolve() in taken for _, target in jobs):
        raise UserError(f"--output={folder} would overwrite the inputs: choose another folder")
    return jobs


def _translate_file(
    translate: jax.stages.Wrapped,
    params: PyTree,
    source: Path,
    target: Path,
    maps: Sequence[str],
) -> None:
    decoded = images.read_image(source)
    original = images.flatten(decoded)
    translation = jax.tree.map(lambda each: np.asarray(each[0]), translate(params, original[None]))
    pictures = maps_as_images(translation, max(1.0, _FULL_COLOR_SHARE * max(original.shape[:2])))
    output = pictures["output"]
    if decoded.alpha is not None:
        output = images.unflatten(output, decoded.alpha)
    images.write_image(target, output, decoded.alpha)
    for name in maps:
        images.write_image(target.with_name(f"{target.stem}.{name}.png"), pictures[name])


def run() -> None:
    """Entry point of the command."""
    program.run(main)


if __name__ == "__main__":
    run()
