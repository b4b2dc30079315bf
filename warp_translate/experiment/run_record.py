"""``run.json``: command, versions and machine of a run, to reproduce it."""

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from warp_translate import sealed, storage
from warp_translate.evaluation.runs import START_FILE

_PACKAGES = (
    *("warp-translate", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("tensorflow-datasets", "grain", "array-record", "opencv-python-headless"),
)

# Environment variables that affect the computation; none is secret.
_VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "JAX_", "LIBTPU_", "NCCL_", "OMP_", "TFDS_DATA_DIR", "XLA_"),
    *("SLURM_JOB_ID", "SLURM_NTASKS"),
)


def write(
    workdir: str | os.PathLike[str], *, step: int, changes: Mapping[str, tuple[Any, Any]]
) -> str | None:
    """Adds this start to the record of a run.

    Args:
      workdir: folder of the run.
      step: steps done there.
      changes: changes of the configuration since the last start.

    Returns:
      A warning if the record was damaged and has been moved aside; else None.

    Raises:
      UserError: the folder cannot be written.
    """
    path = storage.to_path(workdir) / START_FILE
    notice = None
    with storage.writing(workdir, "--workdir"):
        try:
            starts, changed = _earlier(path)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            starts, changed = [], []
            kept = path.with_name(f"{START_FILE}.damaged")
            storage.write_whole(kept, path.read_bytes())
            notice = f"{path} is damaged ({error}); it is kept as {kept}, and a new one is written"
        place = str(workdir) if storage.scheme(workdir) else os.path.abspath(workdir)
        record = _start() | {"workdir": place}
        starts.append(record["started"])
        if changes:
            changed.append({"step": step, "time": record["started"], "fields": changes})
        record |= {"starts": starts} | ({"changes": changed} if changed else {})
        storage.write_whole(path, json.dumps(sealed.seal(record), indent=2) + "\n")
    return notice


def workdir_at_start(workdir: str | os.PathLike[str]) -> str | None:
    """The folder of a run when it was started last; None if unknown."""
    try:
        text = (storage.to_path(workdir) / START_FILE).read_text(encoding="utf-8")
        return str(sealed.unseal(json.loads(text))["workdir"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _earlier(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Earlier starts and changes; none if there is no file.

    Raises:
      ValueError, KeyError, TypeError, AttributeError: it is damaged.
    """
    try:
        record = sealed.unseal(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return [], []
    return list(record["starts"]), list(record.get("changes", []))


def _start() -> dict[str, Any]:
    devices = jax.devices()
    return {
        "command": ["warp-translate", "train", *sys.argv[1:]],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "devices": [f"{len(devices)} x {devices[0].device_kind}"],
        "processes": jax.process_count(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)
        },
    }


def commit() -> str | None:
    """The commit of the package, with a plus if files differ; None outside of a git checkout."""
    folder = Path(__file__).parent
    try:
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", "..")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head[:12]}+" if changed else head[:12]


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
