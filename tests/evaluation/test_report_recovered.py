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


def test_share_is_undefined_within_the_spread():
    assert (
        share("output/l1", {0: 0.1}, {0: 0.2}, {0: 0.2}).reason == "undefined: nothing to recover"
    )
    # Differences of 0.01 and -0.02, which are less than their spread.
    found = share("output/l1", {0: 0.1, 1: 0.1}, {0: 0.20, 1: 0.20}, {0: 0.21, 1: 0.18})
    assert found.statistic is None and found.reason == "undefined: within the spread"
    # 0.1 and 0.1 apart, and so without any spread.
    found = share("output/l1", {0: 0.1, 1: 0.1}, {0: 0.2, 1: 0.3}, {0: 0.1, 1: 0.2})
    assert found.statistic.mean == pytest.approx(1.5) and found.reason == ""


def test_share_uses_common_seeds():
    this, alone, whole = {0: 0.12, 1: 9, 3: 9}, {0: 0.20, 2: 0.2, 3: 0.2}, {0: 0.10, 1: 0.1}
    found = share("output/l1", this, alone, whole)
    assert found.statistic.count == 1 and found.statistic.mean == pytest.approx(0.8)


def test_share_without_a_common_seed_uses_means():
    found = share("output/l1", {0: 0.1, 1: 0.2}, {2: 0.3, 3: 0.3}, {4: 0.1})
    assert found.statistic.mean == pytest.approx(0.15 / 0.2) and found.statistic.spread is None
    assert found.reason == "of means: no common seed"
    found = share("output/l1", {0: 0.1}, {2: 0.2, 3: 0.4}, {4: 0.2})
    assert found.reason == "undefined: within the spread"


def test_share_notes_nan_and_worse_full_resolution():
    found = share("output/l1", {0: math.nan}, {0: 0.2}, {0: 0.1})
    assert found.statistic is None and found.reason == "a score is not finite"
    found = share("output/l1", {0: 0.1}, {0: 0.2}, {0: 0.3})
    assert found.statistic.mean == pytest.approx(-1.0)
    assert found.reason == "full resolution is worse"
    assert share("output/psnr", {0: 1.0}, {0: 2.0}, {0: 3.0}).reason == ""


def test_share_uses_raw_values_where_one_is_best():
    found = share("output/sharpness", {0: 1.1}, {0: 0.6}, {0: 1.0})
    assert found.statistic.mean == pytest.approx(0.5 / 0.4) and found.reason == ""
