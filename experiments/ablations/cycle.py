"""What each part of cycle training is worth: the same run with one part switched off at a time.

    python -m experiments.ablations.cycle --workdir=runs/ablation --steps=1500

Each run is a ``warp-translate train`` of ``experiments/openmoji_cycle.py`` in a folder of its own,
one after the other. Runs that are complete are not repeated, and one that was cut goes on. The
table is written after every run, to ``table.md`` and ``table.json``.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import app, flags

from warp_translate.cli import program

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "everything": (),
    "no fusion": ("method.fusion=pretranslated",),
    "no cycle": ("losses.cycle=0.0", "losses.cycle_full=0.0"),
    "no identity": ("losses.identity=0.0",),
    "no pretranslated loss": (
        "losses.adversarial_pretranslated=0.0",
        "losses.identity_pretranslated=0.0",
    ),
    "no pool": ("method.pool_size=0",),
    "no augmentation": (
        "data.max_shift=0",
        "data.scale=(1.0, 1.0)",
        "data.max_rotation=0.0",
        "data.channel_shuffle=0.0",
        "data.flip=False",
    ),
    "no adversarial loss of the pretranslated": ("losses.adversarial_pretranslated=0.0",),
    "spectral norm": ("discriminator.spectral_norm=True",),
}
"""The rows of the table: what is set otherwise than in the experiment file."""

_COLUMNS = {
    "L1 / identity": "output/l1_ratio",
    "kernel distance after / before": "kernel_distance/efficientnet_lite0/ratio",
    "cycle L1": "cycle/l1",
    "sharpness": "output/sharpness_of_original",
    "mask": "mask/mean",
    "displacement px": "displacement/mean_px",
}
_DIRECTIONS = ("a_to_b", "b_to_a")

_STEPS = flags.DEFINE_integer("steps", 1500, "Steps of each run.")
_ARG = flags.DEFINE_string("arg", "", "Argument of the experiment file, runlocal for instance.")
_ONLY = flags.DEFINE_list("only", [], "Rows to run; all by default.")


def main(argv: Sequence[str]) -> None:
    """Runs what is missing and writes the table."""
    if len(argv) > 1 or not program.WORKDIR.value:
        raise app.UsageError("give --workdir=FOLDER and flags only")
    unknown = [name for name in _ONLY.value if name not in VARIANTS]
    if unknown:
        raise app.UsageError(f"--only={unknown[0]} is no row; there are: {', '.join(VARIANTS)}")
    folder = Path(program.WORKDIR.value)
    rows: dict[str, dict[str, float]] = {}
    for name in VARIANTS:
        workdir = folder / name.replace(" ", "_")
        scalars = _final_scalars(workdir)
        if scalars is None and name not in (_ONLY.value or VARIANTS):
            continue
        if scalars is None:
            print(f"== {name}", flush=True)
            status = subprocess.run(_command(workdir, VARIANTS[name]), check=False).returncode
            scalars = _final_scalars(workdir)
            if status or scalars is None:
                print(f"{name} failed with status {status}; the others go on", file=sys.stderr)
                continue
        rows[name] = scalars
        (folder / "table.json").write_text(json.dumps(rows, indent=2) + "\n")
        (folder / "table.md").write_text(_table(rows))
    print(_table(rows))


def _command(workdir: Path, settings: Sequence[str]) -> list[str]:
    experiment = Path(__file__).parents[1] / "openmoji_cycle.py"
    return [
        sys.executable,
        "-m",
        "warp_translate.cli.train",
        f"--config={experiment}:{_ARG.value}",
        f"--workdir={workdir}",
        f"--config.training.total_steps={_STEPS.value}",
        *(f"--config.{setting}" for setting in settings),
    ]


def _final_scalars(workdir: Path) -> dict[str, float] | None:
    """The evaluation of the last step, or None where there is none."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return None
    for line in reversed(path.read_text().splitlines()):
        record = json.loads(line)
        if record["step"] == _STEPS.value and any(
            name.startswith("test/") for name in record["scalars"]
        ):
            scalars = record["scalars"].items()
            return {name.removeprefix("test/"): value for name, value in scalars}
    return None


def _table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table, both directions in each cell."""
    lines = [
        f"{_STEPS.value} steps; A to B, B to A in each cell.",
        "",
        f"| | {' | '.join(_COLUMNS)} |",
        f"|{'---|' * (1 + len(_COLUMNS))}",
    ]
    for name, scalars in rows.items():
        cells = [
            ", ".join(
                f"{scalars[key]:.3f}" if (key := f"{direction}/{metric}") in scalars else "-"
                for direction in _DIRECTIONS
            )
            for metric in _COLUMNS.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main)
