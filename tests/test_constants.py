import pytest

from warp_translate.constants import LEAST_REDUCED, STRIDE, padded_side


@pytest.mark.parametrize("factor", [1, 2, 3, 8])
def test_padded_side_is_the_least_fitting_side(factor):
    fitting = [side for side in range(1, 400) if side % (factor * STRIDE) == 0]
    fitting = [side for side in fitting if side >= factor * LEAST_REDUCED]
    for side in range(1, 300):
        assert padded_side(side, factor) == next(each for each in fitting if each >= side)
