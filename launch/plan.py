"""Compiles the training step of an experiment ahead of time and tells what it will cost.

    python -m launch.plan --config=experiments/paired.py --topology=v5e:2x2
    python -m launch.plan --config=experiments/cycle.py --topology=v5e:16x16 --batch_per_chip=2
    python -m launch.plan --config=experiments/paired.py:runlocal --topology=local

It is the very step that ``warp-translate train`` takes. No data set is opened, no parameter drawn,
nothing runs, and for a named slice no TPU is needed, only the package ``libtpu`` (the extra
``plan``). Exit status: 0 if all is well, 1 if the step does not fit or a gather blows up, 2 for a
mistake in the command.
"""

import contextlib
import dataclasses
import functools
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import flags

from launch.compiled import Collective, Operation, read_program
from launch.gathers import Moved, moved_by_gathers
from launch.topology import LOCAL, Topology, open_topology
from warp_translate.cli import program
from warp_translate.cli.config_flag import CONFIG, experiment
from warp_translate.errors import UserError
from warp_translate.experiment import build
from warp_translate.experiment.task import Training
from warp_translate.training.parallel import Replicas
from warp_translate.training.throughput import peak_flops
from warp_translate.types import PyTree

_TOPOLOGY = flags.DEFINE_string(
    "topology", None, f"What to compile for: {LOCAL}, or a slice of TPUs such as v5e:2x2."
)
_GLOBAL_BATCH = flags.DEFINE_integer(
    "global_batch", None, "Examples over all chips; the configuration's by default.", lower_bound=1
)
_BATCH_PER_CHIP = flags.DEFINE_integer(
    "batch_per_chip", None, "The same by the examples on each chip.", lower_bound=1
)
_JSON = flags.DEFINE_string("json", None, "File for the plan as JSON.")

_UNMET_STATUS = 1
_PARTS = ("parameters", "optimiser", "moving average", "image pool", "other state", "batch")
_PROGRESS_SECONDS = 15
_SHOWN_OPERATIONS = 5


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one step costs on each chip. Bytes and operations are those of one chip.

    Attributes:
      experiment: kind of training and size of the images.
      topology: name of what was compiled for.
      chips: how many.
      chip: what a chip calls itself.
      global_batch: examples over all chips.
      compile_seconds: time to lower and compile.
      parts: bytes of what the step is handed, without padding; names as in `_PARTS`.
      memory: bytes of the compiled program: arguments, results that are not written over
        arguments, temporaries (activations), code, and their total.
      hbm_bytes: the chip's memory; None where it is not known.
      flops: operations, as the compiler counts them.
      bytes_accessed: bytes read and written, as the compiler counts them.
      seconds: a lower bound for the step's time; None where the chip is not known.
      limit: what sets it, "arithmetic" or "memory".
      collectives: by kind.
      loops: how often each loop of the program runs; the two counts above hold its body once.
      conditionals: branchings; the two counts hold the dearest branch.
      operations: the operations with the longest estimates.
      cycles: the sum of all estimates.
      gathers: gathers and scatters; None where the check is not made.
    """

    experiment: str
    topology: str
    chips: int
    chip: str
    global_batch: int
    compile_seconds: float
    parts: dict[str, int]
    memory: dict[str, int]
    hbm_bytes: int | None
    flops: float
    bytes_accessed: float
    seconds: float | None
    limit: str | None
    collectives: tuple[Collective, ...]
    loops: tuple[int | None, ...]
    conditionals: int
    operations: tuple[Operation, ...]
    cycles: int
    gathers: tuple[Moved, ...] | None

    @property
    def fits(self) -> bool | None:
        """Whether a chip's memory holds the step; None where it is not known."""
        return None if self.hbm_bytes is None else self.memory["total"] <= self.hbm_bytes

    @property
    def blown_up(self) -> tuple[Moved, ...]:
        """The gathers and scatters that move more than they may."""
        return tuple(each for each in self.gathers or () if each.blows_up)

    @property
    def passes(self) -> bool:
        """Whether nothing speaks against the step."""
        return self.fits is not False and not self.blown_up


def make_plan(
    config: ml_collections.ConfigDict, topology: Topology, global_batch: int | None = None
) -> Plan:
    """Compiles the training step and reads what it costs.

    Args:
      config: the experiment.
      topology: what to compile for.
      global_batch: examples over all chips; the configuration's by default.

    Returns:
      The plan.

    Raises:
      UserError: the configuration cannot be built, the batch does not divide over the chips, or
        the compiler finds that the step does not fit.
    """
    chips = len(topology.devices)
    config = config.copy_and_resolve_references()
    if global_batch is not None:
        config.training.global_batch = global_batch
    global_batch = config.training.global_batch
    build.check_batch(config, chips)
    training = build.training(config)
    replicas = Replicas(training.axes, tuple(topology.devices), "shard_map")
    step = replicas.map(training.step, steps_per_call=config.training.steps_per_call)
    state, batch, root = _abstract_inputs(replicas, training, config)
    say = functools.partial(print, file=sys.stderr, flush=True)
    about = f"the {config.method.training} step for {chips} x {topology.devices[0].device_kind}"
    begin = time.perf_counter()
    with _progress(f"compiling {about}"):
        traced = step.trace(state, batch, root)
        try:
            compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(
                f"{about} does not fit at {global_batch // chips} examples a chip: "
                f"{' '.join(str(error).split())[:300]}: use fewer a chip, a larger factor or "
                "more memory"
            ) from error
    seconds = time.perf_counter() - begin
    read = read_program(compiled.as_text())
    cost, memory = compiled.cost_analysis(), _memory(compiled.memory_analysis())
    flops, accessed = cost.get("flops", 0.0), cost.get("bytes accessed", 0.0)
    chip, times = topology.chip, {}
    if peak := peak_flops(topology.devices[0].device_kind):
        times["arithmetic"] = flops / peak
    if chip:
        times["memory"] = accessed / chip.hbm_bandwidth
    moved = None
    if topology.platform == "tpu":
        with _progress("checking the gathers"):
            moved = tuple(moved_by_gathers(traced.jaxpr, topology.devices[0], say))
    return Plan(
        experiment=", ".join(
            [
                config.method.training,
                f"{config.data.size} px",
                *([f"factor {config.method.factor}"] if "factor" in config.method else []),
            ]
        ),
        topology=topology.name,
        chips=chips,
        chip=topology.devices[0].device_kind,
        global_batch=global_batch,
        compile_seconds=seconds,
        parts=_parts(training, state, batch, chips),
        memory=memory,
        hbm_bytes=chip.hbm_bytes if chip else None,
        flops=flops,
        bytes_accessed=accessed,
        seconds=max(times.values(), default=None),
        limit=max(times, key=lambda name: times[name], default=None),
        collectives=read.collectives,
        loops=read.loops,
        conditionals=read.conditionals,
        operations=read.operations[:_SHOWN_OPERATIONS],
        cycles=sum(operation.cycles for operation in read.operations),
        gathers=moved,
    )


def _abstract_inputs(
    replicas: Replicas, training: Training, config: ml_collections.ConfigDict
) -> tuple[PyTree, PyTree, PyTree]:
    """Shapes, types and places of state, batch and root key; nothing is drawn."""
    try:
        root = jax.eval_shape(lambda: build.root_key(config))
        state = jax.eval_shape(lambda root: training.init(root, config.data.size), root)
    except ValueError as error:
        raise UserError(f"config.data.size does not fit: {error}") from error
    batch = replicas.abstract_batches(
        build.batch_shapes(config, config.training.global_batch), config.training.steps_per_call
    )
    return replicas.abstract(state), batch, root


def _parts(training: Training, state: PyTree, batch: PyTree, chips: int) -> dict[str, int]:
    """Bytes on each chip by what they are for."""
    own = jax.tree.leaves(
        jax.tree.map(
            lambda axis, part: jax.tree.map(lambda leaf: axis is not None, part),
            training.axes,
            state,
            is_leaf=lambda axis: axis is None,
        )
    )
    names = {"params": "parameters", "opt_state": "optimiser", "ema": "moving average"}
    parts = dict.fromkeys(_PARTS, 0)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    for (path, leaf), is_own in zip(leaves, own, strict=True):
        fields = [getattr(key, "name", None) for key in path]
        name = next((names[field] for field in fields if field in names), "other state")
        size = leaf.size * leaf.dtype.itemsize
        parts["image pool" if is_own else name] += size // chips if is_own else size
    parts["batch"] = sum(leaf.size for leaf in jax.tree.leaves(batch)) // chips
    return parts


def _memory(stats: Any) -> dict[str, int]:
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "new results": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    return {**memory, "total": sum(memory.values())}


@contextlib.contextmanager
def _progress(what: str) -> Iterator[None]:
    """Says on stderr what is done, and every so often that it still is."""
    done = threading.Event()
    begin = time.monotonic()

    def tell() -> None:
        while not done.wait(_PROGRESS_SECONDS):
            print(f"{what}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)

    print(f"{what} ...", file=sys.stderr, flush=True)
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def table(plan: Plan) -> str:
    """The plan for a terminal."""
    per_chip = plan.global_batch // plan.chips
    lines = [
        f"{plan.experiment} on {plan.topology}: {plan.chips} x {plan.chip}, global batch "
        f"{plan.global_batch} ({per_chip} a chip); compiled in {plan.compile_seconds:.0f} s",
        "All figures are for one chip and one step.",
        "",
        "handed in (without padding)",
        *(f"  {name:<28}{_size(size)}" for name, size in plan.parts.items()),
        "memory of the compiled program (with padding)",
        *(f"  {_MEMORY_NAMES[name]:<28}{_size(size)}" for name, size in plan.memory.items()),
    ]
    if plan.hbm_bytes is None:
        lines.append("  fits: unknown, the memory of this chip is not in the table")
    else:
        share = plan.memory["total"] / plan.hbm_bytes
        left = plan.hbm_bytes - plan.memory["total"]
        lines.append(
            f"  fits: {'yes' if plan.fits else 'NO'}, {share:.1%} of "
            f"{_size(plan.hbm_bytes).strip()}, {_size(left).strip()} left"
        )
    intensity = plan.flops / plan.bytes_accessed if plan.bytes_accessed else 0.0
    lines += [
        "work, by the compiler's count",
        f"  {'operations':<28}{plan.flops / 1e9:12.2f} GFLOP",
        f"  {'bytes read and written':<28}{plan.bytes_accessed / 1e9:12.2f} GB",
        f"  {'operations a byte':<28}{intensity:12.2f}",
    ]
    if plan.seconds:
        lines.append(
            f"  {'estimate of the step':<28}{plan.seconds * 1e3:12.2f} ms, "
            f"{plan.global_batch / plan.seconds:.0f} examples/s over all chips"
        )
        lines.append(
            f"    (not measured: the time for {plan.limit} alone at the chip's peak, bfloat16 "
            "operations or bandwidth, collectives not counted)"
        )
    if plan.conditionals:
        lines.append(
            f"  {plan.conditionals} branchings: of each the dearest branch is counted, so a step "
            "with a gradient penalty"
        )
    if plan.loops:
        counts = ", ".join("?" if trips is None else str(trips) for trips in plan.loops)
        lines.append(f"  {len(plan.loops)} loops, run {counts} times: bodies are counted once")
    lines.append("collectives")
    lines += [
        f"  {each.kind:<28}{_size(each.bytes)} in {each.count}" for each in plan.collectives
    ] or ["  none"]
    if plan.operations:
        lines.append(
            f"longest operations of those that the compiler estimates ({plan.cycles:.3g} cycles in "
            "all; gathers have no estimate)"
        )
        lines += [
            f"  {each.cycles / plan.cycles:6.1%}  {each.name}  {each.origin[-70:]}"
            for each in plan.operations
        ]
    return "\n".join([*lines, *_verdict(plan)])


_MEMORY_NAMES = {
    "arguments": "state and batch",
    "new results": "results not written over them",
    "temporaries": "activations and temporaries",
    "code": "code",
    "total": "total",
}


def _verdict(plan: Plan) -> list[str]:
    if plan.gathers is None:
        return ["gathers and scatters: not checked, only TPUs hold memory in tiles"]
    lines = ["gathers and scatters, each compiled alone (times, GB each, bound, least possible)"]
    for each in plan.gathers:
        lines.append(
            f"  {each.count:3d} x {each.moved / 1e9:8.3f} GB  bound {each.bound / 1e9:8.3f}  least "
            f"{each.floor / 1e9:.4f}  {'BLOWS UP  ' if each.blows_up else ''}{each.name}"
        )
    total = sum(each.moved * each.count for each in plan.gathers)
    verdict = (
        "no blow-up: each is within its bound"
        if not plan.blown_up
        else f"BLOW-UP: {len(plan.blown_up)} of them move more than the tiles of their places"
    )
    return [*lines, f"  together {total / 1e9:.2f} GB; {verdict}"]


def _size(count: int) -> str:
    return f"{count / 2**20:12.2f} MiB"


def to_json(plan: Plan) -> str:
    """The plan as JSON, with its verdicts."""
    fields = dataclasses.asdict(plan)
    verdicts = {"fits": plan.fits, "passes": plan.passes, "blown_up": len(plan.blown_up)}
    return json.dumps({**fields, **verdicts}, indent=2) + "\n"


def _global_batch(chips: int) -> int | None:
    if _BATCH_PER_CHIP.value is None:
        return _GLOBAL_BATCH.value
    if _GLOBAL_BATCH.value is not None:
        raise UserError("--global_batch and --batch_per_chip exclude each other: give one")
    return _BATCH_PER_CHIP.value * chips


def main(argv: Sequence[str]) -> None:
    """Checks the command line, plans and prints."""
    if len(argv) > 1:
        raise UserError(f"plan takes flags only, got {' '.join(argv[1:])!r}")
    if CONFIG.value is None or _TOPOLOGY.value is None:
        raise UserError(
            "plan needs --config=experiments/FILE.py and --topology, for example "
            "--config=experiments/paired.py --topology=v5e:2x2"
        )
    config = experiment()
    topology = open_topology(_TOPOLOGY.value)
    plan = make_plan(config, topology, _global_batch(len(topology.devices)))
    print(table(plan))
    if _JSON.value:
        try:
            Path(_JSON.value).write_text(to_json(plan))
        except OSError as error:
            raise UserError(f"--json={_JSON.value} cannot be written: {error.strerror}") from error
    if not plan.passes:
        sys.exit(_UNMET_STATUS)


if __name__ == "__main__":
    program.run(main)
