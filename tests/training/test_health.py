import pytest

from warp_translate.training.health import BranchWatch


def scalars(mask, displacement, saturated=0.0, prefix=""):
    return {
        f"{prefix}mask/mean": mask,
        f"{prefix}mask/saturated": saturated,
        f"{prefix}displacement/mean_px": displacement,
    }


SOUND = scalars(0.4, 1.0)


IDENTITY = "the pretranslated image has lost its weight and the displacement is zero"
WARPED = "the pretranslated image has lost its weight in the output"
PRETRANSLATED = "the warped original has lost its weight"


@pytest.mark.parametrize(
    ("weight", "displacement", "words"),
    [
        (0.001, 0.01, IDENTITY),
        (0.015, 0.01, IDENTITY),
        (0.001, 2.0, WARPED),
        (0.999, 2.0, PRETRANSLATED),
        (0.999, 0.0, PRETRANSLATED),
    ],
)
@pytest.mark.parametrize("mask_weights", ["pretranslated", "warped"])
def test_every_way_to_die_is_told_with_its_figures_and_a_remedy(
    mask_weights, weight, displacement, words
):
    mask = weight if mask_weights == "pretranslated" else 1 - weight
    (line,) = BranchWatch(mask_weights)(scalars(mask, displacement, saturated=0.75))
    assert line.startswith(f"generator: {words}")
    assert f"mask mean {mask:.4f}, saturated 0.750, displacement {displacement:.3f} px" in line
    assert line.rpartition("; ")[2] and "\n" not in line


@pytest.mark.parametrize(
    ("mask", "displacement"), [(0.4, 0.0), (0.5, 3.0), (0.015, 1.0), (0.99, 1.0)]
)
def test_a_sound_run_has_no_warning(mask, displacement):
    assert BranchWatch()(scalars(mask, displacement)) == []


def test_other_metrics_alone_say_nothing():
    assert BranchWatch()({"generator/loss": 0.0, "d_a/probability_gap": 0.0}) == []


def test_each_generator_is_named():
    watch = BranchWatch()
    both = scalars(0.5, 1.0, prefix="a_to_b/") | scalars(0.001, 1.0, prefix="b_to_a/")
    (line,) = watch(both)
    assert line.startswith(f"b_to_a: {WARPED}")
    both = scalars(0.999, 1.0, prefix="a_to_b/") | scalars(0.001, 1.0, prefix="b_to_a/")
    (line,) = watch(both)
    assert line.startswith(f"a_to_b: {PRETRANSLATED}")


def test_a_warning_is_said_once_and_again_only_after_sound_statistics():
    watch, dead = BranchWatch(), scalars(0.001, 1.0)
    assert [len(watch(each)) for each in (SOUND, dead, dead, dead, SOUND, dead, dead)] == [
        *[0, 1, 0, 0],
        *[0, 1, 0],
    ]


def test_two_watches_know_nothing_of_each_other():
    dead = scalars(0.001, 1.0)
    assert [len(BranchWatch()(dead)) for _ in range(2)] == [1, 1]
