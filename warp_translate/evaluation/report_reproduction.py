"""Provenance of runs: key facts, commands and environment."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from warp_translate.evaluation import comparison
from warp_translate.evaluation.comparison import Group
from warp_translate.evaluation.report_blocks import Block, Cell, Code, Column, Row, Section, Table
from warp_translate.evaluation.runs import START_FILE, Run, Source, Sweep, all_runs, flat

_NOT_AN_ENVIRONMENT = ("command", "started")
_COMMIT_LETTERS = 10
_DIFFERENT = "several"


def facts(sources: Sequence[Source], groups: Sequence[Group]) -> dict[str, str]:
    """Key facts, as far as they are known."""
    runs = all_runs(sources)
    configs = [run.config for run in runs if run.config]
    done = sum(run.evaluation is not None for run in runs)
    taken = [each.seconds for each in sources if isinstance(each, Sweep) and each.seconds]
    days = [str(run.start["started"])[:10] for run in runs if run.start.get("started")]
    size, commit = _common(configs, "data.size"), _common([run.start for run in runs], "commit")
    data = [_common(configs, "data.name"), f"{size}\N{NO-BREAK SPACE}px" * size.isdigit()]
    found = {
        "Runs": f"{len(runs)} of {len(groups)} variant{'s' * (len(groups) != 1)}",
        "Evaluated": "all" if done == len(runs) else f"{done} of {len(runs)}",
        "Data": ", ".join(filter(None, data)),
        "Steps": _common(configs, "training.total_steps"),
        "Device": _devices(runs),
        "Took": _duration(sum(taken)) if taken else "",
        "Started": min(days, default=""),
        "Commit": commit if commit == _DIFFERENT else commit[:_COMMIT_LETTERS],
    }
    return {name: text for name, text in found.items() if text}


def reproduction(sources: Sequence[Source], command: Sequence[str]) -> tuple[Block, ...]:
    """The commands that made the runs and the report."""
    own = [
        source.command if isinstance(source, Sweep) else source.start.get("command")
        for source in sorted(sources, key=lambda source: isinstance(source, Run))
    ]
    each = [run.start.get("command") for run in all_runs(sources) if run not in sources]
    blocks: list[Block] = []
    if lines := _typed([*own, command]):
        blocks.append(Code(lines, "bash"))
    if lines := _typed(each):
        blocks.append(Section("The command of each run", (Code(lines, "bash"),)))
    return tuple(blocks)


def environment(sources: Sequence[Source]) -> tuple[Block, ...]:
    """Machine, versions and protocol, with a table of differences between runs."""
    runs = all_runs(sources)
    known = [(run, _environment(run)) for run in runs if run.start]
    blocks: list[Block] = []
    found = [each for _, each in known]
    fields = comparison.differing(found)
    if fields:
        rows = tuple(
            Row(run.name, tuple(Cell(comparison.value(each, field)) for field in fields))
            for run, each in known
        )
        columns = tuple(Column(field, numeric=False) for field in fields)
        blocks.append(f"The environments of the runs differ in {', '.join(fields)}.")
        blocks.append(Table("run", columns, rows, "Differences between the environments of runs"))
    missing = [run.name for run in runs if not run.start]
    if missing:
        named = ", ".join(missing) if known else "all runs"
        blocks.append(f"{START_FILE} is missing for {named}: their environment is unknown.")
    inner: list[Block] = []
    if known:
        inner.append(Code(lines({k: v for k, v in found[0].items() if k not in fields})))
    inner += [
        Code(f"{source.title}\n{lines(flat(source.machine))}")
        for source in sources
        if isinstance(source, Sweep) and source.machine
    ]
    if inner:
        blocks.append(Section("Environment", tuple(inner)))
    evaluations = [run.evaluation for run in runs if run.evaluation]
    if evaluations and evaluations[0].protocol:
        code = Code(lines(evaluations[0].protocol))
        blocks.append(Section("Protocol of the evaluation, the same for all runs", (code,)))
    return tuple(blocks)


def lines(fields: Mapping[str, Any]) -> str:
    """Names and values, aligned."""
    width = max(map(len, fields), default=0)
    return "\n".join(f"{name:<{width}}  {comparison.value(fields, name)}" for name in fields)


def _environment(run: Run) -> dict[str, Any]:
    return {
        name: found
        for name, found in flat(run.start).items()
        if name.partition(".")[0] not in _NOT_AN_ENVIRONMENT
    }


def _typed(commands: Sequence[Any]) -> str:
    """Commands as shell lines, with programs by name instead of path."""
    words = [list(map(str, each)) for each in commands if isinstance(each, list | tuple) and each]
    return "\n".join(shlex.join([PurePath(each[0]).name or each[0], *each[1:]]) for each in words)


def _common(fields: Sequence[Mapping[str, Any]], name: str) -> str:
    """The value of a field that is common to all runs; "" if none has it."""
    found = {json.dumps(each.get(name)) for each in fields if each.get(name) is not None}
    if len(found) != 1:
        return _DIFFERENT if found else ""
    only = json.loads(found.pop())
    return f"{only:,}" if isinstance(only, int) else str(only)


def _devices(runs: Sequence[Run]) -> str:
    found: dict[str, None] = {}
    for run in runs:
        devices = run.start.get("devices")
        if isinstance(devices, list) and devices:
            kinds = {str(device) for device in devices}
            count = f"{len(devices)} of " if len(devices) > 1 and len(kinds) == 1 else ""
            found[count + ", ".join(sorted(kinds))] = None
    return "; ".join(found)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
