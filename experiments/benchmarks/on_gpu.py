"""All benchmarks that need an NVIDIA GPU, in one command of ten minutes.

    python -m experiments.benchmarks.on_gpu --folder=FOLDER

Every part is a process with a time limit and writes one file to the folder; a part that fails or
takes too long does not stop the others. ``summary.md`` holds the tables of all parts.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Part:
    """A benchmark with its flags, the flags of a rehearsal, and seconds that it may take."""

    program: str
    flags: tuple[str, ...]
    tiny: tuple[str, ...]
    seconds: int
    xla_flags: str = ""


_TRANSLATION = (
    "--config=experiments/paired.py",
    "--config.method.factor=8",
    "--config.generator.dtype=bfloat16",
)
_TINY_TRANSLATION = ("--translate=64x64", "--repeats=2")
_TINY_TRAINING = (
    *("--any_device", "--size=64", "--batch=2", "--width=8", "--blocks=1", "--steps=4"),
    *("--repeats=2", "--nocompile"),
)
PARTS = {
    "warp": Part(
        "warp_gpu",
        ("--shapes=1x2160x3840,8x256x256,16x1024x1024", "--repeats=5"),
        ("--any_device", "--shapes=2x24x32", "--translation=", "--turn=0.001", "--repeats=2"),
        150,
    ),
    "translation": Part(
        "operations", (*_TRANSLATION, "--translate=2160x3840"), _TINY_TRANSLATION, 70
    ),
    "command_buffers": Part(
        "operations",
        (*_TRANSLATION, "--translate=2160x3840"),
        _TINY_TRANSLATION,
        70,
        "--xla_gpu_enable_command_buffer=+CONVOLUTION",
    ),
    "training_8": Part("training_peers", ("--kinds=paired", "--repeats=5"), _TINY_TRAINING, 140),
    "training_64": Part(
        "training_peers", ("--kinds=paired", "--batch=64", "--repeats=3"), _TINY_TRAINING, 140
    ),
}
"""By name, the most important first."""


def main() -> None:
    """Runs the parts."""
    parser = argparse.ArgumentParser(description="All benchmarks that need an NVIDIA GPU.")
    parser.add_argument("--folder", required=True, help="folder for the tables")
    parser.add_argument(
        "--only", action="append", choices=PARTS, help="part to run; all if omitted"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes on any device, to test")
    words = parser.parse_args()
    parts = {name: PARTS[name] for name in words.only or PARTS}
    run_all(parts, Path(words.folder), tiny=words.tiny)


def run_all(parts: Mapping[str, Part], folder: Path, *, tiny: bool = False) -> None:
    """Runs parts, and writes their tables and the summary to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = []
    for name, part in parts.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        begin = time.monotonic()
        status, printed = _run(part, folder / f"{name}.json", tiny)
        line = f"{name}: {status} after {time.monotonic() - begin:.0f} s"
        print(line, file=sys.stderr, flush=True)
        summary += [f"## {line}", "```", *printed.splitlines()[-60:], "```", ""]
        (folder / "summary.md").write_text("\n".join(summary))


def _run(part: Part, output: Path, tiny: bool) -> tuple[str, str]:
    """Returns how the part ended, and its output."""
    words = [*part.flags, *(part.tiny if tiny else ())]
    environment = dict(os.environ)
    if part.xla_flags and not tiny:
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {part.xla_flags}".strip()
    command = [sys.executable, "-m", f"experiments.benchmarks.{part.program}"]
    try:
        done = subprocess.run(
            [*command, *words, f"--output={output}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=part.seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        # Bytes even of a text stream.
        return "stopped", (error.stdout or b"").decode(errors="replace")
    return ("done" if done.returncode == 0 else f"failed ({done.returncode})"), done.stdout


if __name__ == "__main__":
    main()
