import json

import numpy as np
import pytest

from experiments.benchmarks import measure, peak_memory

MIB = 2**20


@pytest.fixture
def clock(monkeypatch):
    """A list of seconds whose sum is the time."""
    passed = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: sum(passed))
    return passed


def test_functions_alternate_and_the_first_round_is_not_timed():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = measure.interleave(functions, 2)
    assert calls == ["a", "b"] * 3
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


def test_slow_functions_take_part_in_fewer_rounds_but_in_one(clock, capsys):
    costs = {"fast": 0.01, "slow": 2.0, "slowest": 7.0}
    functions = {name: lambda cost=cost: clock.append(cost) for name, cost in costs.items()}
    seconds = measure.interleave(functions, 5, most_seconds=5.0, title="a size")
    assert {name: len(times) for name, times in seconds.items()} == {
        **{"fast": 5, "slow": 2, "slowest": 1},
    }
    assert "a size: round 5 of 5" in capsys.readouterr().err


def test_short_functions_are_repeated_and_timed_per_call(clock):
    seconds = measure.interleave({"a": lambda: clock.append(0.01)}, 2, round_seconds=0.1)
    assert seconds["a"] == pytest.approx([0.01, 0.01])
    assert len(clock) == 1 + 1 + 3 + 2 * 10


def test_ratios_use_the_rounds_of_both():
    assert measure.ratio([2.0, 4.0, 8.0], [1.0]) == (2.0, 2.0, 2.0)
    assert measure.ratio([1.0, 2.0, 3.0, 50.0], [1.0, 1.0, 1.0])[0] == 2.0


@pytest.mark.parametrize(
    ("found", "at_least", "end"),
    [
        *((0.9, False, "0.9, met"), (1.1, False, "1.1, not met"), (None, False, "not measured")),
        *((0.9, True, "0.9, not met"), (1.0, True, "1, met")),
    ],
)
def test_goals_are_met_or_not(found, at_least, end):
    line = measure.goal("something", found, 1.0, at_least=at_least)
    assert line.endswith(f": {end}") and ("at least 1" in line) == at_least


def test_tables_are_printed_and_saved(tmp_path, capsys):
    path = tmp_path / "table.json"
    rows = [{"a": None, "b": (1.0, 0.5, 2.0)}]
    measure.publish({}, measure.Table(rows, goals=["goal: met"], violations=["lost"]), str(path))
    assert capsys.readouterr().out.splitlines()[1:] == [
        *("a                     b", "-  1.000 (0.500..2.000)", "goal: met", "lost"),
    ]
    assert json.loads(path.read_text())["goals"] == ["goal: met"]
    measure.publish({}, measure.Table([], goals=["goal: not measured"]), None)
    assert capsys.readouterr().out.splitlines() == ["{}", "goal: not measured"]


def test_peak_memory_is_that_of_the_second_call():
    kept = []

    def run():
        if not kept:
            kept.append(np.ones(32 * MIB, np.uint8))
            np.ones(300 * MIB, np.uint8)  # Like compilation: only once, so not counted.
        return np.ones(64 * MIB, np.uint8).sum()

    # 32 and 64 MiB; other threads of the process may free or take some.
    assert 80 * MIB < peak_memory.of_calls(run) < 112 * MIB


def test_peak_memory_of_a_process(tmp_path, monkeypatch):
    (tmp_path / "hungry.py").write_text(
        "import time\n"
        "def make(mib, seconds):\n"
        "    def run():\n"
        "        held = b'x' * (mib << 20)\n"
        "        time.sleep(seconds)\n"
        "    return run\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{peak_memory.__file__.rsplit('/', 3)[0]}")

    def growth(mib, seconds=0.0):
        arguments = {"mib": mib, "seconds": seconds}
        return peak_memory.growth("hungry:make", arguments, most_bytes=800 * MIB)

    assert 49 * MIB < growth(50) < 58 * MIB
    assert growth(900, 60.0) is None  # Killed.
    with pytest.raises(RuntimeError, match="exited with status"):
        growth("many")


def test_a_loop_s_own_time_excludes_its_body():
    def event(name, start, microseconds, thread=1):
        times = {"ts": start, "dur": microseconds}
        return {"ph": "X", "pid": 7, "tid": thread, **times, "args": {"hlo_op": name}}

    found = measure.own_milliseconds(
        [
            {},  # The last one is empty.
            {"ph": "M", "pid": 7},
            {"ph": "X", "pid": 7, "tid": 1, "ts": 0, "dur": 9000},  # The call of the program.
            event("inner", 5000, 1000),
            event("while", 0, 10_000),
            event("body", 1000, 3000),
            event("body", 5000, 4000),
            event("other", 2000, 6000, thread=2),
            event("after", 10_000, 2000),
        ]
    )
    expected = {"while": 3.0, "body": 6.0, "inner": 1.0, "other": 6.0, "after": 2.0}
    assert found == pytest.approx(expected)
