import math

import pytest

from tests.evaluation.fake_runs import PROTOCOL, config, scores, write_run, write_sweep
from warp_translate.errors import UserError
from warp_translate.evaluation import comparison, runs
from warp_translate.evaluation.comparison import Statistic

DASH = "\N{EN DASH}"  # Value of a missing field.


def grouped(folder, *made, **fields):
    """Groups of single runs from configurations, or (configuration, arguments of `write_run`)."""
    folders = []
    for number, each in enumerate(made):
        given, changes = each if isinstance(each, tuple) else (each, {})
        folders.append(write_run(folder / f"run{number}", given, **{**fields, **changes}))
    return comparison.groups(runs.read(folders))


def with_l1(value):
    return {"scalars": {**scores(0.5), "output/l1": value}}


def test_statistic_is_mean_and_sample_standard_deviation():
    assert Statistic.of([1.0, 2.0, 6.0]) == Statistic(3.0, pytest.approx(math.sqrt(7.0)), 3)
    assert Statistic.of([4.0]) == Statistic(4.0, None, 1)
    for bad in (math.nan, math.inf):
        found = Statistic.of([1.0, bad])
        assert math.isnan(found.mean) and math.isnan(found.spread) and found.count == 2


def test_runs_that_differ_only_in_seed_are_one_group(tmp_path):
    groups = grouped(
        tmp_path,
        (config(seed=0), with_l1(0.2)),
        (config(seed=0, method__factor=4), with_l1(0.5)),
        (config(seed=7), with_l1(0.4)),
    )
    assert [len(group.runs) for group in groups] == [2, 1]
    assert [group.label for group in groups] == ["factor 2", "factor 4"]
    assert groups[0].statistic("output/l1") == Statistic(
        pytest.approx(0.3), pytest.approx(0.2 / math.sqrt(2)), 2
    )
    assert groups[1].statistic("output/l1").spread is None
    assert groups[0].by_seed("output/l1") == {0: 0.2, 7: 0.4}
    assert "seed" not in groups[0].config


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        # Full names of ambiguous fields, folder names for many differences.
        ({"lr": 0.1, "b.lr": 3}, {"lr": 0.2, "b.lr": 4}, ["lr 0.1, b.lr 3", "lr 0.2, b.lr 4"]),
        ({}, {f"field{number}": 1 for number in range(9)}, ["run0", "run1"]),
        ({}, {"mask_band": 0.0}, [f"mask_band {DASH}", "mask_band 0.0"]),
        # Integral floats equal integers.
        ({"l1": 100.0}, {"l1": 100, "seed": 1}, ["run0 and 1 more"]),
    ],
)
def test_labels_name_the_differences(tmp_path, first, second, labels):
    groups = grouped(tmp_path, config() | first, config() | second)
    assert [group.label for group in groups] == labels


def test_duplicate_runs_are_an_error(tmp_path):
    with pytest.raises(UserError, match="run0 and run1 have the same configuration and seed 0"):
        grouped(tmp_path, config(), config())


def test_variant_with_different_configurations_is_an_error(tmp_path):
    write_run(tmp_path / "a", config())
    write_run(tmp_path / "b", config(seed=1, optim__lr=0.5))
    write_sweep(tmp_path, {"both": ["a", "b"]})
    with pytest.raises(UserError, match=r"should be seeds of 'both' but differ in optim\.lr"):
        comparison.groups(runs.read([tmp_path]))


def test_sweeps_keep_labels_order_and_titles(tmp_path):
    write_run(tmp_path / "s" / "a", config(method__factor=4))
    write_run(tmp_path / "s" / "b", config())
    write_sweep(tmp_path / "s", {"four": ["a"], "two": ["b"], "none": ["c"]}, title="A title")
    write_run(tmp_path / "single", config(seed=5))
    groups = comparison.groups(runs.read([tmp_path / "s", tmp_path / "single"]))
    assert [(group.source, group.label) for group in groups] == [
        *[("A title", "four"), ("A title", "two"), ("A title", "none")],
        ("", "single"),
    ]
    assert groups[2].evaluated == [] and groups[2].config == {}
    assert groups[2].statistic("output/l1") is None


def test_equal_names_of_folders_and_sweeps_are_disambiguated(tmp_path):
    for place in ("x", "y"):
        write_run(tmp_path / place / "s" / "a", config())
        write_sweep(tmp_path / place / "s", {"one": ["a"]}, title="T")
        write_run(tmp_path / place / "single", config(optim__lr=len(place), data__name=place))
    folders = [tmp_path / place / name for place in ("x", "y") for name in ("s", "single")]
    groups = comparison.groups(runs.read(folders))
    assert [group.source for group in groups if group.source] == [
        *(f"T ({tmp_path}/x/s)", f"T ({tmp_path}/y/s)")
    ]
    names = [group.runs[0].name for group in groups]
    assert names[0] == f"{tmp_path}/x/s/a" and len(set(names)) == 4
    assert len({group.key for group in groups}) == 4


PROTOCOLS = [
    ("count", {**PROTOCOL, "count": 104}, "count is 103 and 104"),
    ("size", {**PROTOCOL, "size": 128}, "size is 64 and 128"),
    (
        "checksum",
        {
            **PROTOCOL,
            "sets": {"extractor": {**PROTOCOL["sets"]["extractor"], "weights_sha256": "f"}},
        },
        "sets.extractor.weights_sha256 is 0123456789ab and f",
    ),
    ("resize", {**PROTOCOL, "resize": "lanczos3"}, f"resize is {DASH} and lanczos3"),
    ("extractor", {**PROTOCOL, "sets": None}, f"sets is {DASH} and null"),
]


@pytest.mark.parametrize(
    ("protocol", "difference"),
    [each[1:] for each in PROTOCOLS],
    ids=[each[0] for each in PROTOCOLS],
)
def test_different_protocols_are_an_error(tmp_path, protocol, difference):
    for other in ("factor", "seed"):  # In another group and in the same.
        made = config(method__factor=4) if other == "factor" else config(seed=1)
        groups = grouped(tmp_path / other, config(), (made, {"protocol": protocol}))
        with pytest.raises(UserError) as caught:
            comparison.check_protocols(groups)
        message = str(caught.value)
        assert "run0 and run1" in message and difference in message and "\n" not in message


def test_protocol_fields_of_the_method_may_differ(tmp_path):
    other = {**PROTOCOL, "mask_weights": "warped"}
    groups = grouped(
        tmp_path,
        config(),
        (config(method__factor=4), {"protocol": other}),
        (config(method__factor=8), {"evaluated": False}),
    )
    comparison.check_protocols(groups)


@pytest.mark.parametrize(
    ("metric", "values", "marks"),
    [
        # By direction.
        ("output/l1", [[0.3], [0.1], [0.2]], ["", "best", ""]),
        ("output/psnr", [[3], [1], [2]], ["best", "", ""]),
        ("output/sharpness", [[1.5], [0.9], [0.5]], ["", "best", ""]),
        ("mask/mean", [[1], [2]], ["", ""]),
        ("novelty", [[1], [2]], ["", ""]),
        # Means within the larger spread are equal.
        (
            "output/l1",
            [[0.10, 0.12], [0.115, 0.125], [0.10, 0.20], [0.30, 0.31]],
            ["best", "equal", "equal", ""],
        ),
        # Where 1 is best, spreads are relative: 0.14 / 2 is less than log(2.0 / 1.8).
        ("output/sharpness", [[1.7, 1.9], [1.9, 2.1]], ["best", ""]),
        ("output/sharpness", [[1.7, 1.9], [1.8, 2.0]], ["best", "equal"]),
        # NaN, a single finite value and ties are not best.
        ("output/l1", [[math.nan], [0.2], [0.3]], ["", "best", ""]),
        ("output/l1", [[math.nan], [0.2]], ["", ""]),
        ("output/l1", [[0.2], [0.2]], ["", ""]),
    ],
)
def test_marks_of_best_and_equal_groups(tmp_path, metric, values, marks):
    made = [
        (config(seed=seed, method__factor=factor), {"scalars": {metric: value}})
        for factor, found in enumerate(values, start=1)
        for seed, value in enumerate(found)
    ]
    assert comparison.marks(grouped(tmp_path, *made), metric) == marks


def test_columns_default_and_requested(tmp_path):
    groups = grouped(tmp_path, config(), config(method__factor=4))
    assert comparison.columns(groups) == [
        *("output/l1_ratio", "output/psnr_gain", "output/ssim", "output/perceptual"),
        *("kernel_distance/efficientnet_lite0/after", "output/sharpness"),
    ]
    wanted = ["mask/mean", "output/l1", "mask/mean"]
    assert comparison.columns(groups, wanted) == ["mask/mean", "output/l1"]
    with pytest.raises(UserError, match="--metrics: no run has 'output/lx'; there are: output/l1,"):
        comparison.columns(groups, ["output/lx"])


def test_columns_of_two_directions_and_of_classifiers(tmp_path):
    found = {
        f"{direction}/{name}": 0.5
        for direction in ("a_to_b", "b_to_a")
        for name in ("output/ssim", "output/l1_ratio", "kernel_distance/NET/after", "cycle/l1")
    }
    groups = grouped(tmp_path / "a", (config(), {"scalars": found}))
    assert comparison.columns(groups) == [
        *("a_to_b/output/l1_ratio", "b_to_a/output/l1_ratio"),
        *("a_to_b/kernel_distance/NET/after", "b_to_a/kernel_distance/NET/after"),
        *("a_to_b/cycle/l1", "b_to_a/cycle/l1"),
    ]
    classifier = {"cross_entropy": 0.3, "accuracy": 0.8, "accuracy/man": 0.9}
    groups = grouped(tmp_path / "b", (config(), {"scalars": classifier}))
    assert comparison.columns(groups) == ["accuracy", "cross_entropy"]
    groups = grouped(tmp_path / "c", (config(), {"scalars": {"novelty": 1.0}}))
    assert comparison.columns(groups) == ["novelty"]
    groups = grouped(tmp_path / "d", (config(), {"evaluated": False}))
    assert comparison.columns(groups) == []
