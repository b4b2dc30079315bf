"""``warp-translate train`` that sends itself a signal at a given step.

``INTERRUPT=KILL:10:0.2`` in the environment sends SIGKILL 0.2 s after the save of step 10 begins,
``TERM:10:0`` sends SIGTERM at once. Before a KILL the process waits at its fourth later save, so
that it never finishes, on any machine.
"""

import os
import signal
import threading

from warp_translate.cli import program, train
from warp_translate.experiment import build
from warp_translate.training.checkpoint import Checkpointer


def _arm(name: str, at_step: int, delay: float) -> None:
    number = signal.Signals[f"SIG{name}"]
    save = Checkpointer.save
    saved = 0

    def interrupted_save(self, step, state, metrics=None):
        nonlocal saved
        saved += step > at_step
        if number == signal.SIGKILL and saved > 3:
            threading.Event().wait()
        save(self, step, state, metrics)  # Returns when the previous save is complete.
        if step == at_step:
            threading.Timer(delay, os.kill, (os.getpid(), number)).start()

    Checkpointer.save = interrupted_save


if __name__ == "__main__":
    if "INTERRUPT" in os.environ:
        name, step, seconds = os.environ["INTERRUPT"].split(":")
        _arm(name, int(step), float(seconds))
    build.step_flops = lambda *_: None  # It traces the step once more.
    program.run(train.main, train.COMMAND)
