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

    image = rng.permutation(8 * 8).reshape(8, 8, 1).repeat(3, -1).astype(np.uint8)
    batches = [[{"image": image[None]}], [{"image": image[None]}]]
    evaluate_classifier(probabilities, batches, ("a", "b"), threshold=0.8)
    first, scrambled, second, otherwise = (images[0] for images in seen)
    assert (first == image).all() and (second == image).all()

    def pieces(of):
        return {of[y : y + 2, x : x + 2].tobytes() for y in range(0, 8, 2) for x in range(0, 8, 2)}

    # Its own 4 x 4 pieces, each whole and once, and otherwise every time.
    assert pieces(scrambled) == pieces(otherwise) == pieces(image)
    assert len({each.tobytes() for each in (image, scrambled, otherwise)}) == 3


def test_an_empty_domain_is_named():
    with pytest.raises(ValueError, match="domain b has no images"):
        evaluate_classifier(
            lambda images: np.full((len(images), 2), 0.5),
            [[{"image": np.zeros((1, 8, 8, 3), np.uint8)}], []],
            ("a", "b"),
            threshold=0.8,
        )
