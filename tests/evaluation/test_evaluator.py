import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from warp_translate.evaluation.distribution_metrics import DistributionMetrics
from warp_translate.evaluation.evaluator import COLUMNS, PairedEvaluation, map_statistics
from warp_translate.evaluation.sharded_eval import Spread
from warp_translate.models import Translation
from warp_translate.types import to_float


def brighter(by, original):
    """Brighter, half masked, displaced by (3, 4)."""
    ones = jnp.ones_like(original[..., :1])
    return Translation(
        output=original + by,
        reduced=original[:, ::2, ::2],
        pretranslated=original + 2 * by,
        mask=0.5 * ones,
        displacement=jnp.concatenate([3 * ones, 4 * ones], -1),
        warped=original,
    )


def output_of(source, by=0.1):
    """The uint8 output of `brighter`."""
    return np.clip(np.round((np.asarray(to_float(source)) + by + 1) * 127.5), 0, 255).astype(
        np.uint8
    )


def batches(source, target, size=4):
    starts = range(0, len(source), size)
    return [{"source": source[i : i + size], "target": target[i : i + size]} for i in starts]


@dataclasses.dataclass(frozen=True)
class Network:
    params: np.ndarray


@dataclasses.dataclass(frozen=True)
class Difference:
    """A perceptual distance with a single parameter."""

    network: Network

    def __call__(self, images, references):
        return self.network.params * jnp.abs(images - references).mean((1, 2, 3))


@functools.cache  # Shares the compiled programs.
def evaluation(devices, perceptual):
    spread = Spread(4, tuple(jax.devices()[:devices]))
    distance = Difference(Network(np.float32(3))) if perceptual else None
    return PairedEvaluation(brighter, DistributionMetrics(spread), 8.0, distance)


def evaluate(given, devices=1, perceptual=False, by=0.1, **options):
    measure = evaluation(devices, perceptual)
    result = measure(np.float32(by), given, **options)
    assert set(measure.names()) == result.scalars.keys()
    return result


@pytest.mark.parametrize(("devices", "size"), [(1, 4), (8, 6)])
def test_means_count_every_example_once(rng, devices, size):
    source = rng.integers(64, 128, (6, 16, 16, 3), np.uint8)
    result = evaluate(batches(source, source, size), devices)
    assert result.count == 6
    assert result.scalars["output/l1"] == pytest.approx(0.05, abs=1e-6)
    assert result.scalars["output/psnr"] == pytest.approx(20 * np.log10(20), abs=1e-3)
    assert result.scalars["pretranslated/l1"] == pytest.approx(0.1, abs=1e-6)
    # Not exactly zero, since the compiler may convert the pixels in two ways.
    assert max(result.scalars["identity/l1"], result.scalars["warped/l1"]) < 1e-7
    assert result.scalars["displacement/mean_px"] == pytest.approx(5)
    assert result.scalars["mask/mean"] == pytest.approx(0.5)
    assert result.scalars["mask/saturated"] == 0
    for name in ("sharpness", "gradient", "high_frequency"):
        assert result.scalars[f"output/{name}"] == pytest.approx(1, abs=1e-3)
    assert 0.9 < result.scalars["output/ms_ssim"] < 1
    assert not any("distance" in name for name in result.scalars)


def test_perceptual_distance_compares_clipped_outputs_with_truths(rng):
    source = rng.integers(64, 128, (4, 16, 16, 3), np.uint8)
    result = evaluate(batches(source, source), perceptual=True, by=2.0)
    expected = 3 * np.abs(np.clip(to_float(source) + 2, -1, 1) - to_float(source)).mean()
    assert result.scalars["output/perceptual"] == pytest.approx(float(expected), rel=1e-5)


def test_map_statistics_of_displacements():
    displacement = np.zeros((2, 10, 10, 2), np.float32)
    displacement[0, :, :, 0] = np.arange(100).reshape(10, 10) / 10
    displacement[1, 0, :3] = (-7.95, 0)  # Within 1 % of -8.
    displacement[1, 1, :2] = (0, 7.9)
    image = jnp.ones((2, 10, 10, 3))
    maps = Translation(image, image, image, image[..., :1], jnp.asarray(displacement), image)
    values = map_statistics(maps, bound=8.0)
    np.testing.assert_allclose(values["displacement/p95_px"], [9.405, 0.395], atol=1e-4)
    np.testing.assert_allclose(values["displacement/at_bound"], [0.2, 0.03], atol=1e-6)
    assert "displacement/at_bound" not in map_statistics(maps)


def test_smaller_last_batch_is_weighted_by_its_examples():
    source = np.zeros((5, 16, 16, 3), np.uint8)
    target = source.copy()
    target[4] = 255
    assert evaluate(batches(source, target)).scalars["identity/l1"] == pytest.approx(0.2)


def test_sheet_shows_evenly_spaced_examples():
    source = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    sheet = evaluate(batches(source, source + 100), sheet_rows=3, count=7).sheet
    assert sheet.columns == COLUMNS
    columns = dict(zip(COLUMNS, zip(*sheet.rows, strict=True), strict=True))
    assert [image[0, 0, 0] for image in columns["original"]] == [0, 3, 6]
    assert [image[0, 0, 0] for image in columns["truth"]] == [100, 103, 106]
    np.testing.assert_array_equal(columns["output"][1], output_of(source[3]))
    assert sheet.wheel_magnitude == pytest.approx(5)


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate([])
