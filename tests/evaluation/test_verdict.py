import pytest

from warp_translate.evaluation.verdict import worse_than_untouched

DISTANCE = {"before": 0.5, "after": 0.6, "after_error": 0.01, "before_error": 0.01}


def named(prefix, **changes):
    found = DISTANCE | changes
    return {f"{prefix}kernel_distance/lite/{name}": value for name, value in found.items()}


@pytest.mark.parametrize(
    ("scalars", "starts"),
    [
        ({"output/l1_ratio": 0.99}, []),
        ({"output/l1_ratio": 1.234}, ["the output is worse than the untouched image, with 1.23"]),
        ({"output/l1_ratio": float("nan")}, []),
        # Other factors do not count, nor do distances where there is a truth.
        ({"output/l1_ratio": 0.9, "factor_4/output/l1_ratio": 2.0} | named(""), []),
        (named("a_to_b/"), ["A to B: the output is worse"]),
        (named("a_to_b/", after=0.515), []),
        # Some distances have no standard error.
        (
            {"kernel_distance/lite/before": 0.5, "kernel_distance/lite/after": 0.6},
            ["the output is"],
        ),
        (
            named("a_to_b/", before=-0.01) | {"b_to_a/output/l1_ratio": 2.0},
            ["A to B: the output is worse", "B to A: the output is worse"],
        ),
    ],
)
def test_output_worse_than_the_original_is_reported(scalars, starts):
    found = worse_than_untouched(scalars)
    assert len(found) == len(starts)
    assert all(line.startswith(start) for line, start in zip(found, starts, strict=True))
