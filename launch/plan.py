"""Compiles an experiment's training step or translation ahead of time and prints its cost.

    python -m launch.plan --config=experiments/paired.py --topology=v5e:2x2
    python -m launch.plan --config=experiments/cycle.py --topology=v5e:16x16 --batch_per_chip=2
    python -m launch.plan --config=experiments/paired.py --topology=h200:1 --translate=2160x3840
    python -m launch.plan --config=experiments/paired.py:runlocal --topology=local

No data is read, no parameters are initialized and nothing is executed. TPUs need only the package
``libtpu`` (extra ``plan``), GPUs only JAX's plugin for CUDA (extra ``plan_gpu``). Exit status: 0 if
the program fits, 1 if it does not or a gather exceeds its bound, 2 for a user error.
"""

import contextlib
import dataclasses
import functools
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from absl import flags
from jax.sharding import SingleDeviceSharding

from launch.compiled import Collective, Kernel, Operation, read_program
from launch.gathers import Moved, moved_by_gathers
from launch.topology import LOCAL, Topology, open_topology
from warp_translate.cli import program
from warp_translate.cli.config_flag import CONFIG, experiment
from warp_translate.errors import UserError, reason
from warp_translate.evaluation import cost, macs
from warp_translate.experiment import build
from warp_translate.experiment.task import Training
from warp_translate.training.base import GeneratorTraining
from warp_translate.training.parallel import Replicas
from warp_translate.training.throughput import peak_flops
from warp_translate.types import PyTree

_TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    f"Devices to compile for: {LOCAL}, a TPU slice such as v5e:2x2, or GPUs such as h200:1.",
)
_BATCH_PER_CHIP = flags.DEFINE_integer(
    "batch_per_chip",
    None,
    "Examples per chip, in place of config.training.global_batch.",
    lower_bound=1,
)
_TRANSLATE = flags.DEFINE_string(
    "translate",
    None,
    "Height and width of an image, such as 2160x3840: plans its translation by the first generator "
    "on one chip, in place of a training step.",
)
_JSON = flags.DEFINE_string("json", None, "File for the plan as JSON.")

_FAILED_STATUS = 1
_PROGRESS_SECONDS = 15
_SHOWN_OPERATIONS = 5


@dataclasses.dataclass(frozen=True)
class Plan:
    """Cost of one step or translation. Bytes, operations and seconds are those of one chip."""

    experiment: str  # What is planned, image size and factor.
    topology: str
    chips: int
    chip: str  # Device kind.
    global_batch: int
    compile_seconds: float
    parts: dict[str, int]  # Unpadded bytes of the program's inputs by purpose.
    memory: dict[str, int]  # Padded bytes of the program by purpose, and their total.
    hbm_bytes: int | None  # None if unknown.
    # Loop bodies are counted once, and only the most expensive branch of a conditional.
    # On GPUs before optimization, with all branches.
    flops: float | None  # None if unknown.
    bytes_accessed: float
    seconds: float | None  # Lower bound of the time; None if the chip is unknown.
    limit: str | None  # "arithmetic" or "memory", whichever sets `seconds`.
    collectives: tuple[Collective, ...]
    loops: tuple[int | None, ...]  # Trip counts, None if unknown.
    conditionals: int
    operations: tuple[Operation, ...]  # Those with the largest time estimates.
    cycles: int  # Sum of all time estimates.
    kernels: int | None  # Number of launches; None off GPUs.
    largest: tuple[Kernel, ...]  # The kernels that move most bytes, on GPUs.
    gathers: tuple[Moved, ...] | None  # None off TPUs.

    @property
    def fits(self) -> bool | None:
        """Whether the program fits in the chip's memory; None if unknown."""
        return None if self.hbm_bytes is None else self.memory["total"] <= self.hbm_bytes

    @property
    def blown_up(self) -> tuple[Moved, ...]:
        """The gathers and scatters that exceed their bounds."""
        return tuple(each for each in self.gathers or () if each.blows_up)

    @property
    def passes(self) -> bool:
        """Whether the program fits, as far as known, and all gathers are within their bounds."""
        return self.fits is not False and not self.blown_up


def make_plan(
    config: ml_collections.ConfigDict, topology: Topology, batch_per_chip: int | None = None
) -> Plan:
    """Compiles the training step and reads its cost.

    Without ``batch_per_chip`` the configuration's global batch is used.

    Raises:
      UserError: the configuration is invalid, the batch does not divide over the chips, or the
        compiler reports that the step does not fit.
    """
    chips, device = len(topology.devices), topology.devices[0]
    config = config.copy_and_resolve_references()
    build.check(config)
    if batch_per_chip is not None:
        config.training.global_batch = batch_per_chip * chips
    global_batch = config.training.global_batch
    build.check_batch(config, chips)
    training = build.training(config)
    replicas = Replicas(training.axes, tuple(topology.devices), "shard_map")
    step = replicas.map(training.step, steps_per_call=config.training.steps_per_call)
    state, batch, root = _abstract_inputs(replicas, training, config)

    def flops() -> float | None:
        of_one_device = jax.eval_shape(lambda: build.initial_state(training, config))
        found = build.step_flops(training, config, of_one_device)
        return found and found / chips

    factor = [f"factor {config.method.factor}"] if "factor" in config.method else []
    return _plan(
        lambda: step.trace(state, batch, root),
        topology,
        chips=chips,
        global_batch=global_batch,
        title=f"the {config.method.training} step for {chips} x {device.device_kind}",
        experiment=", ".join([config.method.training, f"{config.data.size} px", *factor]),
        remedy="use fewer examples per chip, a larger factor or chips with more memory",
        parts=_parts(training, state, batch, chips),
        flops=flops,
    )


def plan_translation(
    config: ml_collections.ConfigDict, topology: Topology, height: int, width: int
) -> Plan:
    """Compiles the translation of one image, uint8 to uint8, on one chip and reads its cost.

    Raises:
      UserError: the configuration is invalid or trains no generator, or the compiler reports that
        the translation does not fit.
    """
    device = topology.devices[0]
    config = config.copy_and_resolve_references()
    training = build.training(config)
    if not isinstance(training, GeneratorTraining):
        raise UserError(f"--translate: {config.method.training} training has no generator")
    generator, method = training.generator, training.method
    place = SingleDeviceSharding(device)
    params, image = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        (
            cost.abstract_parameters(generator),
            jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8),
        ),
    )

    options = dataclasses.asdict(method)
    run = cost.translation(generator, options.pop("factor"), **options)

    def flops() -> float:
        return 2.0 * macs.count(run, params, image, platform=topology.platform).total.products

    return _plan(
        lambda: jax.jit(run).trace(params, image),
        topology,
        chips=1,
        global_batch=1,
        title=f"a translation of {height} x {width} for {device.device_kind}",
        experiment=f"translation, {height} x {width}, factor {method.factor}",
        remedy="use smaller images, a larger factor or a chip with more memory",
        parts={
            "parameters": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params)),
            "image": image.size,
        },
        flops=flops,
    )


def _plan(
    trace: Callable[[], Any],
    topology: Topology,
    *,
    chips: int,
    global_batch: int,
    title: str,
    experiment: str,
    remedy: str,
    parts: dict[str, int],
    flops: Callable[[], float | None],
) -> Plan:
    """Compiles a program and reads its cost.

    Args:
      trace: traces the program.
      topology: the devices.
      chips: number of devices that it uses.
      global_batch: examples that it processes.
      title: its name in messages.
      experiment: its name in the plan.
      remedy: of a program that does not fit.
      parts: see `Plan`.
      flops: counts its operations, where the compiler does not.
    """
    device, chip = topology.devices[0], topology.chip
    begin = time.perf_counter()
    with _progress(f"compiling {title}"):
        traced = trace()
        try:
            compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(
                f"{title} does not fit at {global_batch // chips} examples per chip: "
                f"{reason(error)}: {remedy}"
            ) from error
    compile_seconds = time.perf_counter() - begin
    read = read_program(compiled.as_text())
    counted = compiled.cost_analysis()  # None for GPUs.
    if counted is None:
        operations, accessed = flops(), float(read.bytes)
    else:
        operations, accessed = counted.get("flops", 0.0), counted.get("bytes accessed", 0.0)
    times = {}
    if operations is not None and (peak := peak_flops(device.device_kind)):
        times["arithmetic"] = operations / peak
    if chip:
        times["memory"] = accessed / chip.hbm_bandwidth
    moved = None
    if topology.platform == "tpu":
        with _progress("checking the gathers"):
            log = functools.partial(print, file=sys.stderr, flush=True)
            moved = tuple(moved_by_gathers(traced.jaxpr, device, log))
    return Plan(
        experiment=experiment,
        topology=topology.name,
        chips=chips,
        chip=device.device_kind,
        global_batch=global_batch,
        compile_seconds=compile_seconds,
        parts=parts,
        memory=_memory(compiled.memory_analysis()),
        hbm_bytes=chip.hbm_bytes if chip else None,
        flops=operations,
        bytes_accessed=accessed,
        seconds=max(times.values(), default=None),
        limit=max(times, key=lambda name: times[name], default=None),
        collectives=read.collectives,
        loops=read.loops,
        conditionals=read.conditionals,
        operations=read.operations[:_SHOWN_OPERATIONS],
        cycles=sum(operation.cycles for operation in read.operations),
        kernels=len(read.kernels) if topology.platform == "cuda" else None,
        largest=read.kernels[:_SHOWN_OPERATIONS] if topology.platform == "cuda" else (),
        gathers=moved,
    )


def _abstract_inputs(
    replicas: Replicas, training: Training, config: ml_collections.ConfigDict
) -> tuple[PyTree, PyTree, PyTree]:
    """Returns shapes, dtypes and shardings of the state, the batch and the root key."""
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
    """Returns bytes per chip by purpose."""
    sharded = jax.tree.leaves(
        jax.tree.map(
            lambda axis, part: jax.tree.map(lambda leaf: axis is not None, part),
            training.axes,
            state,
            is_leaf=lambda axis: axis is None,
        )
    )
    names = {"params": "parameters", "opt_state": "optimizer", "ema": "moving average"}
    parts = dict.fromkeys([*names.values(), "image pool", "other state"], 0)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    for (path, leaf), is_sharded in zip(leaves, sharded, strict=True):
        fields = [getattr(key, "name", None) for key in path]
        name = next((names[field] for field in fields if field in names), "other state")
        size = leaf.size * leaf.dtype.itemsize
        parts["image pool" if is_sharded else name] += size // chips if is_sharded else size
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
def _progress(activity: str) -> Iterator[None]:
    """Prints the activity to stderr, and its elapsed time every few seconds."""
    done = threading.Event()
    begin = time.monotonic()

    def report() -> None:
        while not done.wait(_PROGRESS_SECONDS):
            print(f"{activity}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)

    print(f"{activity} ...", file=sys.stderr, flush=True)
    threading.Thread(target=report, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def table(plan: Plan) -> str:
    """Formats a plan for a terminal."""
    rows = [
        f"{plan.experiment} on {plan.topology}: {plan.chips} x {plan.chip}, global batch "
        f"{plan.global_batch} ({plan.global_batch // plan.chips} per chip); compiled in "
        f"{plan.compile_seconds:.0f} s",
        "All figures are for one chip and one run of the program.",
        "",
        "inputs (without padding)",
        *(_row(name, _size(size)) for name, size in plan.parts.items()),
        "memory of the compiled program (with padding)",
        *(_row(name, _size(size)) for name, size in plan.memory.items()),
    ]
    if plan.hbm_bytes is None:
        rows.append("  fits: unknown, the memory of this chip is not in the table")
    else:
        share = plan.memory["total"] / plan.hbm_bytes
        free = plan.hbm_bytes - plan.memory["total"]
        rows.append(
            f"  fits: {'yes' if plan.fits else 'NO'}, {share:.1%} of "
            f"{_size(plan.hbm_bytes).strip()}, {_size(free).strip()} free"
        )
    rows.append("work, by the compiled program")
    if plan.flops is not None:
        rows.append(_row("operations", f"{plan.flops / 1e9:12.2f} GFLOP"))
    rows.append(_row("bytes read and written", f"{plan.bytes_accessed / 1e9:12.2f} GB"))
    if plan.flops is not None and plan.bytes_accessed:
        rows.append(_row("operations per byte", f"{plan.flops / plan.bytes_accessed:12.2f}"))
    if plan.seconds:
        rate = plan.global_batch / plan.seconds
        rows += [
            _row(
                "estimated time",
                f"{plan.seconds * 1e3:12.2f} ms, {rate:.0f} examples/s over all chips",
            ),
            f"    (not measured: {plan.limit} alone at the chip's bfloat16 peak or bandwidth, "
            "collectives not counted)",
        ]
    if plan.conditionals:
        rows.append(
            f"  {plan.conditionals} conditionals: the most expensive branch of each is counted, so "
            "a step with a gradient penalty"
        )
    if plan.loops:
        counts = ", ".join("?" if trips is None else str(trips) for trips in plan.loops)
        rows.append(f"  {len(plan.loops)} loops, run {counts} times: bodies are counted once")
    rows.append("collectives")
    rows += [
        _row(each.kind, f"{_size(each.bytes)} in {each.count}") for each in plan.collectives
    ] or ["  none"]
    if plan.operations:
        rows.append(
            f"longest operations by the compiler's estimates ({plan.cycles:.3g} cycles in all; "
            "gathers have no estimate)"
        )
        rows += [
            f"  {each.cycles / plan.cycles:6.1%}  {each.name}  {each.origin[-70:]}"
            for each in plan.operations
        ]
    elif plan.largest:
        rows.append(f"{plan.kernels} kernels; those that move most, in MB")
        rows += [
            f"  {each.bytes / 1e6:10.1f}  {each.name}  {each.origin[-70:]}" for each in plan.largest
        ]
    return "\n".join([*rows, *_gather_rows(plan)])


def _gather_rows(plan: Plan) -> list[str]:
    if plan.gathers is None:
        return ["gathers and scatters: not checked, only TPUs tile memory"]
    total = sum(each.moved * each.count for each in plan.gathers)
    verdict = (
        "no blow-up: all are within their bounds"
        if not plan.blown_up
        else f"BLOW-UP: {len(plan.blown_up)} of them move more than the tiles that they touch"
    )
    return [
        "gathers and scatters, each compiled alone (count, GB each, bound, minimum)",
        *(
            f"  {each.count:3d} x {each.moved / 1e9:8.3f} GB  bound {each.bound / 1e9:8.3f}  "
            f"minimum {each.floor / 1e9:.4f}  {'BLOWS UP  ' if each.blows_up else ''}{each.name}"
            for each in plan.gathers
        ),
        f"  {total / 1e9:.2f} GB in total; {verdict}",
    ]


def _row(name: str, value: str) -> str:
    return f"  {name:<30}{value}"


def _size(count: int) -> str:
    return f"{count / 2**20:12.2f} MiB"


def to_json(plan: Plan) -> str:
    """Returns the plan and its verdicts as JSON."""
    fields = dataclasses.asdict(plan)
    verdicts = {"fits": plan.fits, "passes": plan.passes, "blown_up": len(plan.blown_up)}
    return json.dumps({**fields, **verdicts}, indent=2) + "\n"


def _size_of(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if found is None:
        raise UserError(f"--translate={text} is not HEIGHTxWIDTH, for example 2160x3840")
    return int(found.group(1)), int(found.group(2))


def main(argv: Sequence[str]) -> None:
    """Prints the plan of the experiment named by the flags."""
    if len(argv) > 1:
        raise UserError(f"plan takes flags only, got {' '.join(argv[1:])!r}")
    if CONFIG.value is None or _TOPOLOGY.value is None:
        raise UserError(
            "plan needs --config=experiments/FILE.py and --topology, for example "
            "--config=experiments/paired.py --topology=v5e:2x2"
        )
    topology = open_topology(_TOPOLOGY.value)
    if _TRANSLATE.value is None:
        plan = make_plan(experiment(), topology, _BATCH_PER_CHIP.value)
    elif _BATCH_PER_CHIP.value is not None:
        raise UserError("--translate plans one image: omit --batch_per_chip")
    else:
        plan = plan_translation(experiment(), topology, *_size_of(_TRANSLATE.value))
    print(table(plan))
    if _JSON.value:
        try:
            Path(_JSON.value).write_text(to_json(plan))
        except OSError as error:
            raise UserError(f"--json={_JSON.value} cannot be written: {error.strerror}") from error
    if not plan.passes:
        sys.exit(_FAILED_STATUS)


if __name__ == "__main__":
    program.run(main)
