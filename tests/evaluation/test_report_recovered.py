import math

import pytest

from tests.evaluation.fake_runs import config, cost, write_evaluation, write_run
from warp_translate.evaluation import comparison, runs
from warp_translate.evaluation.report_recovered import families, share


def grouped(folder, made):
    """Groups of runs from (fusion, factor, seed, scalars, further changes)."""
    folders = []
    for number, (fusion, factor, seed, scalars, changes) in enumerate(made):
        given = config(seed=seed, method__factor=factor, method__fusion=fusion, **changes)
        path = write_run(folder / f"run{number}", given, evaluated=scalars is not None)
        if scalars is not None:
            write_evaluation(path, scalars, cost=cost(factor))
        folders.append(path)
    return comparison.groups(runs.read(folders))


def l1(fusion, factor, values, **changes):
    return [
        (fusion, factor, seed, {"output/l1": value, "mask/mean": 0.5}, changes)
        for seed, value in enumerate(values)
    ]


WITHIN = "undefined: within the spread"
COMPLETE = [
    *l1("full", 1, [0.10, 0.12]),
    *l1("full", 2, [0.12, 0.13]),
    *l1("pretranslated", 1, [0.14, 0.16]),
    *l1("pretranslated", 2, [0.20, 0.20]),
]


def test_share_is_the_mean_over_seeds(tmp_path):
    (family,) = families(grouped(tmp_path, COMPLETE), ["output/l1", "mask/mean"])
    (row,) = family.rows  # The mask's mean is only descriptive.
    assert (row.factor, row.metric) == (2, "output/l1")
    # (0.12 - 0.20) / (0.14 - 0.20) and (0.13 - 0.20) / (0.16 - 0.20); then to 0.10 and 0.12.
    first, second = 8 / 6, 7 / 4
    found = row.shares["pretranslated"].statistic
    assert found.mean == pytest.approx((first + second) / 2) and found.count == 2
    assert found.spread == pytest.approx(abs(first - second) / math.sqrt(2))
    assert row.shares["full"].statistic.mean == pytest.approx((8 / 10 + 7 / 8) / 2)
    assert row.whole["pretranslated"].mean == pytest.approx(0.15)
    assert row.cost_share == pytest.approx(cost(2)["macs"] / cost(1)["macs"])
    assert family.label == "" and family.without == ()


def test_pretranslated_only_may_differ_in_fields_it_ignores(tmp_path):
    made = [
        *(each for each in COMPLETE if each[0] == "full"),
        *l1("pretranslated", 1, [0.14, 0.16], losses__l1_warped=0.0),
        *l1("pretranslated", 2, [0.20, 0.20], losses__l1_warped=0.0),
    ]
    (family,) = families(grouped(tmp_path, made), ["output/l1"])
    assert family.without == ("losses.l1_warped",)
    assert family.rows[0].shares["pretranslated"].statistic is not None


def test_most_similar_reference_is_used(tmp_path):
    alike = l1("pretranslated", 2, [0.20, 0.20])
    made = [*l1("pretranslated", 2, [0.5, 0.5], losses__l1_warped=0.0), *COMPLETE[:-2], *alike]
    (family,) = families(grouped(tmp_path, made), ["output/l1"])
    assert family.rows[0].alone.mean == pytest.approx(0.20)


def test_families_differ_in_no_other_field(tmp_path):
    wider = [(*each[:4], {"generator__width": 48}) for each in COMPLETE[:-2]]
    alone = [(*each[:4], {"generator__width": 64}) for each in COMPLETE[-2:]]
    assert families(grouped(tmp_path / "a", [*wider, *alone]), ["output/l1"]) == []
    complete = [(*each[:4], {"generator__width": 48}) for each in COMPLETE]
    found = families(grouped(tmp_path / "b", [*COMPLETE, *complete]), ["output/l1"])
    assert [family.label for family in found] == ["width 24", "width 48"]


def test_missing_reference_is_the_reason_for_no_share(tmp_path):
    made = [each for each in COMPLETE if each[:2] != ("pretranslated", 1)]
    (family,) = families(grouped(tmp_path, made), ["output/l1"])
    (row,) = family.rows
    assert row.whole["pretranslated"] is None
    assert row.shares["pretranslated"].statistic is None
    assert row.shares["pretranslated"].reason == "not run at factor 1"
    assert row.shares["full"].statistic is not None


def test_runs_without_scores_are_skipped(tmp_path):
    made = [*COMPLETE[:-2], ("pretranslated", 2, 0, None, {})]
    assert families(grouped(tmp_path, made), ["output/l1"]) == []


def test_cost_share_falls_back_to_the_evaluation(tmp_path):
    made = [each for each in COMPLETE if each[:2] != ("full", 1)]
    (family,) = families(grouped(tmp_path, made), ["output/l1"])
    assert family.rows[0].cost_share == pytest.approx(cost(2)["share"])


def test_costs_of_different_sizes_are_not_divided(tmp_path):
    groups = grouped(tmp_path, COMPLETE)
    whole = groups[0].runs[0].folder
    other = {"macs": 1.0, "share": 1.0, "size": [128, 128]}
    write_evaluation(whole, {"output/l1": 0.1}, cost=other)
    again = comparison.groups(runs.read([run.folder for group in groups for run in group.runs]))
    (family,) = families(again, ["output/l1"])
    assert family.rows[0].cost_share == pytest.approx(cost(2)["share"])


@pytest.mark.parametrize(
    ("this", "alone", "whole", "mean", "reason"),
    [
        ({0: 0.1}, {0: 0.2}, {0: 0.2}, None, "undefined: nothing to recover"),
        # Differences of 0.01 and -0.02, which are less than their spread.
        ({0: 0.1, 1: 0.1}, {0: 0.2, 1: 0.2}, {0: 0.21, 1: 0.18}, None, WITHIN),
        # Differences of 0.1, which have no spread.
        ({0: 0.1, 1: 0.1}, {0: 0.2, 1: 0.3}, {0: 0.1, 1: 0.2}, 1.5, ""),
        # Seeds that are not common to all three are ignored.
        ({0: 0.12, 1: 9, 3: 9}, {0: 0.2, 2: 0.2, 3: 0.2}, {0: 0.1, 1: 0.1}, 0.8, ""),
        # Without a common seed, means are compared.
        ({0: 0.1, 1: 0.2}, {2: 0.3, 3: 0.3}, {4: 0.1}, 0.75, "of means: no common seed"),
        ({0: 0.1}, {2: 0.2, 3: 0.4}, {4: 0.2}, None, WITHIN),
        ({0: math.nan}, {0: 0.2}, {0: 0.1}, None, "a score is not finite"),
        ({0: 0.1}, {0: 0.2}, {0: 0.3}, -1.0, "full resolution is worse"),
    ],
)
def test_share_is_defined_beyond_the_spread(this, alone, whole, mean, reason):
    found = share("output/l1", this, alone, whole)
    assert found.reason == reason
    assert (found.statistic and found.statistic.mean) == (mean and pytest.approx(mean))


def test_share_respects_the_direction_and_uses_raw_values():
    assert share("output/psnr", {0: 1.0}, {0: 2.0}, {0: 3.0}).reason == ""
    found = share("output/sharpness", {0: 1.1}, {0: 0.6}, {0: 1.0})
    assert found.statistic.mean == pytest.approx(0.5 / 0.4) and found.reason == ""
