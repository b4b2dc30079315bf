"""Expands the sweep of an experiment file into commands, a SLURM array or JobSets.

    python -m launch.sweep --config=experiments/ablations/fusion.py --workdir=runs/fusion --seeds=3

The file defines ``get_sweep(arg)``, see ``warp_translate/experiment/sweep.py``. Arguments after
``--`` go to every run. ``warp-translate ablate`` evaluates the runs wherever they were trained.
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
    """Returns the flags of ``warp-translate train`` for each run of a sweep.

    Args:
      config: experiment file, optionally with an argument after a colon.
      workdir: parent folder of the runs.
      further: flags for every run.
      seeds: runs of each variant; None for one run with the configured seed.

    Raises:
      UserError: see `read_sweep`, or ``further`` sets a field that the sweep overrides.
    """
    sweep = read_sweep(config, seeds=seeds)
    for field in {field for run in sweep.runs for field in run.overrides}:
        command_line.refuse_flags(
            further, [f"config.{field}"], "the sweep overrides it; remove it after --"
        )
    return [run.flags(config, workdir, further) for run in sweep.runs]


def main(argv: Sequence[str]) -> int:
    """Prints the runs in the requested format."""
    parser = command_line.Parser(
        "Expands the sweep of an experiment file into commands, a SLURM array or JobSets."
    )
    parser.add_argument("--config", required=True, help="experiment file with get_sweep")
    parser.add_argument("--workdir", required=True, help="parent folder of the runs")
    parser.add_argument("--seeds", type=int, help="runs per variant, with seeds from 0")
    parser.add_argument(
        "--format",
        choices=("commands", "slurm", "jobset"),
        default="commands",
        help="output format",
    )
    parser.add_argument("--name", default="sweep", help="jobset: prefix of the JobSets' names")
    render.add_arguments(parser)
    own, further = command_line.split(argv)
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
