"""``warp-translate train`` that sends itself a signal at a chosen step, on however slow a machine.

With ``INTERRUPT=KILL:10:0.2`` in the environment it sends SIGKILL 0.2 s after the save of step 10
has begun, with ``TERM:10:0`` SIGTERM at once. A process that is to be killed waits for the signal
before its fourth later save, so that it never finishes.
"""

import os
import signal
import threading

from warp_translate.cli import train
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
    # Counting a step's operations traces it once more, and nobody looks at the rate here.
    train.build.step_flops = lambda *_: None
    train.run()
