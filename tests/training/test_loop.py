import itertools

import numpy as np
import pytest

from warp_translate.errors import Preempted, UserError
from warp_translate.training import loop
from warp_translate.training.logging import NullLogger
from warp_translate.training.progress import Progress
from warp_translate.training.throughput import StepClock


class Recorder:
    """Callables for the loop that write down what was called with what."""

    def __init__(self, metrics=None):
        self.events = []
        self.metrics = metrics or (lambda step: {"loss": 1.0})

    def batches(self, start):
        for number in itertools.count(start):
            self.events.append(("fetch", number))
            yield {"number": number}

    def step(self, state, batches):
        self.events.extend(("step", batch["number"]) for batch in batches)
        return state + len(batches), {
            name: np.float32(x) for name, x in self.metrics(state + len(batches)).items()
        }

    def evaluate(self, state):
        self.events.append(("evaluate", state))
        return loop.Evaluation({"l1": float(state)}, {})

    def save(self, step, state, scalars):
        self.events.append(("save", step, scalars))

    def kept(self):
        steps = [event[1] for event in self.events if event[0] == "save"]
        return steps[-1] if steps else None

    def run(self, schedule, start=0, **callables):
        return loop.run(
            start,
            start_step=start,
            schedule=schedule,
            step=self.step,
            batches=self.batches(start),
            evaluate=self.evaluate,
            save=self.save,
            kept=self.kept,
            logger=NullLogger(),
            progress=Progress(schedule.total_steps, start, batch_size=1, stream=None),
            clock=StepClock(1),
            **callables,
        )


def test_evaluates_then_saves_then_fetches_then_steps():
    recorder = Recorder()
    assert recorder.run(loop.Schedule(3, 1, 2, 2)) == 3
    assert recorder.events == [
        ("fetch", 0),
        ("step", 0),
        ("fetch", 1),
        ("step", 1),
        ("evaluate", 2),
        ("save", 2, {"l1": 2.0}),
        ("fetch", 2),
        ("step", 2),
        ("evaluate", 3),
        ("save", 3, {"l1": 3.0}),
    ]


def test_a_resumed_run_does_only_what_was_left():
    whole, rest = Recorder(), Recorder()
    whole.run(loop.Schedule(4, 1, 2, 2))
    rest.run(loop.Schedule(4, 1, 2, 2), start=2)
    assert rest.events == whole.events[6:]
    assert rest.events[0] == ("fetch", 2)


def test_a_finished_run_does_nothing():
    recorder = Recorder()
    assert recorder.run(loop.Schedule(4, 1, 2, 2), start=4) == 4
    assert recorder.events == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_stops_before_the_state_is_saved(value):
    recorder = Recorder(lambda step: {"loss": value if step == 4 else 1.0, "fine": 0.0})
    with pytest.raises(
        loop.TrainingDiverged, match=r"by step 4: loss is .*last checkpoint is step 2"
    ):
        recorder.run(loop.Schedule(10, 100, 100, 2))
    assert [event for event in recorder.events if event[0] == "save"] == [("save", 2, None)]


def test_intervals_below_one_are_refused():
    with pytest.raises(UserError, match=r"config.training.save_every is 0"):
        loop.Schedule(10, 1, 1, 0)


def test_several_steps_of_a_call_take_as_many_batches_at_once():
    recorder = Recorder()
    assert recorder.run(loop.Schedule(4, 2, 4, 4, steps_per_call=2)) == 4
    assert recorder.events == [
        *[("fetch", 0), ("fetch", 1), ("step", 0), ("step", 1)],
        *[("fetch", 2), ("fetch", 3), ("step", 2), ("step", 3)],
        *[("evaluate", 4), ("save", 4, {"l1": 4.0})],
    ]


def test_intervals_that_a_call_does_not_divide_are_refused():
    with pytest.raises(UserError, match=r"save_every 5 must be a multiple of .*steps_per_call 2"):
        loop.Schedule(10, 2, 2, 5, steps_per_call=2)


def test_asked_to_leave_it_saves_that_very_step_without_an_evaluation():
    recorder, asked = Recorder(), []

    def leave(calls):
        asked.append(calls)
        return calls == 3

    with pytest.raises(Preempted) as caught:
        recorder.run(loop.Schedule(10, 10, 3, 10), leave=leave)
    assert caught.value.step == 3 and asked == [1, 2, 3]
    assert recorder.events[-2:] == [("step", 2), ("save", 3, None)]
    rest = Recorder()
    rest.run(loop.Schedule(10, 10, 3, 10), start=3)
    assert rest.events[0] == ("fetch", 3)


def test_asked_to_leave_a_lost_state_is_not_saved():
    recorder = Recorder(lambda step: {"loss": float("nan")})
    with pytest.raises(loop.TrainingDiverged, match="by step 1"):
        recorder.run(loop.Schedule(10, 10, 10, 10), leave=lambda calls: True)
    assert not [event for event in recorder.events if event[0] == "save"]


def test_asked_to_leave_at_the_end_it_ends():
    recorder = Recorder()
    assert recorder.run(loop.Schedule(3, 1, 3, 3), leave=lambda calls: calls == 3) == 3
    assert recorder.events[-1] == ("save", 3, {"l1": 3.0})


def test_replicas_that_disagree_are_not_saved():
    recorder = Recorder()
    with pytest.raises(
        loop.ReplicasDisagree, match=r"by step 4 .* 2 arrays .*w first \(the last .* step 2\)"
    ):
        recorder.run(
            loop.Schedule(8, 8, 8, 2),
            disagreements=lambda state: ["w", "b"] if state == 4 else [],
        )
    assert [event for event in recorder.events if event[0] == "save"] == [("save", 2, None)]


def test_the_clock_stands_still_while_states_are_measured_and_saved():
    """Only what belongs to a step is in its time."""
    now = 0.0
    told = []

    class Told(NullLogger):
        def write_scalars(self, step, scalars):
            if "time/step_ms" in scalars:
                told.append((step, scalars["time/step_ms"], scalars["time/host_ms"]))

    def passing(seconds, result):
        nonlocal now
        now += seconds
        return result

    loop.run(
        0,
        start_step=0,
        schedule=loop.Schedule(4, 2, 1, 1),
        step=lambda state, batches: passing(2.0, (state + 1, {"loss": np.float32(1.0)})),
        batches=itertools.repeat({}),
        evaluate=lambda state: passing(100.0, loop.Evaluation({}, {})),
        save=lambda *_: passing(1000.0, None),
        kept=lambda: None,
        logger=Told(),
        progress=Progress(4, 0, batch_size=1, stream=None),
        clock=StepClock(1, clock=lambda: now),
    )
    assert [step for step, *_ in told] == [1, 2, 3, 4]
    assert all(step_ms == 2000.0 and host_ms == 0.0 for _, step_ms, host_ms in told)


def test_what_cannot_be_measured_is_saved_without_a_score():
    recorder = Recorder()
    recorder.evaluate = lambda state: None
    assert recorder.run(loop.Schedule(4, 4, 2, 2)) == 4
    assert [event for event in recorder.events if event[0] == "save"] == [
        ("save", 2, None),
        ("save", 4, None),
    ]


def test_further_counts_are_logged_and_shown_with_the_metrics():
    told = []

    class Told(NullLogger):
        def write_scalars(self, step, scalars):
            told.append((step, scalars.get("data/skipped"), scalars["loss"]))

    recorder = Recorder()
    loop.run(
        0,
        start_step=0,
        schedule=loop.Schedule(2, 1, 9, 9),
        step=recorder.step,
        batches=recorder.batches(0),
        evaluate=lambda state: None,
        save=recorder.save,
        kept=recorder.kept,
        logger=Told(),
        progress=Progress(2, 0, batch_size=1, stream=None),
        clock=StepClock(1),
        counts=lambda: {"data/skipped": float(len(told))},
    )
    assert told == [(1, 0.0, 1.0), (2, 1.0, 1.0)]


def test_only_steps_that_the_devices_have_finished_count(monkeypatch):
    """Here they finish one while two are handed to them; before metrics are read, all the rest."""
    handed, told = [], []

    class Told(Progress):
        def update(self, step, metrics=None):
            told.append((len(handed), step))

    def step(state, batches):
        handed.append(state + 1)
        return state + 1, {"number": np.float32(state + 1)}

    def is_finished(metrics):
        return metrics["number"] <= len(handed) / 2

    monkeypatch.setattr(loop, "_is_finished", is_finished)
    recorder = Recorder()
    loop.run(
        0,
        start_step=0,
        schedule=loop.Schedule(6, 6, 6, 6),
        step=step,
        batches=recorder.batches(0),
        evaluate=recorder.evaluate,
        save=recorder.save,
        kept=recorder.kept,
        logger=NullLogger(),
        progress=Told(6, stream=None),
        clock=StepClock(1),
    )
    assert told == [(2, 1), (4, 2), (6, 3), (6, 4), (6, 5), (6, 6)]
