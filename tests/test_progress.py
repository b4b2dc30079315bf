import numpy as np
import pytest

from warp_translate.progress import Headway


def run(seconds, sizes, total, processes=1):
    """Measures batches that take so many seconds each; what was said."""
    now, said = 0.0, []
    headway = Headway(total, said.append, processes=processes, clock=lambda: now)
    for _ in headway.through({"image": np.zeros(size)} for size in sizes):
        now += seconds
    return said


def test_what_is_done_within_some_seconds_is_not_spoken_of():
    assert run(0.1, [10] * 40, 400) == []


def test_the_rate_and_the_time_left_do_not_count_the_first_batch():
    said = run(4.0, [8] * 10, 80)
    assert said[0] == "measured 16 of 80 images, 2 images/s, 0:00:32 left"
    assert len(said) == 3  # Ten seconds apart.


def test_that_it_compiles_is_said_once_and_first():
    said = []
    headway = Headway(6, said.append, compiles=True)
    for _ in range(2):
        for _ in headway.through([{"image": np.zeros(3)}]):
            assert said == ["compiling; 6 images are to be measured"]


@pytest.mark.parametrize("processes", [2, 4])
def test_all_processes_count_alike_and_never_beyond_the_end(processes):
    said = run(20.0, [8, 8, 8], 24 * processes - 3, processes)
    assert said[0].startswith(f"measured {16 * processes} of {24 * processes - 3} images")
    assert said[-1].endswith("0:00:00 left")
