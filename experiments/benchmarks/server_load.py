"""Many clients at once, pictures of mixed sizes: what a server answers, how fast, in what memory.

    python -m experiments.benchmarks.server_load --bundle=bundles/man-woman

Starts `warp-translate serve` twice, with and without putting requests together, and asks it from as
many threads. Every answer is compared with the translation of that very picture, made beforehand;
503 is counted and asked again after a moment. Memory is the server's resident set, sampled.

    python -m experiments.benchmarks.server_load --bundle=bundles/man-woman --clients=8 --minutes=10

asks one server for so long, with pictures of up to 2 MP among them, and tells its memory by the
minute.
    python -m experiments.benchmarks.server_load --bundle=bundles/man-woman --together=8 \
      --sizes=64x64,256x256,480x640,1080x1920 --checkouts=../before,. --rounds=3

compares the servers of two checkouts, in turns.
"""

import contextlib
import dataclasses
import http.client
import io
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from PIL import Image

from experiments.benchmarks import measure
from warp_translate.serving import bundle as bundles
from warp_translate.serving import engine as engines

_BUNDLE = flags.DEFINE_string("bundle", None, "The bundle.", required=True)
_CLIENTS = flags.DEFINE_integer("clients", 64, "Clients at once.")
_SECONDS = flags.DEFINE_float("seconds", 60.0, "How long each server is asked.")
_FACTOR = flags.DEFINE_integer("factor", 4, "Factor of all requests.")
_TOGETHER = flags.DEFINE_list("together", ["8", "1"], "Most images translated at once.")
_MINUTES = flags.DEFINE_integer("minutes", 0, "How long one server is asked instead, if above 0.")
_SIZES = flags.DEFINE_list(
    "sizes",
    ["64x64", "60x63", "96x128", "100x77", "256x256", "250x249", "256x384", "480x640"],
    "Heights and widths of the pictures.",
)
_CHECKOUTS = flags.DEFINE_list("checkouts", ["."], "Where the servers' code lies.")
_ROUNDS = flags.DEFINE_integer("rounds", 1, "How often each server is asked, in turns.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the table.")

_LARGE = ["1080x1920", "1000x1500", "900x1201"]


@dataclasses.dataclass(frozen=True)
class _Case:
    data: bytes
    expected: np.ndarray


@dataclasses.dataclass
class _Found:
    statuses: Counter[int] = dataclasses.field(default_factory=Counter)
    wrong: int = 0
    pixels: int = 0
    lost: int = 0
    seconds: list[float] = dataclasses.field(default_factory=list)


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"flags only, got {argv[1:]}")
    opened = bundles.read(_BUNDLE.value)
    cases = _cases(engines.open_engine(opened))
    if _MINUTES.value:
        rows = _minutes(int(_TOGETHER.value[0]), opened, cases)
    else:
        rows = [
            _row(checkout, int(together), opened, cases)
            for _ in range(_ROUNDS.value)
            for checkout in _CHECKOUTS.value
            for together in _TOGETHER.value
        ]
    seconds = 60 * _MINUTES.value or _SECONDS.value
    about = measure.environment("onnxruntime", clients=_CLIENTS.value, seconds=seconds)
    measure.publish(about, rows, _OUTPUT.value)


def _cases(engine: engines.Engine) -> list[_Case]:
    made = []
    chance = np.random.default_rng(0)
    for size in _SIZES.value * 2 + (_LARGE if _MINUTES.value else []):
        height, width = map(int, size.split("x"))
        # Smooth, like photographs, so that decoding costs what it costs with them.
        small = chance.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        expected = engine.translate(np.asarray(picture)[None], _FACTOR.value).output[0]
        made.append(_Case(buffer.getvalue(), expected))
    return made


@contextlib.contextmanager
def _served(checkout: str, together: int, opened: bundles.Bundle) -> Iterator[tuple[int, int]]:
    """The port and the process of a server."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(opened.folder, Path(folder) / opened.name)
        process = subprocess.Popen(
            [
                *[sys.executable, "-m", "warp_translate.cli.main", "serve", folder, "--port=0"],
                f"--batch={together}",
            ],
            cwd=checkout,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            port = _port(process)
            # What it logs must not fill the pipe.
            assert process.stderr is not None
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield port, process.pid
        finally:
            process.terminate()
            process.wait(60)


def _row(
    checkout: str, together: int, opened: bundles.Bundle, cases: Sequence[_Case]
) -> dict[str, Any]:
    with _served(checkout, together, opened) as (port, pid):
        row = {"checkout": checkout, "together": together, **_ask(port, pid, cases)}
    print(row, flush=True)
    return row


def _minutes(together: int, opened: bundles.Bundle, cases: Sequence[_Case]) -> list[dict[str, Any]]:
    """A row for each minute, printed when it is over."""
    rows = []
    with _served(".", together, opened) as (port, pid):
        begin = time.monotonic()
        found, threads = _start(port, cases, begin + 60 * _MINUTES.value)
        for minute in range(1, _MINUTES.value + 1):
            memory = []
            while time.monotonic() < begin + 60 * minute:
                memory.append(_resident(pid))
                time.sleep(0.5)
            row = {
                "minute": minute,
                "200": found.statuses[200],
                "not 200": sum(found.statuses.values()) - found.statuses[200],
                "wrong": found.wrong,
                "lost": found.lost,
                "MiB": statistics.median(memory),
                "MiB, peak": max(memory),
            }
            print(*(f"{name} {value:.0f}" for name, value in row.items()), sep=", ", flush=True)
            rows.append(row)
        for thread in threads:
            thread.join()
    return rows


def _port(process: "subprocess.Popen[str]") -> int:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"listening on http://\S+:(\d+),", line):
            return int(found[1])
    raise RuntimeError("the server did not start")


def _start(port: int, cases: Sequence[_Case], end: float) -> tuple[_Found, list[threading.Thread]]:
    """The clients, and what they will have found."""
    found, lock = _Found(), threading.Lock()
    threads = [
        threading.Thread(target=_client, args=(port, cases, end, random.Random(seed), found, lock))
        for seed in range(_CLIENTS.value)
    ]
    for thread in threads:
        thread.start()
    return found, threads


def _ask(port: int, pid: int, cases: Sequence[_Case]) -> dict[str, Any]:
    memory = []
    begin, before = time.monotonic(), _cpu_seconds(pid)
    found, threads = _start(port, cases, begin + _SECONDS.value)
    while any(thread.is_alive() for thread in threads):
        memory.append(_resident(pid))
        time.sleep(0.5)
    seconds = time.monotonic() - begin
    third = len(memory) // 3
    return {
        "200": found.statuses[200],
        "503": found.statuses[503],
        "other": sum(found.statuses.values()) - found.statuses[200] - found.statuses[503],
        "wrong": found.wrong,
        "lost": found.lost,
        "images/s": found.statuses[200] / seconds,
        "megapixels/s": 1e-6 * found.pixels / seconds,
        # What others take of the machine matters less to it.
        "CPU s/megapixel": 1e6 * (_cpu_seconds(pid) - before) / max(1, found.pixels),
        "median ms": 1000 * statistics.median(found.seconds),
        "90 % ms": 1000 * float(np.percentile(found.seconds, 90)),
        "MiB, 2nd third": statistics.median(memory[third : 2 * third]),
        "MiB, last third": statistics.median(memory[2 * third :]),
        "MiB, peak": max(memory),
    }


def _client(
    port: int,
    cases: Sequence[_Case],
    end: float,
    chance: random.Random,
    found: _Found,
    lock: threading.Lock,
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    while time.monotonic() < end:
        case = chance.choice(cases)
        begin = time.monotonic()
        try:
            connection.request("POST", f"/v1/translate?factor={_FACTOR.value}", case.data)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            with lock:
                found.lost += 1
            connection.close()
            continue
        spent = time.monotonic() - begin
        wrong = False
        if answer.status == 200:
            output = np.asarray(Image.open(io.BytesIO(body))).astype(np.int16)
            wrong = output.shape != case.expected.shape or np.abs(output - case.expected).max() > 1
        with lock:
            found.statuses[answer.status] += 1
            found.wrong += bool(wrong)
            if answer.status == 200:
                found.seconds.append(spent)
                found.pixels += case.expected.shape[0] * case.expected.shape[1]
        if answer.status == 503:
            time.sleep(0.2)
    connection.close()


def _cpu_seconds(pid: int) -> float:
    """Seconds that a process has computed, on all cores."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float:
    """Resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    app.run(main)
