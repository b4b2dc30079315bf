"""Sharded evaluation and exchange of values between the processes of a command."""

import itertools
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from warp_translate.errors import UserError
from warp_translate.evaluation.sharded_eval import Spread
from warp_translate.training import distributed, parallel

Result = TypeVar("Result")

_PIECE = 1 << 24  # Bytes per exchange: every device holds a piece of each process.

_gathers = itertools.count()  # Equal in all processes, since all take part.


def spread(chunk: int) -> Spread:
    """All devices of all processes, for evaluations of ``chunk`` examples per device."""
    mine = jax.process_index()
    return Spread(
        chunk=chunk,
        devices=tuple(each for each in parallel.all_devices() if each.process_index == mine),
        process_index=mine,
        process_count=jax.process_count(),
        gather=gather,
    )


def gather(value: Any) -> list[Any]:
    """Gathers a value of every process; all processes must call this.

    Args:
      value: any picklable value.

    Returns:
      The values in the order of the processes.
    """
    if jax.process_count() == 1:
        return [value]
    distributed.barrier(f"gather/{next(_gathers)}")
    mine = np.frombuffer(pickle.dumps(value), np.uint8)
    # As whole pieces and a rest: integers of devices have 32 bits.
    sizes = _of_all(np.array(divmod(len(mine), _PIECE), np.int32))
    lengths = [int(pieces) * _PIECE + int(rest) for pieces, rest in sizes]
    texts = [bytearray() for _ in lengths]
    for start in range(0, max(lengths), _PIECE):
        piece = np.zeros(min(_PIECE, max(lengths) - start), np.uint8)
        part = mine[start : start + len(piece)]
        piece[: len(part)] = part
        for text, received in zip(texts, _of_all(piece), strict=True):
            text += received.tobytes()
    # Safe: the pickles come from processes of this job.
    return [
        pickle.loads(memoryview(text)[:length]) for text, length in zip(texts, lengths, strict=True)
    ]


def from_first(action: Callable[[], Result]) -> Result:
    """Runs an action in the first process and returns its picklable result in all.

    Raises:
      UserError: the action raised it.
    """
    if jax.process_count() == 1:
        return action()
    done: tuple[Result | None, UserError | None] = (None, None)
    if distributed.is_writer():
        try:
            done = (action(), None)
        except UserError as error:
            done = (None, error)
    result, mistake = gather(done)[0]
    if mistake is not None:
        raise mistake
    return result


def _of_all(array: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.process_allgather(array))
