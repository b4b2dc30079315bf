import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import distance

from warp_translate.evaluation.distances import frechet_distance, kernel_distance
from warp_translate.evaluation.evaluator import COLUMNS, PairedEvaluation, map_statistics
from warp_translate.evaluation.features import FeatureExtractor
from warp_translate.evaluation.recognition import Recogniser
from warp_translate.evaluation.sharded_eval import Spread
from warp_translate.models import Translation
from warp_translate.types import to_float


def brighter(by, original):
    """A translation whose every metric is known: 0.1 brighter, half masked, moved by (3, 4)."""
    ones = jnp.ones_like(original[..., :1])
    return Translation(
        output=original + by,
        reduced=original[:, ::2, ::2],
        pretranslated=original + 2 * by,
        mask=0.5 * ones,
        displacement=jnp.concatenate([3 * ones, 4 * ones], -1),
        warped=original,
    )


def batches(rng, sizes):
    for size in sizes:
        source = rng.integers(64, 128, (size, 16, 16, 3), np.uint8)
        yield {"source": source, "target": source}


@dataclasses.dataclass(frozen=True)
class Network:
    params: np.ndarray


@dataclasses.dataclass(frozen=True)
class Difference:
    """A perceptual distance by a network of one number."""

    network: Network

    def __call__(self, images, references):
        return self.network.params * jnp.abs(images - references).mean((1, 2, 3))


def _score(images):
    light = images.mean((1, 2, 3)) - 100
    return jnp.stack([0 * light, light], 1)


COLOUR = FeatureExtractor(
    "colour", 64 * "a", (4, 4), "linear", lambda images: images.mean((1, 2)) / 255
)
RECOGNISER = Recogniser(FeatureExtractor("light", 64 * "b", (4, 4), "linear", _score), None, (0, 1))


@functools.cache
def evaluation(devices, networks):
    """One for all tests, each of which would compile it anew."""
    spread = Spread(4, tuple(jax.devices()[:devices]))
    if not networks:
        return PairedEvaluation(brighter, spread, 8.0)
    distance = Difference(Network(np.float32(3)))
    return PairedEvaluation(
        brighter, spread, 8.0, COLOUR, recogniser=RECOGNISER, perceptual=distance
    )


def evaluate(given, devices=1, networks=False, by=0.1, **options):
    measure = evaluation(devices, networks)
    result = measure(np.float32(by), given, **options)
    missing = set(measure.names()) ^ result.scalars.keys()
    assert all(name.endswith(("/ratio", "/others")) for name in missing)
    return result


@pytest.mark.parametrize(("devices", "sizes"), [(1, (4, 2)), (8, (6,))])
def test_means_count_every_example_once(devices, sizes):
    result = evaluate(batches(np.random.default_rng(0), sizes), devices)
    assert result.count == 6
    assert result.scalars["output/l1"] == pytest.approx(0.05, abs=1e-6)
    assert result.scalars["output/psnr"] == pytest.approx(20 * np.log10(20), abs=1e-3)
    assert result.scalars["pretranslated/l1"] == pytest.approx(0.1, abs=1e-6)
    # The same pixels, which a compiler may bring to floats in two ways.
    assert max(result.scalars["identity/l1"], result.scalars["warped/l1"]) < 1e-7
    assert result.scalars["displacement/mean_px"] == pytest.approx(5)
    assert result.scalars["mask/mean"] == pytest.approx(0.5)
    assert result.scalars["mask/saturated"] == 0
    for name in ("sharpness", "gradient", "high_frequency"):
        assert result.scalars[f"output/{name}"] == pytest.approx(1, abs=1e-3)
    assert 0.9 < result.scalars["output/ms_ssim"] < 1


def test_a_perceptual_distance_compares_each_output_with_its_truth():
    (given,) = batches(np.random.default_rng(0), (4,))
    result = evaluate([given], networks=True, by=2.0)
    output = np.clip(np.asarray(to_float(given["source"])) + 2, -1, 1)  # As it would be written.
    expected = 3 * np.abs(output - np.asarray(to_float(given["target"]))).mean()
    assert result.scalars["output/perceptual"] == pytest.approx(expected, rel=1e-5)


def test_how_far_displacements_go_and_how_often_they_reach_their_bound():
    def maps(displacement):
        ones = jnp.ones((2, 10, 10, 1))
        images = jnp.ones((2, 10, 10, 3))
        return Translation(images, images, images, ones, jnp.asarray(displacement), images)

    displacement = np.zeros((2, 10, 10, 2), np.float32)
    displacement[0, :, :, 0] = np.arange(100).reshape(10, 10) / 10
    displacement[1, 0, :3] = (-7.95, 0)  # Within 1 % of -8.
    displacement[1, 1, :2] = (0, 7.9)
    values = map_statistics(maps(displacement), bound=8.0)
    np.testing.assert_allclose(values["displacement/p95_px"], [9.405, 0.395], atol=1e-4)
    np.testing.assert_allclose(values["displacement/at_bound"], [0.2, 0.03], atol=1e-6)
    assert "displacement/at_bound" not in map_statistics(maps(displacement))


def test_an_uneven_last_batch_weighs_by_its_examples():
    def targets(value, size):
        source = np.zeros((size, 16, 16, 3), np.uint8)
        return {"source": source, "target": np.full_like(source, value)}

    result = evaluate([targets(0, 4), targets(255, 1)])
    assert result.scalars["identity/l1"] == pytest.approx(0.2)


def test_distances_between_the_sets_are_those_of_their_features(rng):
    source, target = rng.integers(64, 128, (2, 7, 16, 16, 3), np.uint8)
    given = [
        {"source": source[:4], "target": target[:4]},
        {"source": source[4:], "target": target[4:]},
    ]
    scalars = evaluate(given, networks=True).scalars
    output = np.clip(np.round((np.asarray(to_float(source)) + 0.1 + 1) * 127.5), 0, 255)
    for name, images in (("before", source), ("after", output.astype(np.uint8))):
        features = COLOUR(images), COLOUR(target)
        found = scalars[f"kernel_distance/colour/{name}"]
        assert found == pytest.approx(kernel_distance(*features).value, rel=1e-4)
        found = scalars[f"frechet_distance/colour/{name}"]
        assert found == pytest.approx(frechet_distance(*features), rel=1e-4)
    similarity = 1 - distance.cdist(COLOUR(output.astype(np.uint8)), COLOUR(source), "cosine")
    found = scalars["similarity/colour/original"]
    assert found == pytest.approx(np.diag(similarity).mean(), abs=1e-6)
    assert not any("distance" in name for name in evaluate(given).scalars)


def test_shares_that_a_recogniser_takes_for_the_target():
    levels = np.uint8([[60, 70, 80, 90, 95, 99, 101], [120, 120, 20, 120, 120, 120, 120]])
    source, target = np.uint8(np.ones((7, 16, 16, 3)) * levels[..., None, None, None])
    given = [
        {"source": source[:4], "target": target[:4]},
        {"source": source[4:], "target": target[4:]},
    ]
    scalars = evaluate(given, networks=True).scalars
    # The output is 12.75 brighter.
    expected = {"before": 1 / 7, "after": 4 / 7, "real": 6 / 7}
    found = {name: value for name, value in scalars.items() if "recognised" in name}
    assert found == {f"recognised/light/{name}": value for name, value in expected.items()}


def test_rows_are_spread_over_the_set_and_show_their_own_example():
    source = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    given = [
        {"source": source[:4], "target": source[:4] + 100},
        {"source": source[4:], "target": source[4:] + 100},
    ]
    result = evaluate(given, sheet_rows=3, count=7)
    assert [row[COLUMNS.index("original")][0, 0, 0] for row in result.examples] == [0, 3, 6]
    assert [row[COLUMNS.index("truth")][0, 0, 0] for row in result.examples] == [100, 103, 106]
    output = np.clip(np.round((np.asarray(to_float(source[3])) + 0.1 + 1) * 127.5), 0, 255)
    np.testing.assert_array_equal(result.examples[1][COLUMNS.index("output")], output)
    assert result.wheel_magnitude == pytest.approx(5)


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate([])
