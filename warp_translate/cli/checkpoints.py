r"""``warp-translate checkpoints``: what the checkpoints of a run take, and which to keep.

    warp-translate checkpoints --workdir=runs/quickstart
    warp-translate checkpoints --workdir=runs/quickstart --keep=best,latest
    warp-translate checkpoints --workdir=runs/quickstart --verify

A training keeps its ``config.training.keep_latest`` newest ones and the best one, and with
``config.training.keep_every`` those of whole multiples as well.
"""

import sys
from collections.abc import Mapping, Sequence

from absl import flags

from warp_translate.cli import program
from warp_translate.cli.run_flags import BEST_BY, open_run
from warp_translate.errors import UserError
from warp_translate.experiment.restore import Run
from warp_translate.training.checkpoint import DamagedCheckpoint

_KEEP = flags.DEFINE_list(
    "keep", None, "Steps to keep: numbers, best, latest; all others are removed."
)

_VERIFY = flags.DEFINE_bool(
    "verify", False, "Compare all files with their checksums; status 2 where one is damaged."
)

_MEGABYTE = 1e6


def main(argv: Sequence[str]) -> None:
    """Lists the checkpoints, or removes some."""
    if len(argv) > 1:
        raise UserError(f"checkpoints takes flags only, got {' '.join(argv[1:])!r}")
    with open_run() as run:
        steps = run.checkpoints.steps()
        if not steps:
            run.step("latest")  # Says that there are none.
        if _KEEP.value is not None:
            if not _KEEP.value:
                raise UserError("--keep= names no step, and all would be removed: name some")
            kept = {_step(run, word.strip()) for word in _KEEP.value}
            freed = 0
            for step in sorted(set(steps) - kept):
                freed += run.checkpoints.bytes(step)
                run.checkpoints.remove(step)
            print(
                f"removed {len(set(steps) - kept)} of {len(steps)}, {freed / _MEGABYTE:.1f} MB",
                file=sys.stderr,
            )
            steps = run.checkpoints.steps()
        damage = {step: problem for step in steps if (problem := _damage(run, step))}
        print(_table(run, steps, damage))
        if damage:
            raise UserError(
                f"{len(damage)} of {len(steps)} checkpoints are damaged: "
                f"{next(iter(damage.values()))}"
            )


def _step(run: Run, word: str) -> int:
    if word in ("best", "latest"):
        return run.step(word)  # type: ignore[arg-type]
    if not word.isdigit():
        raise UserError(f"--keep={word} is neither best, latest nor a number of steps")
    step = run.step(int(word))
    run.checkpoints.verify(step)  # Else the whole ones would be removed.
    return step


def _damage(run: Run, step: int) -> DamagedCheckpoint | None:
    """What is wrong with a step: with its metrics, or with ``--verify`` with any of its files."""
    try:
        run.checkpoints.metrics(step)
        if _VERIFY.value:
            run.checkpoints.verify(step)
    except DamagedCheckpoint as error:
        return error
    return None


def _table(run: Run, steps: Sequence[int], damage: Mapping[int, DamagedCheckpoint]) -> str:
    best, latest = run.step("best", whole=False), run.step("latest", whole=False)
    lines = [f"{'step':>8} {'MB':>9}  {run.best_by}"]
    for step in steps:
        names = [name for name, which in (("best", best), ("latest", latest)) if which == step]
        if step in damage:
            figure = "damaged"
        else:
            score = run.checkpoints.metrics(step).get(run.best_by)
            figure = "not measured" if score is None else f"{score:.4g}"
            if _VERIFY.value:
                names.append("verified")
        lines.append(
            f"{step:>8} {run.checkpoints.bytes(step) / _MEGABYTE:>9.1f}  {figure}  "
            f"{', '.join(names)}".rstrip()
        )
    total = sum(map(run.checkpoints.bytes, steps)) / _MEGABYTE
    return "\n".join([*lines, f"{'all':>8} {total:>9.1f}"])


def run() -> None:
    """Entry point of the command."""
    program.run(main, takes=(program.WORKDIR, BEST_BY))


if __name__ == "__main__":
    run()
