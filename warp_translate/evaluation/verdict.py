"""Says in words when translations are worse than the pictures that they were made of."""

from collections.abc import Mapping

_L1_RATIO = "output/l1_ratio"
_DISTANCE, _AFTER = "kernel_distance/", "/after"
_DIRECTIONS = {"": "", "a_to_b/": "A to B: ", "b_to_a/": "B to A: "}


def worse_than_untouched(scalars: Mapping[str, float]) -> list[str]:
    """One line for each generator whose output is further from what it ought to be than its input.

    Args:
      scalars: of an evaluation. The L1 to the truth decides where there is one, the kernel distance
        elsewhere, if it differs by more than twice its standard error.

    Returns:
      What was found and what to do about it; empty where nothing is wrong.
    """
    lines = []
    for prefix, direction in _DIRECTIONS.items():
        ratio = scalars.get(f"{prefix}{_L1_RATIO}")
        if ratio is not None:
            if ratio > 1:
                lines.append(
                    f"{direction}the output is worse than the untouched picture, with {ratio:.2f} "
                    "times its L1 to the truth: train longer, give more pairs, and see on the "
                    "sheet whether original and truth match point by point"
                )
            continue
        for name, after in scalars.items():
            if not (name.startswith(f"{prefix}{_DISTANCE}") and name.endswith(_AFTER)):
                continue
            start = name.removesuffix("after")
            before = scalars[f"{start}before"]
            if after > before + 2 * scalars.get(f"{start}after_error", 0.0):
                lines.append(
                    f"{direction}the output is worse than the untouched picture, with a kernel "
                    f"distance of {after:.4f} to real pictures of the target where that one has "
                    f"{before:.4f}: train longer, or take another checkpoint, which evaluate "
                    "--step=all measures"
                )
    return lines
