import numpy as np
import pytest

from warp_translate.evaluation.classification import evaluate_classifier


def test_figures_of_a_classifier_that_reads_the_red_and_the_blue():
    """Its certainty is in the picture: red / 255 of A and the rest of B; scrambling keeps it."""

    def probabilities(images):
        share = images[:, 0, 0, 0] / 255
        return np.stack([share, 1 - share], 1)

    def images(*reds):
        return np.stack([np.full((8, 8, 3), red, np.uint8) for red in reds])

    a = [{"image": images(255, 204)}, {"image": images(51)}]  # 1, 0.8 and 0.2 for A.
    b = [{"image": images(0)}]
    result = evaluate_classifier(probabilities, [a, b], ("a", "b"), threshold=0.9, kept=2)
    np.testing.assert_array_equal(result.confusion, [[2, 1], [0, 1]])
    scalars = result.scalars
    assert scalars["accuracy/a"] == pytest.approx(2 / 3)
    assert scalars["accuracy/b"] == 1
    assert scalars["accuracy"] == pytest.approx(5 / 6)  # Domains count alike, not images.
    of_a = -(np.log(1) + np.log(0.8) + np.log(0.2)) / 3
    assert scalars["cross_entropy"] == pytest.approx(of_a / 2, abs=1e-6)
    assert scalars["known"] == pytest.approx(2 / 4)
    assert scalars["accuracy_known"] == 1
    assert scalars["unknown_scrambled"] == pytest.approx(2 / 4)
    assert [round(share, 3) for _, share in result.doubtful[0]] == [0.2, 0.8]
    assert result.doubtful[0][0][0][0, 0, 0] == 51


def test_scrambled_images_are_scrambled(rng):
    seen = []

    def probabilities(images):
        seen.append(images)
        return np.full((len(images), 2), 0.5)

    image = rng.permutation(10 * 10).reshape(10, 10, 1).repeat(3, -1).astype(np.uint8)
    batches = [[{"image": image[None]}], [{"image": image[None]}]]
    evaluate_classifier(probabilities, batches, ("a", "b"), threshold=0.8)
    shown, pieces = seen[0][0], seen[1][0]
    assert (shown == image).all() and not (pieces == image).all()
    # Its 4 x 4 pieces of 2 x 2 pixels moved whole; the two rows and columns beyond stayed.
    np.testing.assert_array_equal(np.sort(pieces, axis=None), np.sort(image, axis=None))
    np.testing.assert_array_equal(pieces[8:], image[8:])
    starts = {
        tuple(image[y : y + 2, x : x + 2].ravel()) for y in (0, 2, 4, 6) for x in (0, 2, 4, 6)
    }
    moved = {
        tuple(pieces[y : y + 2, x : x + 2].ravel()) for y in (0, 2, 4, 6) for x in (0, 2, 4, 6)
    }
    assert moved == starts


def test_an_empty_domain_is_named():
    with pytest.raises(ValueError, match="domain b has no images"):
        evaluate_classifier(
            lambda images: np.full((len(images), 2), 0.5),
            [[{"image": np.zeros((1, 8, 8, 3), np.uint8)}], []],
            ("a", "b"),
            threshold=0.8,
        )
