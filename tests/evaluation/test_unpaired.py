"""Evaluation between domains on translations whose every figure is known."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import distance

from warp_translate.errors import UserError
from warp_translate.evaluation import distribution_metrics, metrics
from warp_translate.evaluation.distances import kernel_distance
from warp_translate.evaluation.evaluator import PairedEvaluation
from warp_translate.evaluation.features import FeatureExtractor
from warp_translate.evaluation.recognition import Recogniser
from warp_translate.evaluation.sharded_eval import Spread
from warp_translate.evaluation.sheet import render_sheet
from warp_translate.evaluation.unpaired import DomainsEvaluation
from warp_translate.models import Translation
from warp_translate.types import to_float, to_uint8

COLOUR = FeatureExtractor(
    "colour", 64 * "a", (4, 4), "linear", lambda images: images.mean((1, 2)) / 255
)
STEP = 16 / 127.5
KINDS = ("before", "after", "real")


def _brighter(original, by=STEP):
    """Adds a constant; on the left half it claims to have changed nothing."""
    ones = jnp.ones_like(original[..., :1])
    left = jnp.arange(original.shape[2])[None, None, :, None] < original.shape[2] // 2
    return Translation(
        output=original + by,
        reduced=original[:, ::2, ::2],
        pretranslated=original + 2 * by,
        mask=jnp.where(left, 0.0, 0.5) * ones,
        displacement=jnp.where(left, 0.0, 1.0) * jnp.concatenate([3 * ones, 4 * ones], -1),
        warped=original,
    )


def _darker(original):
    return _brighter(original, by=-2 * STEP)


SPREAD = Spread(4, tuple(jax.devices()[:1]))


@functools.cache
def evaluation(translate_ab, translate_ba, *options, **named):
    """Of two functions; a generator is one network with parameters, here 0 or 1.

    One for all tests that want the same, each of which would compile it anew.
    """

    def translate(params, original):
        if translate_ba is None:
            return translate_ab(original)
        return jax.lax.cond(params == 0, translate_ab, translate_ba, original)

    return DomainsEvaluation(translate, *options, **named)


def evaluate_domains(
    translate_ab,
    translate_ba,
    batches_a,
    batches_b,
    *,
    extractor=None,
    recogniser=None,
    paired=False,
    mask_weights="pretranslated",
    spread=SPREAD,
    **options,
):
    measure = evaluation(
        *(translate_ab, translate_ba, spread, extractor, paired, mask_weights),
        recogniser=recogniser,
    )
    params_ba = None if translate_ba is None else np.int32(1)
    result = measure(np.int32(0), params_ba, batches_a, batches_b, **options)
    missing = set(measure.names(both=translate_ba is not None)) ^ result.scalars.keys()
    assert all(name.endswith(("/ratio", "/others", "background/psnr")) for name in missing)
    return result


def _images(rng, count, low, size=16):
    colours = rng.integers(low, low + 20, (count, 1, 1, 3))
    return np.uint8(colours + rng.integers(0, 8, (count, size, size, 3)))


def _batches(images, spread=SPREAD):
    starts = range(0, len(images), spread.batch)
    return [{"image": images[start : start + spread.batch]} for start in starts]


@pytest.fixture(scope="module")
def domains():
    rng = np.random.default_rng(0)
    return _images(rng, 7, 90), _images(rng, 5, 120)


@pytest.fixture(scope="module")
def evaluated(domains):
    """Both ways of evaluating, by whether they are paired; of A the first five only."""
    a, b = domains[0][:5], domains[1]
    return {
        paired: evaluate_domains(
            _brighter,
            _darker,
            _batches(a),
            _batches(b),
            paired=paired,
            sheet_rows=3,
            counts=(5, 5),
        )
        for paired in (False, True)
    }


def _one(translate):
    """The same translation, which notes how many images it is handed."""

    def counted(original):
        jax.debug.callback(lambda count: counted.calls.append(int(count)), original.shape[0])
        return translate(original)

    counted.calls = []
    return counted


def test_scalars_of_both_directions_are_those_of_the_translations(domains):
    a, b = domains
    result = evaluate_domains(_brighter, _darker, _batches(a), _batches(b), extractor=COLOUR)
    scalars = result.scalars
    for direction, step in (("a_to_b", 1), ("b_to_a", -2)):
        found = {
            name.removeprefix(f"{direction}/"): value
            for name, value in scalars.items()
            if name.startswith(direction)
        }
        assert found["cycle/l1"] == pytest.approx(STEP / 2, rel=1e-4)
        assert found["mask/mean"] == pytest.approx(0.25)
        assert found["mask/saturated"] == pytest.approx(0.5)
        assert found["displacement/mean_px"] == pytest.approx(2.5)
        assert found["background/share"] == pytest.approx(0.5)
        assert found["background/psnr"] == pytest.approx(
            -20 * np.log10(abs(step) * STEP / 2), rel=1e-5
        )
        assert found["output/sharpness_of_original"] == pytest.approx(1, rel=1e-4)
    assert len(scalars) == 2 * 18


def test_distances_are_those_of_the_pictures_before_and_after(domains):
    a, b = domains
    scalars = evaluate_domains(
        _brighter, _darker, _batches(a), _batches(b), extractor=COLOUR
    ).scalars
    for direction, source, target, step in (("a_to_b", a, b, 16), ("b_to_a", b, a, -32)):
        before = kernel_distance(COLOUR(source), COLOUR(target))
        after = kernel_distance(COLOUR(np.uint8(source.astype(int) + step)), COLOUR(target))
        prefix = f"{direction}/kernel_distance/colour"
        assert scalars[f"{prefix}/before"] == pytest.approx(before.value, rel=1e-4)
        assert scalars[f"{prefix}/after"] == pytest.approx(after.value, rel=1e-4)
        assert scalars[f"{prefix}/ratio"] == pytest.approx(after.value / before.value, rel=1e-4)
        errors = [scalars[f"{prefix}/{name}_error"] for name in ("before", "after")]
        assert errors == pytest.approx([before.standard_error, after.standard_error], rel=1e-4)
    assert scalars["a_to_b/kernel_distance/colour/ratio"] < 0.9


def test_a_translated_picture_is_compared_with_its_own_original(domains):
    a, b = domains
    scalars = evaluate_domains(
        _brighter, _darker, _batches(a), _batches(b), extractor=COLOUR
    ).scalars
    for direction, source, step in (("a_to_b", a, 16), ("b_to_a", b, -32)):
        before, after = COLOUR(source), COLOUR(np.uint8(source.astype(int) + step))
        # SciPy's is the distance, one minus the similarity.
        similarity = 1 - distance.cdist(after, before, "cosine")
        prefix = f"{direction}/similarity/colour"
        assert scalars[f"{prefix}/original"] == pytest.approx(np.diag(similarity).mean(), abs=1e-6)
        others = similarity[~np.eye(len(similarity), dtype=bool)]
        assert scalars[f"{prefix}/others"] == pytest.approx(others.mean(), abs=1e-6)


def test_similarity_of_opposites_of_zeros_and_of_a_single_picture():
    features = np.float32([[3, 0], [0, 2]])
    found = distribution_metrics.similarity("net", features, -features)
    assert found == {"similarity/net/original": -1, "similarity/net/others": 0}
    # Features of nothing are like nothing, and no NaN comes of them.
    found = distribution_metrics.similarity("net", features, np.float32([[6, 0], [0, 0]]))
    assert found == {"similarity/net/original": 0.5, "similarity/net/others": 0}
    assert distribution_metrics.similarity("net", features[:1], features[:1]) == {
        "similarity/net/original": 1
    }


def _nearest(images):
    """Scores of three levels of grey: 90, 113 and 135."""
    return -abs(images.mean((1, 2, 3))[:, None] - np.float32([[90, 113, 135]]))


def test_shares_that_a_recogniser_takes_for_the_target(rng):
    a = np.uint8(np.broadcast_to([[[[96]]], [[[100]]], [[[84]]]], (3, 16, 16, 3)))
    b = np.uint8(np.full((4, 16, 16, 3), 113))
    b[3] = 135
    network = FeatureExtractor("grey", 64 * "b", (4, 4), "linear", _nearest)
    recogniser = Recogniser(network, ("dark", "middle", "light"), (0, 1))
    result = evaluate_domains(
        _brighter, _darker, _batches(a), _batches(b), recogniser=recogniser
    ).scalars
    found = {name: value for name, value in result.items() if "recognised" in name}
    assert found == {
        # 112, 116 and 100 are the translations.
        "a_to_b/recognised/grey/before": 0,
        "a_to_b/recognised/grey/after": pytest.approx(2 / 3),
        "a_to_b/recognised/grey/real": 0.75,
        # 81 thrice, and 103.
        "b_to_a/recognised/grey/before": 0,
        "b_to_a/recognised/grey/after": 0.75,
        "b_to_a/recognised/grey/real": 1,
    }
    assert recogniser.protocol()["domains"] == ["dark", "middle"]
    assert distribution_metrics.in_words(
        {f"recognised/grey/{k}": v for k, v in zip(KINDS, (0, 0.5, 1), strict=True)}
    ) == [
        "taken for the target by grey: 0.0 % untouched, 50.0 % translated, 100.0 % of the real ones"
    ]
    few = dataclasses.replace(recogniser, domains=(0, 3))
    with pytest.raises(UserError, match="grey knows 3 classes, from 0 to 2: there is none for"):
        evaluate_domains(_brighter, _darker, _batches(a), _batches(b), recogniser=few)


def test_further_real_images_join_the_target_domain(domains, rng):
    a, b = domains
    further_a, further_b = _images(rng, 6, 90), _images(rng, 3, 120)
    result = evaluate_domains(
        _brighter,
        _darker,
        _batches(a),
        _batches(b),
        extractor=COLOUR,
        further_a=COLOUR(further_a),
        further_b=COLOUR(further_b),
    )
    before = kernel_distance(COLOUR(a), np.concatenate([COLOUR(b), COLOUR(further_b)]))
    found = result.scalars["a_to_b/kernel_distance/colour/before"]
    assert found == pytest.approx(before.value, rel=1e-4)
    before = kernel_distance(COLOUR(b), np.concatenate([COLOUR(a), COLOUR(further_a)]))
    found = result.scalars["b_to_a/kernel_distance/colour/before"]
    assert found == pytest.approx(before.value, rel=1e-4)


def test_the_protocol_says_how_and_is_json():
    def protocol(extractor, paired=False):
        evaluation = DomainsEvaluation(lambda *_: None, SPREAD, extractor, paired)
        return json.loads(json.dumps(evaluation.protocol((7, 5), (6, 3))))

    found = protocol(COLOUR)
    assert found["images"] == {"a": 7, "b": 5}
    assert found["paired"] is False and protocol(COLOUR, paired=True)["paired"] is True
    assert found["real_a"] == {"test": 7, "further": 6}
    assert found["real_b"] == {"test": 5, "further": 3}
    assert found["extractor"] == {
        "name": "colour",
        "weights_sha256": 12 * "a",
        "size": [4, 4],
        "resize": "linear, antialiased, whole picture",
    }
    without = protocol(None)
    assert found.keys() - without.keys() >= {"extractor", "kernel_distance", "real_a", "real_b"}


def test_without_an_extractor_there_are_no_distances(domains):
    a, b = domains
    scalars = evaluate_domains(_brighter, None, _batches(a), _batches(b)).scalars
    assert not any("distance" in name for name in scalars)


def test_features_of_a_set_come_in_the_order_of_its_images(domains):
    evaluation = DomainsEvaluation(lambda *_: None, SPREAD, COLOUR)
    np.testing.assert_array_equal(evaluation.embed(_batches(domains[0])), COLOUR(domains[0]))


def test_one_generator_is_one_direction_without_a_cycle(domains):
    a, b = domains
    result = evaluate_domains(
        _brighter, None, _batches(a), _batches(b), sheet_rows=2, counts=(7, 5), extractor=COLOUR
    )
    assert all(name.startswith("a_to_b/") for name in result.scalars)
    assert "a_to_b/cycle/l1" not in result.scalars
    assert list(result.sheets) == ["a_to_b"]
    assert not {"back", "truth"} & set(result.sheets["a_to_b"].columns)


def test_each_test_image_is_translated_once_and_translated_images_once_back(domains):
    a, b = domains
    forth, back = _one(_brighter), _one(_darker)
    evaluate_domains(forth, back, iter(_batches(a)), iter(_batches(b)), extractor=COLOUR)
    jax.effects_barrier()
    # Two batches of A and two of B, of four with their filling.
    assert forth.calls == back.calls == [4, 4, 4, 4]


def test_paired_domains_get_the_figures_of_the_evaluation_on_pairs(domains, evaluated):
    a, b = domains[0][:5], domains[1]
    result = evaluated[True]
    assert "a_to_b/output/l1" not in evaluated[False].scalars
    measure = PairedEvaluation(lambda by, original: _brighter(original, by), Spread(5))
    for direction, step, source, truth in (("a_to_b", STEP, a, b), ("b_to_a", -2 * STEP, b, a)):
        expected = measure(np.float32(step), [{"source": source, "target": truth}]).scalars
        found = {name: result.scalars[f"{direction}/{name}"] for name in expected}
        assert found == pytest.approx(expected, rel=1e-4)
        assert {"output/l1_ratio", "output/psnr_gain", "output/ssim"} <= expected.keys()


@pytest.mark.parametrize("counts", [None, (7, 5)])
def test_paired_domains_of_unequal_numbers_are_refused(domains, counts):
    given = [_batches(each) for each in domains]
    rows = {} if counts is None else {"sheet_rows": 1, "counts": counts}
    with pytest.raises(UserError, match=r"paired test images come in numbers of .* unpaired"):
        evaluate_domains(_brighter, _darker, *given, paired=True, **rows)


@pytest.mark.parametrize("paired", [False, True])
def test_sheets_show_each_direction_with_its_own_examples(domains, evaluated, paired):
    a, b = domains[0][:5], domains[1]
    result = evaluated[paired]
    given = {"a_to_b": (a, b, 16, -16), "b_to_a": (b, a, -32, -16)}
    assert list(result.sheets) == list(given)
    for direction, (source, truth, step, there_and_back) in given.items():
        sheet = result.sheets[direction]
        assert sheet.columns == (
            *("original", "reduced", "pretranslated", "mask", "displacement", "warped"),
            *("output", "back"),
            *(("truth",) if paired else ()),
        )
        assert sheet.wheel_magnitude == pytest.approx(5)
        for row, i in zip(sheet.rows, (0, 2, 4), strict=True):
            shown = dict(zip(sheet.columns, row, strict=True))
            np.testing.assert_array_equal(shown["original"], source[i])
            np.testing.assert_array_equal(shown["output"], np.uint8(source[i].astype(int) + step))
            np.testing.assert_array_equal(
                shown["back"], np.uint8(source[i].astype(int) + there_and_back)
            )
            if paired:
                np.testing.assert_array_equal(shown["truth"], truth[i])
        assert render_sheet(sheet.rows, sheet.columns).ndim == 3


def test_the_mean_over_backgrounds_leaves_out_images_without_one(domains):
    a, b = domains

    def some(original):
        """Keeps the background of every other image; and of those, the brighter ones better."""
        translation = _brighter(original)
        kept = (jnp.round((original[:, 0, 0, 0] + 1) * 127.5) % 2 == 0)[:, None, None, None]
        error = STEP * (original[:, :1, :1, :1] + 1)
        return translation.replace(
            mask=jnp.where(kept, translation.mask, 0.5), output=original + error
        )

    scalars = evaluate_domains(some, None, _batches(a), _batches(b)).scalars
    original = to_float(a)
    translation = some(original)
    kept = metrics.background_kept(
        translation.output, original, translation.mask, translation.displacement
    )
    assert 0 < np.isnan(kept.psnr).sum() < 7
    assert scalars["a_to_b/background/psnr"] == pytest.approx(np.nanmean(kept.psnr), rel=1e-4)
    assert scalars["a_to_b/background/share"] == pytest.approx(float(kept.share.mean()), rel=1e-5)


def test_where_nothing_is_background_there_is_no_figure_for_it(domains):
    a, b = domains

    def moved(original):
        translation = _brighter(original)
        return translation.replace(displacement=translation.displacement + 1)

    scalars = evaluate_domains(moved, None, _batches(a), _batches(b)).scalars
    assert "a_to_b/background/psnr" not in scalars
    assert scalars["a_to_b/background/share"] == 0


def test_a_mask_that_weighs_the_warped_image_is_turned_for_the_background(domains):
    a, b = domains

    def turned(original):
        translation = _brighter(original)
        return translation.replace(mask=1 - translation.mask)

    given = evaluate_domains(_brighter, None, _batches(a), _batches(b)).scalars
    found = evaluate_domains(turned, None, _batches(a), _batches(b), mask_weights="warped").scalars
    for name in ("psnr", "share"):
        assert found[f"a_to_b/background/{name}"] == pytest.approx(
            given[f"a_to_b/background/{name}"]
        )


def test_a_ratio_to_nothing_is_left_out(rng):
    images = _images(rng, 6, 100)
    # The same set on both sides: the unbiased estimate is negative.
    scalars = evaluate_domains(
        _brighter, None, _batches(images), _batches(images), extractor=COLOUR
    ).scalars
    assert scalars["a_to_b/kernel_distance/colour/before"] < 0
    assert "a_to_b/kernel_distance/colour/ratio" not in scalars


def test_translated_pictures_are_seen_as_they_would_be_written(domains):
    seen = []

    def embed(images):
        seen.append(np.asarray(images))
        return images.mean((1, 2))

    extractor = FeatureExtractor("seen", 64 * "0", (16, 16), "linear", embed)
    a, b = domains

    def beyond(original):
        return _brighter(original).replace(output=original * 3)

    evaluate_domains(beyond, None, _batches(a), _batches(b), extractor=extractor)
    expected = np.asarray(to_uint8(to_float(a[:4]) * 3), np.float32)
    assert any(np.array_equal(np.rint(each[:4]), expected) for each in seen)


def test_too_few_images_for_a_distance_and_none_at_all_are_errors(domains):
    a, b = domains
    with pytest.raises(UserError, match="2 translated and 5 real images are too few"):
        evaluate_domains(_brighter, None, _batches(a[:2]), _batches(b), extractor=COLOUR)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate_domains(_brighter, None, [], _batches(b))


def test_the_number_of_devices_changes_no_bit(domains):
    """Means, distances and pictures, by an extractor that sums in whatever order it is compiled."""

    def evaluate(count):
        spread = Spread(2, tuple(jax.devices()[:count]))
        kernel = np.random.default_rng(1).normal(size=(48, 5)).astype(np.float32)
        embed = jax.jit(lambda images: images.reshape(len(images), -1) @ kernel / 255)
        extractor = FeatureExtractor("random", 64 * "b", (4, 4), "linear", embed)
        return evaluate_domains(
            _brighter,
            _darker,
            _batches(domains[0], spread),
            _batches(domains[1], spread),
            extractor=extractor,
            sheet_rows=2,
            counts=(7, 5),
            spread=spread,
        )

    one = evaluate(1)
    for several in map(evaluate, (2, 8)):
        assert one.scalars == several.scalars
        for name, sheet in one.sheets.items():
            jax.tree.map(np.testing.assert_array_equal, sheet.rows, several.sheets[name].rows)


def test_each_chunk_is_embedded_on_a_device_of_its_own(domains):
    seen = []

    def embed(images):
        seen.append(next(iter(images.devices())))
        return images.mean((1, 2))

    extractor = FeatureExtractor("where", 64 * "c", (4, 4), "linear", embed)
    spread = Spread(2, tuple(jax.devices()[:4]))
    images = domains[0]
    np.testing.assert_array_equal(
        distribution_metrics.embed(extractor, spread, images), extractor(images)
    )
    assert set(seen[:4]) == set(spread.devices)
