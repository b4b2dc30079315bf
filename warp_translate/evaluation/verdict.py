"""Warns about translations that are worse than their originals."""

from collections.abc import Mapping

_DIRECTIONS = {"": "", "a_to_b/": "A to B: ", "b_to_a/": "B to A: "}


def worse_than_untouched(scalars: Mapping[str, float]) -> list[str]:
    """One line per generator whose output is further from the target than its input.

    Args:
      scalars: scores of an evaluation. Decides by the L1 to the truth, or without one by the kernel
        distance if it differs by more than twice its standard error.

    Returns:
      Findings with remedies; empty if there are none.
    """
    lines = []
    for prefix, direction in _DIRECTIONS.items():
        worse = f"{direction}the output is worse than the untouched image, with"
        ratio = scalars.get(f"{prefix}output/l1_ratio")
        if ratio is not None:
            if ratio > 1:
                lines.append(
                    f"{worse} {ratio:.2f} times its L1 to the truth: train longer, give more "
                    "pairs, and check on the sheet that original and truth match point by point"
                )
            continue
        for name, after in scalars.items():
            if not (name.startswith(f"{prefix}kernel_distance/") and name.endswith("/after")):
                continue
            start = name.removesuffix("after")
            before = scalars[f"{start}before"]
            if after > before + 2 * scalars.get(f"{start}after_error", 0.0):
                lines.append(
                    f"{worse} a kernel distance of {after:.4f} to real images of the target "
                    f"instead of {before:.4f}: train longer, or use another checkpoint; evaluate "
                    "--step=all measures them all"
                )
    return lines
