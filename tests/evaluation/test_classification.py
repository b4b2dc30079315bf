import jax
import jax.numpy as jnp
import numpy as np
import pytest

from warp_translate.evaluation.classification import ClassifierEvaluation
from warp_translate.evaluation.sharded_eval import Spread


def evaluate(probabilities, images, threshold, devices=1, chunk=2, **options):
    spread = Spread(chunk, tuple(jax.devices()[:devices]))
    evaluation = ClassifierEvaluation(probabilities, spread, ("a", "b"), threshold)
    result = evaluation((), images, **options)
    assert result.scalars.keys() == set(evaluation.names())
    return result


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_scalars_of_a_classifier_of_the_red_channel(devices):
    """The probability of A is red / 255, which scrambling preserves."""

    def probabilities(_, images):
        share = images[:, 0, 0, 0].astype(jnp.float32) / 255
        return jnp.stack([share, 1 - share], 1)

    def images(*reds):
        return np.stack([np.full((8, 8, 3), red, np.uint8) for red in reds])

    chunk = 2 if devices == 1 else 3
    a = [{"image": images(255, 204)}, {"image": images(51)}]  # 1, 0.8 and 0.2 for A.
    a = a if devices == 1 else [{"image": images(255, 204, 51)}]
    b = [{"image": images(0)}]
    result = evaluate(probabilities, [a, b], 0.9, devices, chunk, kept=2, counts=[3, 1])
    np.testing.assert_array_equal(result.confusion, [[2, 1], [0, 1]])
    scalars = result.scalars
    assert scalars["accuracy/a"] == pytest.approx(2 / 3)
    assert scalars["accuracy/b"] == 1
    assert scalars["accuracy"] == pytest.approx(5 / 6)  # Domains weigh the same, not images.
    of_a = -(np.log(1) + np.log(0.8) + np.log(0.2)) / 3
    assert scalars["cross_entropy"] == pytest.approx(of_a / 2, abs=1e-6)
    assert scalars["known"] == pytest.approx(2 / 4)
    assert scalars["accuracy_known"] == 1
    assert scalars["unknown_scrambled"] == pytest.approx(2 / 4)
    assert [round(share, 3) for _, share in result.doubtful[0]] == [0.2, 0.8]
    assert result.doubtful[0][0][0][0, 0, 0] == 51


def test_scrambling_differs_per_image_and_is_independent_of_batches(rng):
    image = rng.permutation(8 * 8).reshape(8, 8, 1).repeat(3, -1).astype(np.uint8)

    def seen(devices, chunk):
        shown = []

        def probabilities(_, images):
            jax.debug.callback(lambda given: shown.append(np.asarray(given)), images)
            return jnp.full((len(images), 2), 0.5)

        size = devices * chunk
        batches = [
            {"image": image[None].repeat(min(size, 4 - start), 0)} for start in range(0, 4, size)
        ]
        evaluate(probabilities, [batches, batches], 0.8, devices, chunk)
        jax.effects_barrier()
        return {one.tobytes(): one for given in shown for one in given}

    found = seen(1, 4)
    assert image.tobytes() in found and len(found) == 1 + 2 * 4

    def pieces(of):
        return {of[y : y + 2, x : x + 2].tobytes() for y in range(0, 8, 2) for x in range(0, 8, 2)}

    # A permutation of the 4 x 4 pieces.
    assert all(pieces(each) == pieces(image) for each in found.values())
    assert seen(1, 2).keys() == seen(4, 1).keys() == found.keys()


def test_unexpected_number_of_images_is_an_error():
    images = [[{"image": np.zeros((1, 8, 8, 3), np.uint8)}], []]
    with pytest.raises(ValueError, match="domain b has no images"):
        evaluate(lambda _, images: jnp.full((len(images), 2), 0.5), images, 0.8)
    with pytest.raises(ValueError, match="1 images of a were measured, not 2"):
        evaluate(lambda _, images: jnp.full((len(images), 2), 0.5), images, 0.8, counts=[2, 1])
