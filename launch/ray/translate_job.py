"""Translates a folder of pictures with a bundle as a Ray Data job: workers on many machines.

    python -m launch.ray.translate_job --bundle=bundles/man-woman --input=pictures --output=out

The files are those of ``warp-translate translate --bundle``, byte for byte, and what is there is
not done again. Only paths travel: every worker reads and writes pictures itself, so all nodes see
the same folders.
"""

import argparse
import dataclasses
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from launch import command_line
from warp_translate.cli.translate import finish, name_of
from warp_translate.errors import UserError
from warp_translate.serving import batch_translate, bundle
from warp_translate.serving.bundle import Bundle
from warp_translate.serving.engine import Backend, open_engine
from warp_translate.serving.output_plan import plan_outputs
from warp_translate.serving.output_record import OutputRecord, made_by
from warp_translate.training.progress import FORMATS

# What the parts of a job are put into; a part is heard of when its block is done.
_MOST_BLOCKS = 1024

_Result = tuple[int, str | None, dict[str, Any] | None]
"""How a job of a row has ended: its place, what went wrong, and what was read."""


class Worker:
    """A bundle that is ready, in a process of its own; it is kept for the whole job."""

    def __init__(
        self, folder: str, build: str, *, backend: Backend, factor: int, batch: int, threads: int
    ) -> None:
        """Loads the bundle.

        Args:
          folder: the bundle.
          build: what it has to be.
          backend: see `open_engine`.
          factor: how many times smaller the trunk's image is.
          batch: most images at once.
          threads: most threads of a translation in ONNX Runtime.
        """
        self._factor = factor
        self._batch = batch
        # Said when it is asked: what a worker raises while it is made reaches nobody in one line.
        self._problem: str | None = None
        try:
            opened = bundle.read(folder)
            if opened.build != build:
                raise UserError(
                    f"{folder} is build {opened.build} here and {build} where the job was started: "
                    "wait until all nodes see the same files"
                )
            self._engine = open_engine(opened, backend, threads=threads)
        except UserError as error:
            self._problem = str(error)

    def __call__(self, rows: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Translates files.

        Args:
          rows: "jobs", texts of `_pack`.

        Returns:
          The jobs, and "results", a text for each: `_Result`s, or why the bundle cannot be used.
        """
        results = [json.dumps(self._translate(_unpack(text))) for text in rows["jobs"]]
        return {"jobs": list(rows["jobs"]), "results": results}

    def _translate(self, jobs: Sequence[batch_translate.Job]) -> list[_Result] | str:
        if self._problem is not None:
            return self._problem
        places = {job: place for place, job in enumerate(jobs)}
        return [
            (
                places[each.job],
                each.failure,
                dataclasses.asdict(each.source) if each.source else None,
            )
            for each in batch_translate.translate_files(
                self._engine, jobs, factor=self._factor, batch=self._batch
            )
        ]


def translate(
    opened: Bundle,
    jobs: Sequence[batch_translate.Job],
    *,
    backend: Backend = "auto",
    factor: int,
    batch: int = 8,
    workers: int,
    cpus: int = 1,
    gpus: int = 0,
) -> Iterator[batch_translate.Finished]:
    """Translates files on the Ray cluster that this process is connected to.

    Args:
      opened: the bundle.
      jobs: images and where their translations go.
      backend: see `open_engine`.
      factor: how many times smaller the trunk's image is.
      batch: most images at once.
      workers: processes that translate.
      cpus: what each of them reserves, and most threads of a translation in ONNX Runtime.
      gpus: what each of them reserves.

    Yields:
      How every job has ended, in no order.

    Raises:
      UserError: a worker cannot use the bundle.
    """
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # There is one of our own.
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # A row is what a worker looks through for images of one size, and what is heard of at once.
    rows = [{"jobs": _pack(jobs[at : at + 2 * batch])} for at in range(0, len(jobs), 2 * batch)]
    blocks = min(len(rows), _MOST_BLOCKS)
    found = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        Worker,
        batch_size=1,
        fn_constructor_args=(str(opened.folder), opened.build),
        fn_constructor_kwargs={
            **{"backend": backend, "factor": factor, "batch": batch, "threads": cpus}
        },
        compute=ray.data.ActorPoolStrategy(size=min(workers, blocks)),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    for row in found.iter_rows():
        of_row, results = _unpack(row["jobs"]), json.loads(row["results"])
        if isinstance(results, str):
            raise UserError(results)
        for place, failure, source in results:
            yield batch_translate.Finished(
                of_row[place], failure, batch_translate.Source(**source) if source else None
            )


def _pack(jobs: Sequence[batch_translate.Job]) -> str:
    """One text of paths. JSON keeps those that are no UTF-8, which a column of text would not."""
    return json.dumps([[str(job.source), str(job.target)] for job in jobs])


def _unpack(text: str) -> list[batch_translate.Job]:
    return [batch_translate.Job(Path(source), Path(target)) for source, target in json.loads(text)]


def main(argv: Sequence[str]) -> int:
    """Checks the command line, translates what is not translated yet, and names what failed."""
    parser = command_line.Parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--bundle",
        type=os.path.expanduser,
        required=True,
        help="a bundle that warp-translate export made",
    )
    parser.add_argument(
        "--input", type=os.path.expanduser, required=True, help="an image or a folder of them"
    )
    parser.add_argument(
        "--output", type=os.path.expanduser, required=True, help="folder to write to"
    )
    parser.add_argument("--factor", type=int, help="the bundle's own by default")
    parser.add_argument("--engine", default="auto", choices=("auto", "onnx", "jax"))
    parser.add_argument("--batch", type=int, default=8, help="most images at once")
    parser.add_argument("--workers", type=int, help="processes; as many as find room by default")
    parser.add_argument("--cpus", type=int, default=1, help="of each worker")
    parser.add_argument("--gpus", type=int, default=0, help="of each worker: 0, or 1 for jax")
    parser.add_argument(
        "--address",
        help="of a Ray cluster, auto for the one here; RAY_ADDRESS or a new one if unset",
    )
    parser.add_argument(
        "--progress", default="auto", choices=FORMATS, help="auto, lines, or json for programs"
    )
    arguments = parser.parse_args(argv)
    for name in ("batch", "workers", "cpus"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}={value} must be at least 1")
    if arguments.gpus not in (0, 1) or (arguments.gpus and arguments.engine != "jax"):
        raise UserError(f"--gpus={arguments.gpus} must be 0, or 1 with --engine=jax")
    opened = bundle.read(Path(arguments.bundle).absolute())
    factor = opened.check_factor(arguments.factor)
    # What the workers are told does not depend on the folder that they run in.
    plan = plan_outputs(
        [os.path.abspath(arguments.input)], os.path.abspath(arguments.output) + os.sep
    )
    assert plan.folder is not None
    record = OutputRecord(plan.folder, made_by(name_of(opened), factor, batch_translate.Style()))
    left = record.begin(plan.jobs, ())
    results: Iterator[batch_translate.Finished] = iter(())
    if left:
        results = _on_cluster(arguments, opened, left, factor)
    finish(plan, left, lambda: _noted(results, record), arguments.progress, record)
    return 0


def _noted(
    results: Iterable[batch_translate.Finished], record: OutputRecord
) -> Iterator[batch_translate.Finished]:
    """Writes into the record what is done."""
    for each in results:
        if each.source is not None:
            record.written(each.job, each.source)
        yield each


def _on_cluster(
    arguments: argparse.Namespace, opened: Bundle, left: Sequence[batch_translate.Job], factor: int
) -> Iterator[batch_translate.Finished]:
    """Translates with as many workers as are asked for, or find room."""
    room = _connect(arguments.address)
    wanted = {"CPU": arguments.cpus, "GPU": arguments.gpus}
    most = min(int(room.get(name, 0) // need) for name, need in wanted.items() if need)
    if most < 1:
        raise UserError(
            f"a worker of {arguments.cpus} CPU(s) and {arguments.gpus} GPU(s) finds no room where "
            f"there are {room.get('CPU', 0):g} and {room.get('GPU', 0):g}: take less --cpus or "
            "--gpus, or start larger nodes first"
        )
    return translate(
        opened,
        left,
        backend=arguments.engine,
        factor=factor,
        batch=arguments.batch,
        workers=arguments.workers or most,
        cpus=arguments.cpus,
        gpus=arguments.gpus,
    )


def _connect(address: str | None) -> Mapping[str, Any]:
    """Joins the cluster, or starts one on this machine, and returns what it has."""
    # A cluster that is started here tells nobody that it was.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError(
            f"the job needs the package {error.name}: pip install 'warp-translate[ray]'"
        ) from error
    # Ray alone would look for a cluster that was started here, and wait for one that has crashed.
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        if not ray.is_initialized():
            ray.init(
                address=address,
                include_dashboard=False if address == "local" else None,
                logging_level=logging.WARNING,
            )
    except (ConnectionError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"--address={address} cannot be joined ({words})") from error
    return ray.cluster_resources()


if __name__ == "__main__":
    # The workers find their class by the module's name.
    from launch.ray import translate_job

    command_line.run(translate_job.main)
