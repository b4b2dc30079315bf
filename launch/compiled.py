"""What the text of a compiled program tells: collectives, loops, and the dearest operations."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
)

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_ORIGIN = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Collective:
    """The collectives of one kind in a program.

    Attributes:
      kind: as in `COLLECTIVES`.
      count: how many.
      bytes: what each device hands in, all together.
    """

    kind: str
    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of which the compiler estimated the time.

    Attributes:
      name: its name in the compiled program.
      origin: the operation of the source that it comes from.
      cycles: the estimate.
    """

    name: str
    origin: str
    cycles: int


@dataclasses.dataclass(frozen=True)
class Program:
    """What the text tells.

    Attributes:
      collectives: by kind, those that occur.
      loops: how often each loop runs, None where that is not known.
      conditionals: number of branchings.
      operations: those with an estimate, dearest first.
    """

    collectives: tuple[Collective, ...]
    loops: tuple[int | None, ...]
    conditionals: int
    operations: tuple[Operation, ...]


def read_program(text: str) -> Program:
    """Reads ``compiled.as_text()``.

    Args:
      text: an optimised program in XLA's notation.
    """
    sizes: dict[str, int] = {}
    handed_in: dict[str, list[int]] = collections.defaultdict(list)
    loops, conditionals, operations = [], 0, []
    for name, result, kind, rest in _instructions(text):
        sizes[name] = array_bytes(result)
        plain = kind.removesuffix("-start")
        if plain in COLLECTIVES:
            operands = re.findall(r"%([\w.\-]+)", rest.partition(")")[0])
            handed_in[plain].append(sum(sizes[operand] for operand in operands))
        elif kind == "while":
            trips = _TRIPS.search(rest)
            loops.append(int(trips.group(1)) if trips else None)
        elif kind == "conditional":
            conditionals += 1
        if cycles := _CYCLES.search(rest):
            origin = _ORIGIN.search(rest)
            operations.append(
                Operation(name, origin.group(1) if origin else "", int(cycles.group(1)))
            )
    return Program(
        collectives=tuple(
            Collective(kind, len(handed_in[kind]), sum(handed_in[kind]))
            for kind in COLLECTIVES
            if kind in handed_in
        ),
        loops=tuple(loops),
        conditionals=conditionals,
        operations=tuple(sorted(operations, key=lambda operation: -operation.cycles)),
    )


def array_bytes(shape: str) -> int:
    """Bytes of a shape in XLA's notation without padding; of a tuple, of all its members."""
    return sum(
        math.prod(int(length) for length in lengths.split(",") if length) * _item_bits(kind) // 8
        for kind, lengths in _ARRAY.findall(re.sub(r"\{[^{}]*\}", "", shape))
    )


def _item_bits(kind: str) -> int:
    if kind == "pred":
        return 8
    digits = re.search(r"\d+", kind)
    return int(digits.group()) if digits else 0  # Tokens and opaque values have no size.


def _instructions(text: str) -> Iterator[tuple[str, str, str, str]]:
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            name, result, kind, rest = match.groups()
            yield name, result, kind, rest
