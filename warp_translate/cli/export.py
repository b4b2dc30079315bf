"""``warp-translate export``: exports the networks of a run as bundles.

A generator becomes the folder SOURCE-TARGET in ``--output``, a classifier the folder
``classifier``. A bundle is compared with the checkpoint on images of the test split, and not
written if it differs.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from warp_translate import storage
from warp_translate.cli import program
from warp_translate.cli.commands import Command
from warp_translate.cli.shared_flags import (
    BEST_BY,
    DEFAULT_FACTORS,
    DIRECTION,
    FACTOR,
    FACTORS,
    OUTPUT,
    SOURCE,
    STEP,
    TARGET,
    WORKDIR,
    define_path,
)
from warp_translate.errors import UserError

_NAME = flags.DEFINE_string(
    "bundle_name", None, "Name of the bundle; SOURCE-TARGET or classifier by default."
)
_THRESHOLD = flags.DEFINE_float(
    "threshold",
    None,
    "Probability below which a classifier calls an image unknown; by default the run's.",
)
flags.register_validator(
    "threshold", lambda value: value is None or 0 <= value <= 1, "must be within 0 and 1"
)
_TRITON = define_path("triton", "Model repository of Triton for copies of the generators.")
_HALF = flags.DEFINE_bool(
    "half", False, "Store the parameters as float16: half the size, float32 computation."
)

_SAMPLE = define_path("sample", "Picture to try the generator with, on its pages.")

_OF_GENERATORS: tuple[flags.FlagHolder[Any], ...] = (
    DIRECTION,
    FACTORS,
    SOURCE,
    TARGET,
    _TRITON,
    _HALF,
    _SAMPLE,
)

COMMAND = Command(
    "export",
    examples=(
        "--workdir=runs/retouch --output=bundles",
        "--workdir=runs/fruit --output=bundles --source=apple --target=orange --factors=2,4",
    ),
    required=(WORKDIR, OUTPUT),
    common=(SOURCE, TARGET, DIRECTION, FACTORS, STEP),
    advanced=(FACTOR, BEST_BY, _HALF, _SAMPLE, _NAME, _THRESHOLD, _TRITON),
    text={
        "output": "Folder for the bundles.",
        "source": "Domain to translate from; by default that of the data set.",
        "target": "Domain to translate to; by default that of the data set.",
        "direction": "Generator of a cycle run, a_to_b or b_to_a; both by default.",
        "factors": "Factors that the bundle serves, besides the run's own. "
        f"(default: {','.join(map(str, DEFAULT_FACTORS))})",
    },
)


def main(argv: Sequence[str]) -> None:
    """Exports, and prints how far each format is from the checkpoint."""
    del argv
    workdir, output = str(WORKDIR.value), str(OUTPUT.value)
    storage.check_folder(output, "--output")
    if _TRITON.value is not None:
        storage.check_folder(_TRITON.value, "--triton")
    from warp_translate.cli.run_flags import trained, trained_generators
    from warp_translate.experiment import export, run_config

    classifies = run_config.load(workdir).method.training == "classifier"
    for flag in _OF_GENERATORS if classifies else (_THRESHOLD,):
        if flag.value != flag.default:
            kind = "generators, not a classifier" if classifies else "a classifier, not generators"
            raise UserError(f"omit --{flag.name}, which is for {kind}")
    if classifies:
        export.classifier_bundle(trained(), output, name=_NAME.value, threshold=_THRESHOLD.value)
        return
    export.generator_bundles(
        trained_generators(),
        output,
        direction=DIRECTION.value,
        source=SOURCE.value,
        target=TARGET.value,
        name=_NAME.value,
        factors=FACTORS.value or DEFAULT_FACTORS,
        repository=_TRITON.value,
        half=_HALF.value,
        sample=_SAMPLE.value,
    )


if __name__ == "__main__":
    program.run(main, COMMAND)
