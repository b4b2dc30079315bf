"""The ``openmoji_gender_unpaired`` data set: a view of `openmoji_gender` with the pairs parted.

Domain A is the men and domain B the women. The training roles are halved: the men of one half and
the women of the other are trained on, so that no drawing in training has its partner there. The
test is the pairs of the test roles, and thus has the truth.
"""

import hashlib
from collections.abc import Iterable

_SALT = "openmoji_gender_unpaired"


def halve_roles(roles: Iterable[int]) -> tuple[frozenset[int], frozenset[int]]:
    """Parts roles into those whose men and those whose women are trained on.

    Args:
      roles: numbers of roles, see `openmoji_gender.OpenmojiGender`.

    Returns:
      The halves; where the number of roles is odd the first is the smaller.
    """
    # Salted, so that this order and the one that chose the test roles are independent.
    by_hash = sorted(
        set(roles), key=lambda role: hashlib.sha256(f"{_SALT}/{role}".encode()).digest()
    )
    middle = len(by_hash) // 2
    return frozenset(by_hash[:middle]), frozenset(by_hash[middle:])
