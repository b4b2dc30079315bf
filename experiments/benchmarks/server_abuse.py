"""Hundreds of malformed and hostile requests: a server answers all of them and goes on as before.

    python -m experiments.benchmarks.server_abuse --bundles=bundles --count=700

Starts `warp-translate serve` in a folder of its own and sends what `abuse` makes over plain
sockets, a batch at a time, several at once. Every answer must come in time, be no server's error
but 503, and be JSON that says what is wrong, or a picture of the right size where the one that was
sent can be read. Between the batches a good request must be answered byte for byte as at first. At
the end the server must hold no more memory, files and threads than before; it may write nothing.

    python -m experiments.benchmarks.server_abuse --bundles=bundles --crowd=64 --most_memory=4

sends `abuse.crowds` to a server with its own limits instead: the same request from that many at
once. Every one must be answered, a small picture soon all the while, and the server must not hold
more memory than it may.
"""

import contextlib
import dataclasses
import http.client
import io
import json
import os
import random
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import app, flags
from PIL import Image, ImageOps

import warp_translate
from experiments.benchmarks import measure
from experiments.benchmarks.abuse import case as limits
from experiments.benchmarks.abuse.case import Case, encode
from experiments.benchmarks.abuse.crowds import crowds, small_picture
from experiments.benchmarks.abuse.pictures import Pictures, drawn
from experiments.benchmarks.abuse.requests import Requests

_BUNDLES = flags.DEFINE_string("bundles", None, "Folder of bundles.", required=True)
_IMAGES = flags.DEFINE_string("images", None, "Folder of JPEG files; drawn ones without it.")
_COUNT = flags.DEFINE_integer("count", 500, "Requests of a round, at least.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds of all kinds, by other chances.")
_SEED = flags.DEFINE_integer("seed", 0, "Of all that is left to chance.")
_BATCH = flags.DEFINE_integer("batch", 60, "Requests between two looks at the server.")
_CLIENTS = flags.DEFINE_integer("clients", 6, "Requests at once.")
_GROWTH = flags.DEFINE_float(
    "most_growth", 96.0, "MiB by which the last third may hold more than the second."
)
_TOGETHER = flags.DEFINE_integer("crowd", 0, "Requests at once that take much; 0 for the others.")
_ONLY = flags.DEFINE_string("only", "", "Of the crowds, those with this in their name.")
_MEMORY = flags.DEFINE_float("most_memory", 4.0, "GB that the server may take with a crowd.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the table.")

# More than the server's own limits by what a busy machine may need.
_ANSWER_SECONDS = 12.0
_SETTLE_SECONDS = 25.0
_CROWD_SECONDS, _SMALL_SECONDS = 200.0, 2.0
_CROWD = 300


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What came back; the status is None if nothing did, and 0 if the time was over."""

    status: int | None
    headers: dict[str, str]
    body: bytes
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Held:
    """What the server holds while nothing is asked."""

    mebibytes: float
    files: int
    threads: int


def main(argv: Sequence[str]) -> None:
    """Sends, prints and fails if anything was not as it must be."""
    if len(argv) > 1:
        raise app.UsageError(f"flags only, got {argv[1:]}")
    # What Pillow thinks of the files is for the server to bear.
    warnings.simplefilter("ignore")
    if _TOGETHER.value:
        options = [f"--most_memory={_MEMORY.value}"]
    else:
        options = [
            f"--most_seconds={limits.SECONDS}",
            f"--most_megabytes={limits.MEGABYTES}",
            f"--most_megapixels={limits.MEGAPIXELS}",
        ]
    with _Server(_BUNDLES.value, options) as server:
        rows, told, wrong = _crowds(server) if _TOGETHER.value else _abuse(server)
    about = measure.environment("onnxruntime", "uvicorn", "pillow", seed=_SEED.value, **told)
    measure.publish(about, rows, _OUTPUT.value)
    for line in wrong:
        print(line)
    if wrong:
        raise SystemExit(f"{len(wrong)} things were not as they must be")
    print("everything was as it must be")


class _Server:
    """A server in a folder of its own, its log and what it holds."""

    def __init__(self, bundles: str, options: Sequence[str]) -> None:
        self._options = options
        self._bundles = Path(bundles).resolve()
        self._folder = tempfile.TemporaryDirectory()
        self.log: list[str] = []

    def __enter__(self) -> "_Server":
        folder = Path(self._folder.name)
        for name in ("work", "tmp", "cache"):
            (folder / name).mkdir()
        package = Path(warp_translate.__file__).parents[1]
        self._process = subprocess.Popen(
            [
                *[sys.executable, "-m", "warp_translate.cli.main", "serve", str(self._bundles)],
                *["--port=0", *self._options],
            ],
            cwd=folder / "work",
            env=os.environ
            | {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
            | {"TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache")},
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"listening on http://\S+:(\d+),", line):
                self.port = int(found[1])
                break
        else:
            raise RuntimeError("the server did not start")
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        try:
            self.stopped = self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _read(self) -> None:
        assert self._process.stderr is not None
        self.log.extend(self._process.stderr)

    def _files(self) -> set[Path]:
        # ONNX Runtime has things of its own in the cache.
        places = (*(Path(self._folder.name) / name for name in ("work", "tmp")), self._bundles)
        return {path for place in places for path in place.rglob("*")}

    def look(self) -> None:
        """Takes note of the files that are there."""
        self._before = self._files()

    def written(self) -> list[str]:
        """Files that have come since the look at them."""
        return sorted(map(str, self._files() - self._before))

    def held(self) -> _Held:
        """What it holds now."""
        place = Path(f"/proc/{self._process.pid}")
        pages = int((place / "statm").read_text().split()[1])
        return _Held(
            pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            len(list((place / "fd").iterdir())),
            len(list((place / "task").iterdir())),
        )

    def reset_peak(self) -> None:
        """Has the most memory that it held counted from now on."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")  # See proc(5).

    def peak(self) -> float:
        """The most memory that it held, in MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 2**10

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """A request as it should be."""
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        ) as connection:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()


def _abuse(server: _Server) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """The table, figures of the server, and what is wrong."""
    pictures = _pictures()
    served = json.loads(server.ask("GET", "/v1/generators")[1])["generators"]
    leading = Counter(each["target"] for each in served)
    generator = next(each for each in served if leading[each["target"]] == 1)
    target, factor = generator["target"], max(generator["factors"])
    path = f"/v1/translate?target={target}&factor={factor}"
    cases = [
        case
        for seed in range(_SEED.value, _SEED.value + _ROUNDS.value)
        for case in _round(pictures, target, path, generator["name"], random.Random(seed))
    ]
    good = encode(Image.open(io.BytesIO(pictures[0])).reduce(2), "PNG")
    _warm(server, path, good)
    server.look()
    first = server.ask("POST", path, good)
    before = _settled(server, path, good, None)
    wrong, memory = [], []
    rows: dict[str, list[tuple[Case, _Answer]]] = {}
    begin = time.monotonic()
    with ThreadPoolExecutor(_CLIENTS.value) as pool:
        for start in range(0, len(cases), _BATCH.value):
            batch = cases[start : start + _BATCH.value]
            for case, answer in zip(
                batch, pool.map(lambda case: _send(server.port, case), batch), strict=True
            ):
                rows.setdefault(case.family, []).append((case, answer))
                if problem := _judge(case, answer):
                    wrong.append(f"{case.family}, {case.name}: {problem}")
            if server.ask("POST", path, good) != first:
                wrong.append(f"after {start + len(batch)} a good request is answered otherwise")
            memory.append(server.held().mebibytes)
    wrong += _crowd(server, path, good, first)
    seconds = time.monotonic() - begin
    after = _settled(server, path, good, before)
    wrong += _changes(server, before, after, memory)
    third = max(1, len(memory) // 3)
    told = {
        "requests": len(cases),
        "different": len({case.parts for case in cases}),
        "seconds": round(seconds),
        "MiB before": round(before.mebibytes),
        "MiB in thirds": [
            round(statistics.median(part))
            for part in (memory[:third], memory[third : 2 * third], memory[2 * third :])
            if part
        ],
        "MiB after": round(after.mebibytes),
        "MiB at most": round(server.peak()),
        "files": [before.files, after.files],
        "threads": [before.threads, after.threads],
    }
    return [_row(name, found) for name, found in sorted(rows.items())], told, wrong


def _crowds(server: _Server) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """The table, figures of the server, and what is wrong."""
    served = json.loads(server.ask("GET", "/v1/generators")[1])["generators"]
    target, model = served[0]["target"], served[0]["name"]
    path, small = f"/v1/translate?target={target}", small_picture()
    server.ask("POST", path, small)
    rows, wrong = [], []
    begin = time.monotonic()
    for case in crowds(target, model):
        if _ONLY.value not in case.name:
            continue
        server.reset_peak()
        row, problems = _one_crowd(server, case, path, small)
        rows.append(row)
        wrong += [f"{case.name}: {problem}" for problem in problems]
        print(row, flush=True)
    told = {
        "at once": _TOGETHER.value,
        "GB at most": _MEMORY.value,
        "seconds": round(time.monotonic() - begin),
        "MiB after": round(server.held().mebibytes),
    }
    return rows, told, wrong


def _one_crowd(
    server: _Server, case: Case, path: str, small: bytes
) -> tuple[dict[str, Any], list[str]]:
    """A row of the table, and what is wrong with it."""
    spent: list[float] = []
    statuses: Counter[int | str] = Counter()
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.05):
            begin = time.monotonic()
            try:
                statuses[server.ask("POST", path, small)[0]] += 1
            except (OSError, http.client.HTTPException) as error:
                statuses[type(error).__name__] += 1
            spent.append(time.monotonic() - begin)

    asking = threading.Thread(target=ask)
    begin = time.monotonic()
    with ThreadPoolExecutor(_TOGETHER.value) as pool:
        sent = [
            pool.submit(_send, server.port, case, _CROWD_SECONDS) for _ in range(_TOGETHER.value)
        ]
        asking.start()
        answers = [future.result() for future in sent]
    seconds = time.monotonic() - begin
    done.set()
    asking.join()
    peak = server.peak() * 2**20 / 1e9
    waits = [int(each.headers["retry-after"]) for each in answers if each.status == 503]
    row = {
        "crowd": case.name,
        "statuses": _row(case.family, [(case, answer) for answer in answers])["statuses"],
        "seconds": round(seconds, 1),
        "slowest s": round(max(answer.seconds for answer in answers), 1),
        "retry after": f"{min(waits)} to {max(waits)}" if waits else "",
        "peak GB": round(peak, 2),
        "small": len(spent),
        "small median s": round(statistics.median(spent), 3),
        "small slowest s": round(max(spent), 2),
    }
    wrong = [problem for answer in answers if (problem := _judge(case, answer))]
    if peak > _MEMORY.value:
        wrong.append(f"{peak:.2f} GB were held")
    if set(statuses) != {200} or max(spent) > _SMALL_SECONDS:
        wrong.append(f"small pictures: {dict(statuses)}, {max(spent):.1f} s at most")
    return row, sorted(set(wrong))


def _round(
    pictures: Sequence[bytes], target: str, path: str, model: str, chance: random.Random
) -> list[Case]:
    """The requests of all families, mixed, none twice."""
    small = Image.open(io.BytesIO(pictures[0])).convert("RGB")
    small.thumbnail((160, 160))
    spoilt = Pictures(pictures, path, chance)
    families = [*spoilt.families(), *Requests(small, target, path, model, chance).families()]
    cases = [case for family in families for case in family()]
    cases += spoilt.mutated(max(0, _COUNT.value - len(cases)))
    mixed = list({(case.name, case.parts): case for case in cases}.values())
    chance.shuffle(mixed)
    return mixed


def _pictures() -> list[bytes]:
    if _IMAGES.value is None:
        return drawn(_SEED.value)
    found = sorted(Path(_IMAGES.value).rglob("*.jpg"))
    if not found:
        raise app.UsageError(f"--images={_IMAGES.value} holds no .jpg")
    return [path.read_bytes() for path in random.Random(_SEED.value).sample(found, 4)]


def _warm(server: _Server, path: str, good: bytes) -> None:
    """Asks for what is good, large and small, so that what is kept for it is there."""
    side = int((1e6 * limits.MEGAPIXELS) ** 0.5)
    large = encode(Image.new("RGB", (side, side), (50, 100, 150)), "PNG")
    small = [(path, good), (f"{path}&maps=all", good)] * (2 * _CLIENTS.value)
    with ThreadPoolExecutor(_CLIENTS.value) as pool:
        answers = [server.ask("POST", path, large) for _ in range(2)]
        answers += pool.map(lambda each: server.ask("POST", *each), small)
    for status, body in answers:
        if status != 200:
            raise RuntimeError(f"a good request is answered with {status}: {body[:200]!r}")


def _settled(server: _Server, path: str, good: bytes, wanted: _Held | None) -> _Held:
    """What it holds when idle; threads and connections go a while after their work."""
    end = time.monotonic() + _SETTLE_SECONDS
    while True:
        time.sleep(1)
        # Threads that have been idle for long are ended when there is new work.
        if server.ask("POST", path, good)[0] != 200:
            raise RuntimeError("a good request is not answered")
        held = server.held()
        settled = wanted and held.files <= wanted.files and held.threads <= wanted.threads
        if settled or time.monotonic() > end - (0 if wanted else 12):
            return held


def _crowd(server: _Server, path: str, good: bytes, first: tuple[int, bytes]) -> Iterator[str]:
    """Many connections with half a head each must not keep others out, and must be ended."""
    with contextlib.ExitStack() as stack:
        crowd = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 30))
            for _ in range(_CROWD)
        ]
        for connection in crowd:
            connection.sendall(b"POST /v1/translate HTTP/1.1\r\n")
        if server.ask("POST", path, good) != first:
            yield f"with {_CROWD} slow connections a good request is answered otherwise"
        for connection in crowd:
            connection.settimeout(_ANSWER_SECONDS)
            try:
                if not connection.recv(100).startswith(b"HTTP/1.1 408"):
                    yield "half a head is answered otherwise than with 408"
            except OSError as error:
                yield f"half a head is not answered: {error}"


def _send(port: int, case: Case, seconds: float = _ANSWER_SECONDS) -> _Answer:
    """Sends a request as it is, and waits for what it may wait for."""
    begin = time.monotonic()

    def found(
        status: int | None, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> _Answer:
        return _Answer(status, headers or {}, body, time.monotonic() - sent)

    sent = begin
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), 30)) as connection:
        connection.settimeout(seconds)
        try:
            for part in case.parts:
                if isinstance(part, float):
                    time.sleep(part)
                else:
                    connection.sendall(part)
        except TimeoutError:
            return found(0)
        except OSError:
            pass  # It may have answered and closed.
        sent = time.monotonic()
        if case.leaves == "whole":
            # With what was not read, at once.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return found(None)
        try:
            if case.leaves == "half":
                connection.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(connection, method=case.method)
            answer.begin()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return found(answer.status, headers, answer.read())
        except TimeoutError:
            return found(0)
        except (OSError, http.client.HTTPException):
            return found(None)


def _judge(case: Case, answer: _Answer) -> str | None:
    """What is wrong with an answer."""
    status = answer.status
    if status == 0:
        return f"no answer in {_ANSWER_SECONDS:.0f} s"
    if status is None:
        return None if case.broken else "closed without an answer"
    if status >= 500 and status != 503:
        return f"{status}: {answer.body[:200]!r}"
    if case.statuses is not None and status not in case.statuses:
        return f"{status}, not {sorted(case.statuses)}: {answer.body[:200]!r}"
    sizes = {case.size} if case.size is not None else None
    if case.picture is not None and status != 503:
        sizes = _readable(case.picture)
        if (status == 200) != bool(sizes):
            return f"{status} for what can{'' if sizes else 'not'} be read: {answer.body[:200]!r}"
    if case.method == "HEAD" or status == 307:
        return None
    kind = answer.headers.get("content-type", "")
    if status >= 400:
        try:
            error = json.loads(answer.body)
        except ValueError:
            return f"{status} is no JSON: {answer.body[:200]!r}"
        if set(error) != {"error"} or not error["error"].isprintable() or len(answer.body) > 700:
            return f"{status} is not one short line: {answer.body[:200]!r}"
    elif kind.startswith("image/") and status == 200:
        with Image.open(io.BytesIO(answer.body)) as image:
            image.load()
            size = image.height, image.width
        if sizes is not None and size not in sizes:
            return f"{size} for a picture of {sizes}"
    elif sizes is not None:
        return f"{status} is no picture but {kind}"
    return None


def _readable(data: bytes) -> set[tuple[int, int]]:
    """The sizes, upright or not, that the answer may have; none if Pillow alone cannot read it."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height > 1e6 * limits.MEGAPIXELS:
                return set()
            image.load()
            sizes = {(image.height, image.width)}
            with contextlib.suppress(Exception):
                turned = ImageOps.exif_transpose(image)
                return {(turned.height, turned.width)}
            return sizes | {(image.width, image.height)}
    except Exception:  # Pillow's are of every kind.
        return set()


def _changes(
    server: _Server, before: _Held, after: _Held, memory: Sequence[float]
) -> Iterator[str]:
    """What is otherwise than before, of what must not be."""
    if server.ask("GET", "/health/ready")[0] != 200:
        yield "the server is not ready"
    if after.files > before.files:
        yield f"{after.files} files are open, not {before.files}"
    if after.threads > before.threads:
        yield f"{after.threads} threads run, not {before.threads}"
    third = len(memory) // 3
    if third:
        growth = statistics.median(memory[-third:]) - statistics.median(memory[third : 2 * third])
        if growth > _GROWTH.value:
            yield f"the last third holds {growth:.0f} MiB more than the second"
    if written := server.written():
        yield f"written: {written[:9]}"
    if failed := sum("Traceback" in line for line in server.log):
        yield f"{failed} tracebacks in the log"
        start = next(place for place, line in enumerate(server.log) if "Traceback" in line)
        yield "".join(server.log[start - 1 : start + 60])
    others = Counter(line[:100] for line in server.log if not line.startswith(("{", "WARNING:")))
    if others:
        yield f"other lines in the log: {others.most_common(9)}"


def _row(name: str, found: Sequence[tuple[Case, _Answer]]) -> dict[str, Any]:
    counts = Counter(
        "left" if case.leaves == "whole" else "closed" if not answer.status else str(answer.status)
        for case, answer in found
    )
    return {
        "family": name,
        "count": len(found),
        "slowest s": max(answer.seconds for _, answer in found),
        "statuses": ", ".join(f"{count} x {status}" for status, count in sorted(counts.items())),
    }


if __name__ == "__main__":
    app.run(main)
