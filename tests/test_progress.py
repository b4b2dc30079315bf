"""Progress on a fake clock."""

import fcntl
import io
import json
import math
import os
import struct
import termios

import numpy as np
import pytest

from warp_translate.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def started(total, start=0, *, stream, **more):
    clock = Clock()
    more = {"batch_size": 4, "clock": clock, "min_interval": 10.0} | more
    return Progress(total, start, stream=stream, **more), clock


def test_prints_first_and_last_and_some_lines_between():
    out = io.StringIO()
    progress, clock = started(40, stream=out, metric_names=("d", "g", "later"))
    clock.now += 60  # Compilation and the first step.
    for step in range(1, 41):
        progress.update(step, {"g": step / 8, "d": 1234.5, "unseen": 0.0})
        clock.now += 2
    progress.close()
    assert out.getvalue().splitlines() == [
        "1/40 (2.5%)  rate not known yet  d 1234  g 0.125",
        "6/40 (15.0%)  0.5 steps/s  2 images/s  0:01:08 left  d 1234  g 0.75",
        "11/40 (27.5%)  0.5 steps/s  2 images/s  0:00:58 left  d 1234  g 1.38",
        "16/40 (40.0%)  0.5 steps/s  2 images/s  0:00:48 left  d 1234  g 2",
        "21/40 (52.5%)  0.5 steps/s  2 images/s  0:00:38 left  d 1234  g 2.62",
        "26/40 (65.0%)  0.5 steps/s  2 images/s  0:00:28 left  d 1234  g 3.25",
        "31/40 (77.5%)  0.5 steps/s  2 images/s  0:00:18 left  d 1234  g 3.88",
        "36/40 (90.0%)  0.5 steps/s  2 images/s  0:00:08 left  d 1234  g 4.5",
        "40/40 (100.0%)  0.5 steps/s  2 images/s  0:00:00 left  d 1234  g 5",
        "40 steps done in 0:02:20",
    ]


def test_resumed_run_measures_only_its_own_steps():
    out = io.StringIO()
    progress, clock = started(100_000, 50_000, stream=out)
    for step in (50_001, 50_011):
        clock.now += 10
        progress.update(step)
    progress.close()
    assert out.getvalue().splitlines() == [
        "50001/100000 (50.0%)  rate not known yet",
        "50011/100000 (50.0%)  1 steps/s  4 images/s  13:53:09 left",
        "11 steps done in 0:00:20",
    ]


def test_pause_leaves_the_window():
    out = io.StringIO()
    progress, clock = started(1000, stream=out, min_interval=0.0)
    for step in range(1, 201):
        clock.now += 600 if step == 100 else 0.5
        progress.update(step)
    lines = out.getvalue().splitlines()
    assert "  2 steps/s" in lines[98] and "  2 steps/s" not in lines[99]
    assert "  2 steps/s  8 images/s  0:06:40 left" in lines[199]


def test_percentage_rounds_down_and_time_left_rounds_up():
    out = io.StringIO()
    progress, clock = started(10_000, stream=out, min_interval=0.0)
    progress.update(9_998)
    clock.now += 0.25
    progress.update(9_999)
    assert out.getvalue().splitlines()[1].startswith("9999/10000 (99.9%)  4 steps/s")
    assert "0:00:01 left" in out.getvalue()


def test_metrics_are_kept_until_replaced():
    out = io.StringIO()
    progress, clock = started(3, stream=out, metric_names=("a",), min_interval=0.0)
    for step, metrics in ((1, {"a": 1.0}), (2, None), (3, {"a": math.nan})):
        clock.now += 1
        progress.update(step, metrics)
    assert [line[-3:] for line in out.getvalue().splitlines()] == ["a 1", "a 1", "nan"]


@pytest.mark.parametrize(("total", "step"), [(0, 0), (10, 10), (10, 12)])
def test_zero_totals_and_intervals_do_not_divide_by_zero(total, step):
    out = io.StringIO()
    progress, _ = started(total, total, stream=out)
    progress.update(step)
    progress.update(step)  # Neither clock nor step has advanced.
    progress.close()
    progress.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == f"{step}/{total} (100.0%)  rate not known yet"
    assert lines[2:] == [f"{step - total} steps done in 0:00:00"]


def test_terminal_line_is_rewritten_and_padded():
    out = Terminal()
    progress, clock = started(1000, stream=out, metric_names=("a",))
    progress.update(1, {"a": -0.000123})
    clock.now += 0.05
    progress.update(2)  # Within the interval.
    clock.now += 0.075
    progress.update(3, {"a": 2})
    clock.now += 0.5
    progress.update(3)
    progress.close()
    assert out.getvalue() == (
        "\r1/1000 (0.1%)  rate not known yet  a -0.000123"
        "\r3/1000 (0.3%)  16 steps/s  64 images/s  0:01:03 left  a 2"
        "\r3/1000 (0.3%)  3.2 steps/s  12.8 images/s  0:05:12 left  a 2"
        "\n3 steps done in 0:00:01\n"
    )
    shorter = Terminal()
    progress, clock = started(10, stream=shorter, metric_names=("a",))
    progress.update(1, {"a": -0.000123})
    clock.now += 1
    progress.update(1, {"a": 1})
    first, second = shorter.getvalue().split("\r")[1:]
    assert second == "1/10 (10.0%)  rate not known yet  a 1".ljust(len(first))


@pytest.mark.parametrize(("columns", "kept"), [(30, 29), (0, 79)])
def test_line_is_cut_to_the_terminal_width(columns, kept):
    master, slave = os.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with open(slave, "w", closefd=False) as out:
            names = tuple(f"metric{i}" for i in range(20))
            progress, _ = started(100, stream=out, metric_names=names)
            progress.update(1, dict.fromkeys(names, 1.0))
            printed = os.read(master, 10_000).decode()
        assert printed[0] == "\r" and len(printed) == 1 + kept
    finally:
        os.close(master)
        os.close(slave)


def test_without_a_stream_nothing_is_read_or_printed(capfd):
    progress, _ = started(10, stream=None, metric_names=("a",))
    progress.update(1, {"a": "not a number"})
    progress.close()
    assert capfd.readouterr() == ("", "")


def test_json_lines_hold_the_same_values():
    out = Terminal()  # No line is rewritten even there.
    progress, clock = started(
        40, stream=out, metric_names=("g", "d"), format="json", wall_clock=lambda: 86400.5
    )
    progress.update(1, {"g": 0.5, "d": float("nan"), "unseen": 1.0})
    progress.say('said "so"')
    clock.now += 20
    progress.update(11)
    progress.close()
    progress.close()
    progress.say("afterwards")
    lines = [
        json.loads(line, parse_constant=pytest.fail) for line in out.getvalue().split("\n")[:-1]
    ]
    assert {line.pop("time") for line in lines} == {"1970-01-02T00:00:00.500+00:00"}
    rates = {"steps_per_second": 0.5, "images_per_second": 2.0, "seconds_left": 58.0}
    common = {"total_steps": 40, "metrics": {"g": 0.5, "d": None}}
    assert lines == [
        {"event": "progress", "step": 1, **dict.fromkeys(rates), **common},
        {"event": "message", "text": 'said "so"'},
        {"event": "progress", "step": 11, **rates, **common},
        {"event": "end", "steps_done": 11, "seconds": 20.0},
        {"event": "message", "text": "afterwards"},
    ]


@pytest.mark.parametrize(("total", "warned"), [(17_000, False), (1_000_000, True)])
def test_first_estimate_of_more_than_a_day_warns(total, warned):
    out = io.StringIO()
    progress, clock = started(total, stream=out, if_long="choose less")
    for step in range(1, 5):
        progress.update(step)
        clock.now += 5
    found = [line for line in out.getvalue().splitlines() if "warning" in line]
    assert found == ["warning: about 57.9 days are left at this rate; choose less"] * warned


def counted(seconds, sizes, total, processes=1):
    """Lines about batches that take ``seconds`` each."""
    now, lines = 0.0, []
    progress = Progress(
        total,
        stream=lines.append,
        verb="measured",
        noun="images",
        processes=processes,
        clock=lambda: now,
    )
    for _ in progress.through({"image": np.zeros(size)} for size in sizes):
        now += seconds
    return lines


def test_function_gets_no_line_in_the_first_seconds():
    assert counted(0.1, [10] * 40, 400) == []


def test_rate_of_batches_excludes_the_first():
    lines = counted(4.0, [8] * 10, 80)
    assert lines[0] == "measured 16/80 (20.0%)  2 images/s  0:00:32 left"
    assert len(lines) == 3  # Ten seconds apart.


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_are_counted_up_to_the_total(processes):
    total = 24 * processes - 3
    lines = counted(20.0, [8, 8, 8], total, processes)
    assert lines[1].startswith(f"measured {16 * processes}/{total} (")
    assert lines[-1].startswith(f"measured {total}/{total} (100.0%)")
    assert lines[-1].endswith("0:00:00 left")
