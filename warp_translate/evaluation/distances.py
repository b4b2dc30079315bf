"""Distances between sets of images, from their features."""

import dataclasses

import numpy as np
import numpy.typing as npt

KERNEL = "(x.y / d + 1)^3"
"""The kernel of `kernel_distance`, for protocols; d is the length of the features."""

LEAST_ROWS = 3
"""Minimum rows per set of `kernel_distance`, whose jackknife leaves one out."""

_ROWS_AT_ONCE = 512


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """An estimate of a squared distance.

    Attributes:
      value: unbiased, so it may be slightly negative where the distance is near zero.
      standard_error: of the value, for independent images; too small for dependent ones, such as
        variants of a drawing or crops of an image.
    """

    value: float
    standard_error: float


def kernel_distance(first: npt.ArrayLike, second: npt.ArrayLike) -> KernelDistance:
    """Squared maximum mean discrepancy between two sets of features, over all pairs.

    The unbiased estimate of Gretton et al., "A Kernel Two-Sample Test", JMLR 2012, equation 3, with
    the cubic kernel ``(x.y / d + 1)^3`` of Binkowski et al., "Demystifying MMD GANs", ICLR 2018,
    section 4 (which averages over random subsets: more noise, no less bias). The standard error is
    the two-sample jackknife (Arvesen, 1969), without random numbers; for equal distributions it is
    too large by about the square root of 2.

    Scores of different feature networks are not comparable. A score is a FID or a KID only with the
    network and the resizing of those papers.

    Args:
      first: real ``[m, d]``, m at least 3.
      second: real ``[n, d]``, n at least 3. The order of rows and sets does not matter.

    Returns:
      The estimate, computed in float64.

    Raises:
      ValueError: not two matrices of one width, fewer than 3 rows, or a nonfinite value.
    """
    x, y = _checked("kernel", first, second, least=LEAST_ROWS)
    m, n = len(x), len(y)
    within_x = _kernel_sums(x, x) - _kernel(np.einsum("id,id->i", x, x), x.shape[1])
    within_y = _kernel_sums(y, y) - _kernel(np.einsum("id,id->i", y, y), y.shape[1])
    across_x, across_y = _kernel_sums(x, y), _kernel_sums(y, x)
    mean_x = within_x.sum() / (m * (m - 1))
    mean_y = within_y.sum() / (n * (n - 1))
    mean_across = across_x.sum() / (m * n)

    # The estimates without the i-th row of one set.
    without_x = (within_x.sum() - 2 * within_x) / ((m - 1) * (m - 2)) + mean_y
    without_x -= 2 * (across_x.sum() - across_x) / ((m - 1) * n)
    without_y = (within_y.sum() - 2 * within_y) / ((n - 1) * (n - 2)) + mean_x
    without_y -= 2 * (across_y.sum() - across_y) / ((n - 1) * m)
    variance = (m - 1) * without_x.var() + (n - 1) * without_y.var()
    return KernelDistance(float(mean_x + mean_y - 2 * mean_across), float(np.sqrt(variance)))


def frechet_distance(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Squared Frechet distance between normal distributions fitted to two sets of features.

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1^(1/2) S2 S1^(1/2))^(1/2))`` of Heusel et al., "GANs Trained
    by a Two Time-Scale Update Rule", NeurIPS 2017, section 4, with unbiased covariances. The trace
    of the root is the sum of the singular values of ``R1 R2^T``, where ``Ri^T Ri = Si``, which
    needs no matrix root and is exact with fewer rows than features.

    The estimate is biased: it decreases with the size of either set until there are several times
    more rows than features, and is positive between parts of one set. Compare only values of equal
    numbers of rows; `kernel_distance` is unbiased. A value is a FID only with the network and the
    resizing of that paper.

    Args:
      first: real ``[m, d]``, m at least 2.
      second: real ``[n, d]``, n at least 2.

    Returns:
      The distance, not negative, computed in float64.

    Raises:
      ValueError: not two matrices of one width, fewer than 2 rows, or a nonfinite value.
    """
    x, y = _checked("Frechet", first, second, least=2)
    root_x, root_y = _covariance_root(x), _covariance_root(y)
    across = np.linalg.svd(root_x @ root_y.T, compute_uv=False).sum()
    distance = np.square(x.mean(0) - y.mean(0)).sum()
    distance += np.square(root_x).sum() + np.square(root_y).sum() - 2 * across
    return max(float(distance), 0.0)


def _checked(
    kind: str, first: npt.ArrayLike, second: npt.ArrayLike, *, least: int
) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or x.shape[1] == 0:
        raise ValueError(f"features must be [m, d] and [n, d], got {x.shape} and {y.shape}")
    if min(len(x), len(y)) < least:
        raise ValueError(
            f"a {kind} distance needs {least} rows of either set, got {len(x)} and {len(y)}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"a {kind} distance needs finite features")
    return x, y


def _covariance_root(rows: np.ndarray) -> np.ndarray:
    """R ``[min(n, d), d]`` with ``R^T R`` the covariance of ``[n, d]``."""
    root = np.asarray(np.linalg.qr(rows - rows.mean(0), mode="r"))
    return root / np.sqrt(len(rows) - 1)


def _kernel(products: np.ndarray, length: int) -> np.ndarray:
    return (products / length + 1.0) ** 3


def _kernel_sums(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Kernel sums of each row over all columns, ``[m]``, in blocks to bound the memory."""
    sums = [
        _kernel(rows[start : start + _ROWS_AT_ONCE] @ columns.T, rows.shape[1]).sum(1)
        for start in range(0, len(rows), _ROWS_AT_ONCE)
    ]
    return np.concatenate(sums)
