"""Reads collectives, loops, kernels and estimates from the text of a compiled program."""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
)

_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(?:to_apply|calls|body|true_computation|false_computation)=%([\w.\-]+)"
    r"|branch_computations=\{([^}]*)\}"
)
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')

# Instructions that run nothing on the device, or that run other computations.
_FREE = frozenset(
    (
        *("parameter", "constant", "get-tuple-element", "tuple", "bitcast"),
        *("after-all", "opt-barrier", "partition-id", "replica-id"),
    )
)
_CALLS = frozenset(("call", "async-start", "while", "conditional"))


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind: their number and the bytes of their operands per device."""

    kind: str
    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation, its JAX operation (``origin``) and the compiler's time estimate."""

    name: str
    origin: str
    cycles: int


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An operation that a GPU launches, its JAX operation (``origin``) and its memory traffic.

    Attributes:
      bytes: of its operands and results. Repeated reads of an operand, as by a gather, are taken
        to hit the caches, and an operand counts as a whole where a part of it is read.
    """

    name: str
    origin: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Program:
    """Contents of a compiled program.

    Attributes:
      collectives: one entry for each kind that occurs.
      loops: trip counts, None if unknown.
      conditionals: their number.
      operations: those with an estimate, longest first.
      kernels: of the entry and all that it calls, most bytes first. The bodies of loops count once,
        of a conditional the branch that moves most.
    """

    collectives: tuple[Collective, ...]
    loops: tuple[int | None, ...]
    conditionals: int
    operations: tuple[Operation, ...]
    kernels: tuple[Kernel, ...]

    @property
    def bytes(self) -> int:
        """The memory traffic of all kernels."""
        return _bytes(self.kernels)


def _bytes(kernels: Sequence[Kernel]) -> int:
    return sum(kernel.bytes for kernel in kernels)


class _Instruction(NamedTuple):
    name: str
    bytes: int  # Of the result.
    opcode: str
    operands: tuple[str, ...]
    rest: str  # Everything after the opcode.


def read_program(text: str) -> Program:
    """Parses ``compiled.as_text()``, an optimized program in HLO notation."""
    computations, entry = _computations(text)
    instructions = [each for body in computations.values() for each in body]
    sizes = {each.name: each.bytes for each in instructions}
    operands: dict[str, list[int]] = collections.defaultdict(list)
    loops, operations = [], []
    for each in instructions:
        kind = each.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            operands[kind].append(sum(sizes[name] for name in each.operands))
        elif kind == "while":
            trips = _TRIP_COUNT.search(each.rest)
            loops.append(int(trips.group(1)) if trips else None)
        if cycles := _CYCLES.search(each.rest):
            operations.append(Operation(each.name, _origin(each), int(cycles.group(1))))
    return Program(
        collectives=tuple(
            Collective(kind, len(operands[kind]), sum(operands[kind]))
            for kind in COLLECTIVES
            if kind in operands
        ),
        loops=tuple(loops),
        conditionals=sum(each.opcode == "conditional" for each in instructions),
        operations=tuple(sorted(operations, key=lambda operation: -operation.cycles)),
        kernels=tuple(
            sorted(_kernels(computations, entry, sizes), key=lambda kernel: -kernel.bytes)
        ),
    )


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Returns the instructions of every computation by name, and the name of the entry."""
    found: dict[str, list[_Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = head.group(2)
            entry = current if head.group(1) else entry
            found[current] = []
        elif (read := _INSTRUCTION.match(line)) and current:
            name, result, opcode, rest = read.groups()
            operands = tuple(_NAME.findall(rest.partition(")")[0]))
            found[current].append(_Instruction(name, array_bytes(result), opcode, operands, rest))
    return found, entry


def _origin(instruction: _Instruction) -> str:
    found = _OP_NAME.search(instruction.rest)
    return found.group(1) if found else ""


def _kernels(
    computations: Mapping[str, Sequence[_Instruction]], name: str, sizes: Mapping[str, int]
) -> list[Kernel]:
    """The kernels of a computation and of those that it calls."""
    found: list[Kernel] = []
    for each in computations.get(name, ()):
        if each.opcode in _FREE or each.opcode.endswith("-done"):
            continue
        if each.opcode not in _CALLS:
            moved = each.bytes + sum(sizes.get(operand, 0) for operand in {*each.operands})
            target = _TARGET.search(each.rest)
            label = target.group(1) if target else each.name
            found.append(Kernel(label, _origin(each), moved))
            continue
        called = [
            _kernels(computations, callee, sizes)
            for groups in _CALLED.findall(each.rest)
            for callee in _NAME.findall(f"%{groups[0]} {groups[1]}")
        ]
        if each.opcode == "conditional":
            called = [max(called, key=_bytes, default=[])]
        found += itertools.chain.from_iterable(called)
    return found


def array_bytes(shape: str) -> int:
    """Returns the unpadded bytes of a shape in HLO notation; for a tuple, of all its elements."""
    return sum(
        math.prod(int(length) for length in lengths.split(",") if length) * _item_bits(dtype) // 8
        for dtype, lengths in _ARRAY.findall(re.sub(r"\{[^{}]*\}", "", shape))
    )


def _item_bits(dtype: str) -> int:
    if dtype == "pred":
        return 8
    digits = re.search(r"\d+", dtype)
    return int(digits.group()) if digits else 0  # Tokens and opaque values have no size.
