"""``warp-translate device``: what this machine is, and which factor a bundle takes on it.

The bundle is timed once for this machine and this build; what serves it later uses the same times.
``--sizes`` are 256x256, 512x512, 1080x1920 and 2160x3840 by default.
"""

import sys
from collections.abc import Sequence

from absl import flags

from warp_translate.cli import bundle_flags, case_flags, program
from warp_translate.errors import UserError
from warp_translate.serving import bundle, latency_model

_ANEW = flags.DEFINE_bool("recalibrate", False, "Time the bundle even if it was timed before.")
_ESTIMATE = flags.DEFINE_bool("estimate", False, "Time nothing: guess from cores and frequency.")

_SIZES = ((256, 256), (512, 512), (1080, 1920), (2160, 3840))


def main(argv: Sequence[str]) -> None:
    """Prints the device, the times, and the choices."""
    if len(argv) > 1:
        raise UserError(f"device takes flags only, got {' '.join(argv[1:])!r}")
    budget = bundle_flags.budget_milliseconds()
    sizes = case_flags.sizes(*_SIZES)
    found = latency_model.find_device()
    rate = f"{found.megahertz:.0f} MHz" if found.megahertz else "unknown frequency"
    print(f"{found.cpu}, {found.cores} core{'s' * (found.cores > 1)} to use, {rate}")
    if bundle_flags.BUNDLE.value is None:
        for flag in (_ANEW, _ESTIMATE):
            if flag.value:
                raise UserError(f"--{flag.name} is about a bundle: give --bundle=FOLDER as well")
        return
    if _ANEW.value and _ESTIMATE.value:
        raise UserError("--recalibrate times the bundle and --estimate does not: give one of them")
    opened = bundle_flags.read_bundle()
    model = _model(found, opened)
    for height, width, factor, median, high in model.measured:
        print(
            f"  {height} x {width}, factor {factor}: median {median:.1f} ms, 90 % within "
            f"{high:.1f} ms, the model says {model.milliseconds(height, width, factor):.1f}"
        )
    print(f"for {budget:g} ms ({'measured' if model.measured else 'estimated'}):")
    chooser = latency_model.FactorChooser(model, opened.factors, budget)
    for height, width in sizes:
        choice = chooser.choose(height, width)
        miss = "" if choice.meets else ", too long with every factor"
        print(f"  {height} x {width}: factor {choice.factor}, {choice.milliseconds:.0f} ms{miss}")


def _model(found: latency_model.Device, opened: bundle.Bundle) -> latency_model.LatencyModel:
    if _ESTIMATE.value:
        return latency_model.estimate(found, opened.architecture)
    ready = bundle_flags.open_engine(opened)
    path = latency_model.cache_path(found, opened, type(ready).__name__)
    model = None if _ANEW.value else latency_model.load(path)
    if model is None:
        model = latency_model.calibrate(ready, note=lambda line: print(line, file=sys.stderr))
        if not latency_model.save(path, model):
            print(f"{path} cannot be written: it is timed again next time", file=sys.stderr)
    return model


def run() -> None:
    """Entry point of the command."""
    program.run(
        main,
        takes=(bundle_flags.BUNDLE, bundle_flags.ENGINE, bundle_flags.BUDGET, case_flags.SIZES),
    )


if __name__ == "__main__":
    run()
