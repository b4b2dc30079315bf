"""Whether images of equal names in two folders show the same: names alone tell little.

Numbered images of two domains have equal names as well, and are no pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST = 0.6
_DEVIATIONS = 2.0
_DEVIATION_OF_ONE = 12**-0.5  # Of a share that is spread evenly from 0 to 1.


@dataclass(frozen=True)
class Likeness:
    """How pairs compare with other combinations of their images.

    Attributes:
      share: of the other images of B, on average over the images of A, that look less like the
        image of A than its partner does; ties count half. About 0.5 where names mean nothing, 1
        where they mean everything.
      pairs: how many were compared.
    """

    share: float
    pairs: int

    @property
    def telling(self) -> bool:
        """Whether the share is above what chance gives, by 0.1 and two standard deviations."""
        chance = 0.5 + _DEVIATIONS * _DEVIATION_OF_ONE / self.pairs**0.5
        return self.share > max(_LEAST, chance)


def likeness(looks: Sequence[tuple[int, int]]) -> Likeness | None:
    """Compares pairs by what their images show in 8 x 8 cells.

    Args:
      looks: `inspection.Inspected.look` of both images of each pair.

    Returns:
      What was found; None of fewer than two pairs.
    """
    if len(looks) < 2:
        return None
    first, second = (_bits(column) for column in zip(*looks, strict=True))
    distances = (first[:, None] != second).sum(axis=2)
    own = np.diag(distances)[:, None]
    nearer = (distances > own) + 0.5 * (distances == own)
    count = len(looks)
    # Of each row the partner itself counted half.
    return Likeness(float((nearer.sum() - 0.5 * count) / (count * (count - 1))), count)


def _bits(looks: Sequence[int]) -> np.ndarray:
    return np.unpackbits(np.array(looks, np.int64).view(np.uint8).reshape(-1, 8), axis=1)
