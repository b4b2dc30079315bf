"""Expands the sweep of an experiment file into commands, a SLURM array or JobSets.

    python -m launch.sweep --config=experiments/ablations/fusion.py --workdir=runs/fusion --seeds=3

The file holds ``get_sweep(arg)`` beside ``get_config(arg)``, see
``warp_translate/experiment/sweep.py``.
What stands behind ``--`` goes to every run. On one machine ``warp-translate ablate`` runs them, and
measures what was trained anywhere.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from launch import command_line
from launch.kubernetes import render
from warp_translate.errors import UserError
from warp_translate.experiment.sweep import read_sweep

_TASKS_FILE = "tasks.txt"
_ARRAY_SCRIPT = "launch/slurm/array.sbatch"


def expand(
    config: str, workdir: str, further: Sequence[str] = (), *, seeds: int | None = None
) -> list[list[str]]:
    """What ``warp-translate train`` gets in each run of an experiment's sweep.

    Args:
      config: experiment file, with its argument behind a colon if it has one.
      workdir: folder that the runs' own folders are in.
      further: flags for every run.
      seeds: runs of each variant; None for one that keeps its seed.

    Raises:
      UserError: see `read_sweep`, or ``further`` sets what the sweep does.
    """
    sweep = read_sweep(config, seeds=seeds)
    for field in {field for run in sweep.runs for field in run.overrides}:
        command_line.refuse_flags(
            further, [f"config.{field}"], "the sweep overrides that, leave it out behind --"
        )
    return [run.flags(config, workdir, further) for run in sweep.runs]


def main(argv: Sequence[str]) -> int:
    """Checks the command line and prints the runs as it says."""
    parser = command_line.Parser(
        "Expands the sweep of an experiment file into commands, a SLURM array or JobSets."
    )
    parser.add_argument("--config", required=True, help="experiment file with get_sweep")
    parser.add_argument("--workdir", required=True, help="folder that the runs' folders are in")
    parser.add_argument("--seeds", type=int, help="runs of each variant, with seeds from 0")
    parser.add_argument(
        "--format",
        choices=("commands", "slurm", "jobset"),
        default="commands",
        help="of the output",
    )
    parser.add_argument("--name", default="sweep", help="jobset: of the JobSets, before a number")
    render.add_arguments(parser)
    own, further = command_line.split_further(argv)
    arguments = parser.parse_args(own)
    manifest_flags = render.given_flags(arguments)
    if manifest_flags and arguments.format != "jobset":
        raise UserError(f"--{manifest_flags[0]} is for --format=jobset only")
    command_line.refuse_flags(further, ["config", "workdir"], "give it before --")
    runs = expand(arguments.config, arguments.workdir, further, seeds=arguments.seeds)
    if arguments.format == "commands":
        for run in runs:
            print(shlex.join(["warp-translate", "train", *run]))
    elif arguments.format == "slurm":
        tasks = Path(arguments.workdir, _TASKS_FILE)
        tasks.parent.mkdir(parents=True, exist_ok=True)
        tasks.write_text("".join(f"{shlex.join(run)}\n" for run in runs), encoding="utf-8")
        print(shlex.join(["sbatch", f"--array=0-{len(runs) - 1}", _ARRAY_SCRIPT, str(tasks)]))
    else:
        for index, run in enumerate(runs):
            manifest = render.from_arguments(f"{arguments.name}-{index}", arguments)
            print(f"---\n{render.render(manifest, run)}", end="")
    return 0


if __name__ == "__main__":
    command_line.run(main)
