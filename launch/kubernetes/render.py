"""Renders the JobSet manifest of a training.

    python -m launch.kubernetes.render --name=paired --queue=research --claim=runs --hosts=2 \
      --image=registry.example/warp_translate:cuda --accelerator=gpu --gpus=8 \
      -- train --config=experiments/paired.py --workdir=/runs/paired | kubectl apply -f -

Values that Kubernetes would reject are user errors.
"""

import argparse
import dataclasses
import json
import math
import re
import string
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from launch import command_line
from warp_translate.errors import UserError

_TEMPLATE = Path(__file__).with_name("jobset.yaml")
_LABEL = r"[a-z]([a-z0-9-]*[a-z0-9])?"
_LABEL_LENGTH = 63  # Limit of a DNS label, which a pod's host name is.
_GPU_SELECTOR = "cloud.google.com/gke-accelerator"
_TPU_SELECTOR = "cloud.google.com/gke-tpu-accelerator"
_TPU_TOPOLOGY = "cloud.google.com/gke-tpu-topology"
# One node pool is one slice: the pods of a Job must not span two slices of equal shape.
_ONE_SLICE = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}


def _flag(text: str, default: Any = None, **options: Any) -> Any:
    """Returns a field that is also a command-line flag, required unless it has a default."""
    metadata = {
        "help": f"{text} (default: {default})" if default else text,
        "type": str if default is None else type(default),
        "default": argparse.SUPPRESS,
        **options,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The values of a JobSet, each of which is a flag, other than the flags of its training."""

    name: str  # A DNS label.
    image: str = _flag("container image whose entry point is warp-translate")
    queue: str = _flag("Kueue's local queue")
    claim: str = _flag("persistent volume claim, ReadWriteMany, for the work directories")
    mount: str = _flag("mount path of the claim", "/runs")
    accelerator: str = _flag("kind of accelerator", "gpu", choices=("gpu", "tpu"))
    hosts: int | None = _flag("pods, one process each; a TPU slice implies it", type=int)
    gpus: int = _flag("GPUs per host", 8)
    gpu_type: str | None = _flag("GKE's name of the GPU, for example nvidia-h100-80gb")
    tpu_type: str = _flag("GKE's name of the TPU", "tpu-v5-lite-podslice")
    tpu_topology: str = _flag("shape of the slice in chips", "4x4")
    tpu_chips: int = _flag("chips per host", 4)
    port: int = _flag("port of the coordinator", 8476)
    heartbeat_timeout: int = _flag("seconds after which a silent process is lost", 100)
    max_restarts: int = _flag("restarts after crashes; preemptions do not count", 10)
    grace: int = _flag("seconds from SIGTERM to SIGKILL", 120)


_FLAGS = {field.name: field for field in dataclasses.fields(Manifest) if field.metadata}


def render(manifest: Manifest, train_flags: Sequence[str]) -> str:
    """Returns the JobSet as YAML; ``train_flags`` are those of ``warp-translate train``.

    Raises:
      UserError: Kubernetes would reject a value, or the work directory is not on the claim.
    """
    hosts = _hosts(manifest)
    # The longest derived name is the host name of the last pod.
    pod = f"{manifest.name}-workers-0-{hosts - 1}"
    if not re.fullmatch(_LABEL, manifest.name) or len(pod) > _LABEL_LENGTH:
        raise UserError(
            f"--name={manifest.name} must be lower-case letters, digits and -, start with a letter "
            f"and be short: {pod} may have {_LABEL_LENGTH} characters"
        )
    command_line.refuse_flags(train_flags, command_line.PROCESS_FLAGS)
    workdir = command_line.flag_value(train_flags, "workdir")
    if not workdir or PurePosixPath(manifest.mount) not in PurePosixPath(workdir).parents:
        raise UserError(
            f"--workdir={workdir or ''} after -- must be a folder below --mount={manifest.mount}: "
            "elsewhere it is deleted with the pod"
        )
    if manifest.accelerator == "tpu":
        limits = {"google.com/tpu": manifest.tpu_chips}
        selector = {_TPU_SELECTOR: manifest.tpu_type, _TPU_TOPOLOGY: manifest.tpu_topology}
    else:
        limits = {"nvidia.com/gpu": manifest.gpus}
        selector = {_GPU_SELECTOR: manifest.gpu_type} if manifest.gpu_type else {}
    arguments = [
        "train",
        # Escaped: Kubernetes expands $(...) in arguments.
        *(flag.replace("$(", "$$(") for flag in train_flags),
        f"--coordinator={manifest.name}-workers-0-0.{manifest.name}:{manifest.port}",
        f"--num_processes={hosts}",
        "--process_id=$(JOB_COMPLETION_INDEX)",
        f"--heartbeat_timeout={manifest.heartbeat_timeout}",
    ]
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=json.dumps(manifest.name),
        queue=json.dumps(manifest.queue),
        annotations=json.dumps(_ONE_SLICE if manifest.accelerator == "tpu" else {}),
        max_restarts=manifest.max_restarts,
        hosts=hosts,
        grace=manifest.grace,
        node_selector=json.dumps(selector),
        image=json.dumps(manifest.image),
        arguments=json.dumps(arguments),
        port=manifest.port,
        limits=json.dumps(limits),
        mount=json.dumps(manifest.mount),
        claim=json.dumps(manifest.claim),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the manifest's flags except ``--name``; those not given are absent from the result."""
    for name, field in _FLAGS.items():
        parser.add_argument(f"--{name}", **field.metadata)


def given_flags(arguments: argparse.Namespace) -> list[str]:
    """Returns the names of the manifest's flags that were given."""
    return [name for name in _FLAGS if hasattr(arguments, name)]


def from_arguments(name: str, arguments: argparse.Namespace) -> Manifest:
    """Builds the manifest from parsed arguments.

    Raises:
      UserError: a required flag is missing.
    """
    given = {flag: getattr(arguments, flag) for flag in given_flags(arguments)}
    for flag in ("image", "queue", "claim"):
        if not given.get(flag):
            raise UserError(f"--{flag} is missing: a JobSet needs --image, --queue and --claim")
    return Manifest(name=name, **given)


def _hosts(manifest: Manifest) -> int:
    for flag in ("hosts", "gpus", "tpu_chips", "port", "heartbeat_timeout"):
        value = getattr(manifest, flag)
        if value is not None and value < 1:
            raise UserError(f"--{flag}={value} must be at least 1")
    if manifest.accelerator == "gpu":
        return 1 if manifest.hosts is None else manifest.hosts
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", manifest.tpu_topology):
        raise UserError(f"--tpu_topology={manifest.tpu_topology} must be like 4x4 or 2x2x4")
    chips = math.prod(int(side) for side in manifest.tpu_topology.split("x"))
    hosts, rest = divmod(chips, manifest.tpu_chips)
    if rest:
        raise UserError(
            f"--tpu_topology={manifest.tpu_topology} has {chips} chips, not a multiple of "
            f"--tpu_chips={manifest.tpu_chips}"
        )
    if manifest.hosts not in (None, hosts):
        raise UserError(
            f"--hosts={manifest.hosts} contradicts --tpu_topology={manifest.tpu_topology} with "
            f"--tpu_chips={manifest.tpu_chips}, which has {hosts} hosts; omit --hosts"
        )
    return hosts


def main(argv: Sequence[str]) -> int:
    """Prints the manifest."""
    parser = command_line.Parser("Prints a JobSet: ... -- train --config=... --workdir=/runs/...")
    parser.add_argument("--name", required=True, help="name of the JobSet")
    add_arguments(parser)
    own, train_flags = command_line.split_train(argv)
    arguments = parser.parse_args(own)
    sys.stdout.write(render(from_arguments(arguments.name, arguments), train_flags))
    return 0


if __name__ == "__main__":
    command_line.run(main)
