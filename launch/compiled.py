"""Reads collectives, loops and the longest operations from the text of a compiled program."""

import collections
import dataclasses
import math
import re

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
)

_INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$", re.MULTILINE
)
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


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
class Program:
    """Contents of a compiled program."""

    collectives: tuple[Collective, ...]  # One entry for each kind that occurs.
    loops: tuple[int | None, ...]  # Trip counts, None if unknown.
    conditionals: int
    operations: tuple[Operation, ...]  # Those with an estimate, longest first.


def read_program(text: str) -> Program:
    """Parses ``compiled.as_text()``, an optimized program in HLO notation."""
    sizes: dict[str, int] = {}
    operands: dict[str, list[int]] = collections.defaultdict(list)
    loops, conditionals, operations = [], 0, []
    for name, result, opcode, rest in _INSTRUCTION.findall(text):
        sizes[name] = array_bytes(result)
        kind = opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            names = re.findall(r"%([\w.\-]+)", rest.partition(")")[0])
            operands[kind].append(sum(sizes[operand] for operand in names))
        elif kind == "while":
            trips = _TRIP_COUNT.search(rest)
            loops.append(int(trips.group(1)) if trips else None)
        elif kind == "conditional":
            conditionals += 1
        if cycles := _CYCLES.search(rest):
            origin = _OP_NAME.search(rest)
            operations.append(
                Operation(name, origin.group(1) if origin else "", int(cycles.group(1)))
            )
    return Program(
        collectives=tuple(
            Collective(kind, len(operands[kind]), sum(operands[kind]))
            for kind in COLLECTIVES
            if kind in operands
        ),
        loops=tuple(loops),
        conditionals=conditionals,
        operations=tuple(sorted(operations, key=lambda operation: -operation.cycles)),
    )


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
