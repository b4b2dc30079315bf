"""The catalogue against the scalars that evaluations really give."""

import jax.numpy as jnp
import numpy as np
import pytest

from warp_translate.evaluation.catalogue import Metric, describe, improvement
from warp_translate.evaluation.classification import ClassifierEvaluation
from warp_translate.evaluation.evaluator import PairedEvaluation
from warp_translate.evaluation.features import FeatureExtractor
from warp_translate.evaluation.sharded_eval import Spread
from warp_translate.evaluation.unpaired import DomainsEvaluation
from warp_translate.models import Translation

COLOUR = FeatureExtractor("colour", 64 * "0", (4, 4), "linear", lambda each: each.mean((1, 2)))

NEW = (
    *("output/ms_ssim", "output/perceptual", "output/gradient", "output/high_frequency"),
    *("frechet_distance/colour/after", "frechet_distance/colour/before"),
    *("displacement/p95_px", "displacement/at_bound", "kernel_distance", "cost"),
    "frechet_distance",
)


def _brighter(by, original):
    ones = jnp.ones_like(original[..., :1])
    return Translation(
        output=original + by,
        reduced=original[:, ::2, ::2],
        pretranslated=original + 2 * by,
        mask=0.05 * ones,
        displacement=jnp.concatenate([0.1 * ones, 0.2 * ones], -1),
        warped=original,
    )


def _images(rng, count):
    return rng.integers(64, 128, (count, 16, 16, 3), np.uint8)


def _paired(rng):
    batches = [{"source": _images(rng, 4), "target": _images(rng, 4)}]
    evaluate = PairedEvaluation(_brighter, Spread(chunk=1), bound=2.0, extractor=COLOUR)
    return evaluate(jnp.float32(0.1), batches).scalars


def _between_domains(rng):
    a, b = ([{"image": _images(rng, 4)}] for _ in range(2))
    evaluate = DomainsEvaluation(
        _brighter, Spread(chunk=1), extractor=COLOUR, paired=True, bound=2.0
    )
    return evaluate(jnp.float32(0.1), jnp.float32(-0.1), a, b).scalars


def _classified(rng):
    evaluate = ClassifierEvaluation(
        lambda _, images: jnp.full((len(images), 2), 0.5), Spread(chunk=1), ("man", "woman"), 0.4
    )
    images = [[{"image": _images(rng, 2)}], [{"image": _images(rng, 3)}]]
    return evaluate(jnp.zeros(()), images).scalars


@pytest.mark.parametrize("evaluate", [_paired, _between_domains, _classified])
def test_every_scalar_of_an_evaluation_is_known(rng, evaluate):
    scalars = evaluate(rng)
    assert len(scalars) >= 7
    unknown = [name for name in scalars if not describe(name).meaning]
    assert unknown == []
    for name, value in scalars.items():
        assert describe(f"test/{name}") == describe(name)
        if describe(name).better != "none":
            assert np.isfinite(improvement(name, value))


@pytest.mark.parametrize("name", NEW)
def test_names_that_evaluations_may_give_are_known(name):
    metric = describe(name)
    assert metric.meaning.endswith(".") and metric.title and metric.digits > 0


def test_scores_at_further_factors_say_so_in_their_title():
    metric = describe("test/factor_4/output/l1")
    assert metric.title == "L1 at factor 4"
    assert (metric.better, metric.meaning) == ("lower", describe("output/l1").meaning)
    assert describe("factor_x/output/l1").meaning == ""


def test_a_description_by_hand():
    assert describe("test/a_to_b/output/psnr_gain") == Metric(
        title="PSNR gain",
        unit="dB",
        better="higher",
        digits=2,
        meaning="PSNR of the output less that of the untouched original.",
    )
    assert describe("displacement/mean_px").unit == "px"
    known = describe("kernel_distance/efficientnet_lite0-crops/after")
    assert known.title == "kernel distance (efficientnet_lite0-crops)"
    assert known.better == "lower" and "Gretton" in known.meaning
    assert "Heusel" in describe("frechet_distance/my net/after").meaning
    assert describe("accuracy/old man").title == "accuracy of old man"


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("output/l1", "lower"),
        ("identity/ssim", "higher"),
        ("pretranslated/sharpness", "one"),
        ("output/sharpness_of_original", "one"),
        ("b_to_a/background/psnr", "higher"),
        ("background/share", "none"),
        ("mask/mean", "none"),
        ("a_to_b/cycle/l1", "lower"),
        ("a_to_b/kernel_distance/net/before", "none"),
        ("a_to_b/kernel_distance/net/before_error", "none"),
        ("a_to_b/kernel_distance/net/after_error", "none"),
        ("a_to_b/kernel_distance/net/ratio", "lower"),
        ("a_to_b/similarity/net/original", "none"),
        ("a_to_b/similarity/net/others", "none"),
        ("accuracy/man", "higher"),
        ("cross_entropy", "lower"),
    ],
)
def test_the_better_direction(name, better):
    assert describe(name).better == better


@pytest.mark.parametrize(
    "name",
    [
        *("loss", "output/", "", "output/l2", "a_to_b", "test/", "l1/output", "train/output/l1"),
        *("kernel_distance/after", "kernel_distance//after", "kernel_distance/net/middle"),
        *("similarity/original", "similarity//original", "similarity/net/middle"),
        *(
            "kernel_distance/net/after_mean",
            "frechet_distance/net",
            "frechet_distance/net/after_error",
            "accuracy/",
            "output/output/l1",
        ),
    ],
)
def test_unknown_names_describe_themselves(name):
    assert describe(name) == Metric(title=name, unit="", better="none", digits=4, meaning="")


def test_improvement_is_larger_for_what_is_better():
    assert improvement("output/psnr", 20.0) > improvement("output/psnr", 19.0)
    assert improvement("test/output/l1", 0.1) > improvement("test/output/l1", 0.2)
    # Nearer to one: half is as bad as double.
    scores = [improvement("output/sharpness", value) for value in (1.0, 1.2, 0.8, 0.5, 3.0, 0.1)]
    assert scores == sorted(scores, reverse=True) and scores[0] == 0
    assert improvement("output/sharpness", 0.5) == pytest.approx(
        improvement("output/sharpness", 2.0)
    )


@pytest.mark.parametrize("name", ["output/psnr", "output/l1", "output/sharpness"])
def test_what_is_no_number_is_never_the_best(name):
    assert improvement(name, float("nan")) == -float("inf")
    assert improvement("output/sharpness", 0.0) == -float("inf")


@pytest.mark.parametrize(
    ("name", "reason"), [("mask/mean", "mask/mean only describes"), ("loss", "loss is not known")]
)
def test_what_does_not_judge_cannot_choose(name, reason):
    with pytest.raises(ValueError, match=f"{reason}: no value of it is better"):
        improvement(name, 1.0)
