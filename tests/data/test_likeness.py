import numpy as np
import pytest

from warp_translate.data.likeness import likeness


@pytest.fixture
def looks(rng):
    return rng.integers(-(2**63), 2**63 - 1, 40)


def test_the_share_is_that_of_a_count_one_by_one(looks):
    pairs = [(int(a), int(b)) for a, b in zip(looks[:7], looks[7:14], strict=True)]

    def distance(a, b):
        return ((a ^ b) & (2**64 - 1)).bit_count()

    shares = [
        np.mean(
            [
                (distance(a, other) > distance(a, own))
                + (distance(a, other) == distance(a, own)) / 2
                for j, (_, other) in enumerate(pairs)
                if j != i
            ]
        )
        for i, (a, own) in enumerate(pairs)
    ]
    found = likeness(pairs)
    assert found.pairs == 7 and found.share == pytest.approx(np.mean(shares), abs=1e-12)


def test_pairs_are_told_from_strangers_and_one_pair_tells_nothing(looks):
    changed = looks ^ np.array([0b1011 << (n % 60) for n in range(40)])
    pairs = list(zip(looks.tolist(), changed.tolist(), strict=True))
    assert likeness(pairs).telling and likeness(pairs).share > 0.99
    assert likeness(pairs[:2]).telling
    strangers = list(zip(looks.tolist(), np.roll(changed, 1).tolist(), strict=True))
    assert not likeness(strangers).telling
    assert likeness(pairs[:1]) is None
