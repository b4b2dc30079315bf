"""``warp-translate doctor``: whether this machine trains and exports, and what to mend if not.

    warp-translate doctor
    warp-translate doctor --workdir=runs/mine

One line for each of packages, memory, folders, devices, reading of data, two steps of a training
over all devices, a checkpoint that is saved and restored, and an export that is run, in a minute
at most. What is wrong is followed by how to mend it; the status is 2 then. ``--workdir`` is a
folder that runs are to go to.
"""

import dataclasses
import functools
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from warp_translate import storage
from warp_translate.cli import program
from warp_translate.cli.extras import missing_package
from warp_translate.errors import UserError
from warp_translate.serving.latency_model import find_device

State = Literal["ok", "note", "wrong"]

_GIB = 2**30
_LEAST_MEMORY, _LEAST_DISK = 2.0, 2.0  # GiB
_SIDE, _LOAD_SIDE = 64, 72
_PHOTOGRAPH = 286  # pixels, as `data.load_size` has it.
_SECONDS_OF_READING = 3.0
_EXTRAS = ("train", "demo", "eval", "onnx", "serve")
_SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
      state: whether all is well; a "note" says what some uses would need.
      text: what there is, in one line.
      remedy: what to do about it; "" where nothing is to be done.
    """

    state: State
    text: str
    remedy: str = ""


def main(argv: Sequence[str]) -> None:
    """Checks one thing after the other and says what it found at once."""
    if len(argv) > 1:
        raise UserError(f"doctor takes flags only, got {' '.join(argv[1:])!r}")
    wrong = []
    for name, check in _CHECKS.items():
        begin = time.monotonic()
        finding = examine(check)
        seconds = time.monotonic() - begin
        took = f" ({seconds:.0f} s)" if seconds >= 1 else ""
        print(f"{finding.state:<6}{name:<11}{finding.text}{took}", flush=True)
        if finding.remedy:
            print(f"{'':<17}{finding.remedy}", flush=True)
        if finding.state == "wrong":
            wrong.append(name)
    if wrong:
        raise UserError(f"{', '.join(wrong)} must be mended, see above")
    print("all is well")


def examine(check: Callable[[], Finding]) -> Finding:
    """Runs a check; whatever it raises is its finding."""
    try:
        return check()
    except ModuleNotFoundError as error:
        return Finding("wrong", f"{error.name} is not installed", missing_package(error) or "")
    except UserError as error:
        return Finding("wrong", str(error))
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        return Finding("wrong", f"{type(error).__name__}: {words}")


def check_packages() -> Finding:
    """Versions against what the package asks for, and what its extras bring."""
    from packaging.requirements import Requirement

    asked: dict[str, list[Requirement]] = {}
    for text in metadata.requires("warp-translate") or ():
        requirement = Requirement(text)
        found = [name for name in _EXTRAS if _is_of(requirement, name)]
        for name in found or [""]:
            asked.setdefault(name, []).append(requirement)
    python = f"Python {platform.python_version()}"
    if platform.system() == "Windows":
        python += (
            " on Windows, where nothing was tried yet and ablate does not run: WSL 2 has Linux"
        )
    shown = [python, *(f"{name} {version}" for name in _SHOWN if (version := _version(name)))]
    bad: list[str] = []
    missing: dict[str, list[str]] = {}
    for extra, requirements in asked.items():
        for requirement in requirements:
            version = _version(requirement.name)
            if version is None:
                missing.setdefault(extra, []).append(requirement.name)
            elif not requirement.specifier.contains(version, prereleases=True):
                line = f"{requirement.name} {version} is not {requirement.specifier}"
                bad += [line] if line not in bad else []
    text = ", ".join(shown)
    if bad:
        return Finding("wrong", f"{text}; {', '.join(bad)}", "pip install 'warp-translate[train]'")
    if "train" in missing:
        names = ", ".join(missing["train"])
        return Finding("wrong", f"{text}; without {names}", "pip install 'warp-translate[train]'")
    without = [extra for extra in _EXTRAS if extra in missing]
    if without:
        return Finding("note", text, f"not installed: the extras {', '.join(without)}")
    return Finding("ok", text)


def _is_of(requirement: Any, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra})


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_memory() -> Finding:
    """Memory of the host, as far as it tells."""
    text = f"{find_device().cores} cores to use"
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return Finding("note", f"{text}; how much memory is free is not known here")
    sizes = {line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines}
    free = sizes.get("MemAvailable", sizes["MemFree"])
    text = f"{text}, {free:.1f} of {sizes['MemTotal']:.1f} GiB of memory free"
    if free < _LEAST_MEMORY:
        return Finding("wrong", text, f"free some: {_LEAST_MEMORY:g} GiB are needed at least")
    return Finding("ok", text)


def check_folders() -> Finding:
    """Whether prepared data and runs can be written."""
    from warp_translate.data.preparation import expand_data_dir

    found, bad = [], []
    for what, place in (
        ("data", expand_data_dir(None)),
        ("runs", program.WORKDIR.value or "runs"),
    ):
        if storage.scheme(place):
            found.append(f"{what} go to {place}")
            try:
                storage.to_path(place)
            except UserError as error:
                bad.append(str(error))
            continue
        folder = Path(place)
        there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        free = shutil.disk_usage(there).free / _GIB
        found.append(f"{what} go to {folder}, {free:.0f} GiB free")
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            bad.append(f"{there} cannot be written ({error.strerror})")
        if free < _LEAST_DISK:
            bad.append(f"{there} has {free:.1f} GiB free, {_LEAST_DISK:g} are needed at least")
    if bad:
        remedy = "set TFDS_DATA_DIR or --config.data.dir for data, --workdir for runs"
        return Finding("wrong", "; ".join(bad), remedy)
    return Finding("ok", "; ".join(found))


def check_devices() -> Finding:
    """What jax computes on, beside what there is."""
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        words = " ".join(str(error).split())[:300]
        return Finding("wrong", f"jax finds no device: {words}", "see its words, or JAX_PLATFORMS")
    text = f"{len(devices)} x {devices[0].device_kind}"
    limits = [(each.memory_stats() or {}).get("bytes_limit") for each in devices]
    if limits[0]:
        text += f", {limits[0] / _GIB:.1f} GiB each"
    if devices[0].platform == "cpu" and os.environ.get("JAX_PLATFORMS") != "cpu":
        if Path("/dev/accel0").exists():
            return Finding(
                "wrong", f"{text}, but there is a TPU", "pip install 'warp-translate[tpu]'"
            )
        if gpus := _nvidia_gpus():
            remedy = (
                "pip install 'warp-translate[cuda]' (in a checkout: pip install -e '.[cuda]'); "
                "it needs driver 525 or newer"
            )
            return Finding("wrong", f"{text}, but there is {gpus}", remedy)
        if Path("/proc/driver/nvidia/version").exists():
            return Finding(
                "note",
                f"{text}; there is an NVIDIA driver, but no GPU that this process may use",
                "to a container GPUs are given, by docker run --gpus=all for instance",
            )
    return Finding("ok", text)


def _nvidia_gpus() -> str:
    """The GPUs that NVIDIA's driver tells of; "" where there are none."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20, check=False
        )
        found = re.findall(r"^GPU \d+: (.*?)(?: \(UUID.*)?$", done.stdout, re.M)
    except (OSError, subprocess.SubprocessError):
        found = []
    if not found and Path("/dev/nvidia0").exists():
        found = ["an NVIDIA GPU"]
    return ", ".join(found)


class _Photographs:
    """Pairs of JPEGs in memory, decoded when they are asked for, as prepared sets have them."""

    def __init__(self, side: int, count: int = 16) -> None:
        import cv2

        self._cv2 = cv2
        rng = np.random.default_rng(0)
        self._files = []
        for _ in range(2 * count):
            coarse = rng.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
            picture = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
            self._files.append(cv2.imencode(".jpg", picture)[1])

    def __len__(self) -> int:
        return len(self._files) // 2

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        files = self._files[2 * index : 2 * index + 2]
        source, target = (self._cv2.imdecode(file, self._cv2.IMREAD_COLOR) for file in files)
        assert source is not None and target is not None
        return {"source": source, "target": target}


def _batches(side: int, load_side: int, batch: int, photograph: int) -> Iterator[Any]:
    from warp_translate.data.augment import JointAugment
    from warp_translate.data.pipeline import train_batches

    source: Any = _Photographs(photograph)
    augment = JointAugment(size=side, load_size=load_side)
    return train_batches(source, augment, global_batch=batch, seed=0, start_step=0)


def check_reading() -> Finding:
    """Pairs of photographs that are decoded, resized, cropped and mirrored, in a second."""
    batches = _batches(256, _PHOTOGRAPH, 8, _PHOTOGRAPH)
    next(batches)  # Threads are started.
    begin, count = time.monotonic(), 0
    while (seconds := time.monotonic() - begin) < _SECONDS_OF_READING:
        count += len(next(batches)["source"])
    return Finding("ok", f"{count / seconds:.0f} pairs a second, JPEG to 256 px")


@functools.cache
def _training() -> Any:
    """A training with little to compile."""
    import optax

    from warp_translate.models import Discriminator, Generator
    from warp_translate.training.discriminator_training import Adversary
    from warp_translate.training.paired_step import PairedLosses, PairedTraining

    return PairedTraining(
        generator=Generator(width=16, blocks=1),
        generator_optimizer=optax.adam(2e-4),
        adversary=Adversary(Discriminator(width=16, layers=1, scales=1), optax.adam(2e-4)),
        losses=PairedLosses(),
    )


@functools.cache
def _fresh_state() -> Any:
    import jax

    return jax.jit(_training().init, static_argnums=1)(jax.random.key(0), _SIDE)


def check_training() -> Finding:
    """Two steps over all devices, the first of which is compiled for."""
    import jax

    from warp_translate.training.parallel import Replicas

    training, replicas = _training(), Replicas(None)
    root = jax.random.key(0)
    state = replicas.initial(_fresh_state())
    step = replicas.map(training.step)
    batches = _batches(_SIDE, _LOAD_SIDE, 2 * replicas.count, _LOAD_SIDE)
    seconds = []
    for _ in range(2):
        placed = replicas.place_batches([next(batches)])
        begin = time.monotonic()
        state, metrics = step(state, placed, root)
        values = {name: float(np.asarray(value).mean()) for name, value in metrics.items()}
        seconds.append(time.monotonic() - begin)
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if bad:
        return Finding("wrong", f"after two steps {', '.join(bad)} are not finite")
    if differing := replicas.disagreements(state):
        return Finding("wrong", f"the devices disagree in {differing[0]}")
    return Finding(
        "ok",
        f"two steps on {replicas.count} device{'s' * (replicas.count > 1)}: compiled in "
        f"{seconds[0]:.0f} s, {1000 * seconds[1]:.0f} ms a step",
    )


def check_checkpoint() -> Finding:
    """A state that is saved and restored."""
    import jax

    from warp_translate.training.checkpoint import Checkpointer

    host = jax.tree.map(np.asarray, _fresh_state())
    with tempfile.TemporaryDirectory(prefix="warp_translate_doctor_") as folder:
        checkpoints = Checkpointer(folder, score=lambda metrics: None)
        try:
            checkpoints.save(1, host)
            checkpoints.wait()
            restored = checkpoints.restore(1, host)
        finally:
            checkpoints.close()
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), host, restored)
    if not all(jax.tree.leaves(same)):
        return Finding("wrong", "what is restored is not what was saved", "please report it")
    megabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(host)) / 1e6
    return Finding("ok", f"{megabytes:.1f} MB saved and restored, bit by bit")


def check_export() -> Finding:
    """A bundle that is written, opened and run in every format."""
    missing = [name for name in ("onnx", "onnxruntime", "safetensors") if _version(name) is None]
    if missing:  # As packages has said, which training does without.
        remedy = "pip install 'warp-translate[onnx]'"
        return Finding("note", f"not tried without {', '.join(missing)}", remedy)
    from warp_translate.serving import export
    from warp_translate.serving.architecture import Architecture
    from warp_translate.serving.bundle import Bundle

    training = _training()
    generator = training.generator
    names = [field.name for field in dataclasses.fields(Architecture)]
    owners = {name: training if hasattr(training, name) else generator for name in names}
    architecture = Architecture(**{name: getattr(owners[name], name) for name in names})
    image = _Photographs(_SIDE, 1)[0]["source"]
    with tempfile.TemporaryDirectory(prefix="warp_translate_doctor_") as folder:
        bundle = Bundle(
            folder=Path(folder) / "a-b",
            name="a-b",
            source="a",
            target="b",
            architecture=architecture,
            factors=(2,),
            factor=2,
            size=_SIDE,
            provenance={},
            files={},
        )
        found = export.write_bundle(bundle, generator, _fresh_state().generator.ema, [image])
    worst = max(parity.largest for parity in found.values())
    return Finding("ok", f"{', '.join(found)}: {worst} of 255 from the network at most")


_CHECKS: dict[str, Callable[[], Finding]] = {
    "packages": check_packages,
    "memory": check_memory,
    "folders": check_folders,
    "devices": check_devices,
    "reading": check_reading,
    "training": check_training,
    "checkpoint": check_checkpoint,
    "export": check_export,
}


def run() -> None:
    """Entry point of the command."""
    program.run(main, takes=(program.WORKDIR,))


if __name__ == "__main__":
    run()
