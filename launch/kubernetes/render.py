"""Fills in the JobSet manifest and prints it.

    python -m launch.kubernetes.render --name=paired --queue=research --claim=runs --hosts=2 \
      --image=registry.example/warp_translate:cuda --accelerator=gpu --gpus=8 \
      -- train --config=experiments/paired.py --workdir=/runs/paired | kubectl apply -f -

A value that Kubernetes would refuse, and a work directory that would be lost, end it with one line.
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

from launch import command_line
from warp_translate.errors import UserError

_TEMPLATE = Path(__file__).with_name("jobset.yaml")
_LABEL = r"[a-z]([a-z0-9-]*[a-z0-9])?"
_LABEL_LENGTH = 63  # What a name in the DNS may have; a pod's host name is one.
_GPU_SELECTOR = "cloud.google.com/gke-accelerator"
_TPU_SELECTOR = "cloud.google.com/gke-tpu-accelerator"
_TPU_TOPOLOGY = "cloud.google.com/gke-tpu-topology"
# One node pool is one slice: pods of one Job must not be spread over two slices of equal shape.
_ONE_SLICE = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What one JobSet is made of, beside the flags of its training.

    Attributes:
      name: of the JobSet, a DNS label.
      image: container image whose entry point is ``warp-translate``, see ``launch/docker``.
      queue: Kueue's local queue.
      claim: persistent volume claim, ReadWriteMany, for the work directories.
      mount: where the claim is mounted; the work directory lies below it.
      accelerator: "gpu" or "tpu".
      hosts: pods, one process each; of a TPU slice it follows from the topology.
      gpus: of each host.
      gpu_type: GKE's name of the GPU, None for whichever node has one.
      tpu_type: GKE's name of the TPU.
      tpu_topology: of the slice, in chips, for example "4x4".
      tpu_chips: of each host.
      port: where the first process coordinates.
      heartbeat_timeout: seconds after which a process that is silent counts as lost.
      max_restarts: after crashes; preemptions do not count.
      grace: seconds from SIGTERM to SIGKILL.
    """

    name: str
    image: str
    queue: str
    claim: str
    mount: str = "/runs"
    accelerator: str = "gpu"
    hosts: int | None = None
    gpus: int = 8
    gpu_type: str | None = None
    tpu_type: str = "tpu-v5-lite-podslice"
    tpu_topology: str = "4x4"
    tpu_chips: int = 4
    port: int = 8476
    heartbeat_timeout: int = 100
    max_restarts: int = 10
    grace: int = 120


def render(manifest: Manifest, train_flags: Sequence[str]) -> str:
    """Returns the JobSet as YAML.

    Args:
      manifest: the values.
      train_flags: what ``warp-translate train`` gets, beside the address of the coordinator.

    Raises:
      UserError: a value that Kubernetes would refuse, or a work directory that would be lost.
    """
    hosts = _hosts(manifest)
    # The longest name that comes of it is the last pod's host name.
    pod = f"{manifest.name}-workers-0-{hosts - 1}"
    if not re.fullmatch(_LABEL, manifest.name) or len(pod) > _LABEL_LENGTH:
        raise UserError(
            f"--name={manifest.name} must be lower-case letters, digits and -, beginning with a "
            f"letter, and short: {pod} may have {_LABEL_LENGTH} characters"
        )
    command_line.refuse_flags(
        train_flags,
        ["coordinator", "num_processes", "process_id", "heartbeat_timeout"],
        "leave it out behind --",
    )
    workdir = command_line.flag_value(train_flags, "workdir")
    if not workdir or PurePosixPath(manifest.mount) not in PurePosixPath(workdir).parents:
        raise UserError(
            f"--workdir={workdir or ''} behind -- must be a folder below --mount={manifest.mount}: "
            "elsewhere it would go with the pod"
        )
    if manifest.accelerator == "tpu":
        limits = {"google.com/tpu": manifest.tpu_chips}
        selector = {_TPU_SELECTOR: manifest.tpu_type, _TPU_TOPOLOGY: manifest.tpu_topology}
    else:
        limits = {"nvidia.com/gpu": manifest.gpus}
        selector = {_GPU_SELECTOR: manifest.gpu_type} if manifest.gpu_type else {}
    arguments = [
        "train",
        # Kubernetes would fill in $(...) of the user's too.
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
    """Adds the manifest's flags, all but ``--name``; one that is not given is None."""
    default = Manifest(name="", image="", queue="", claim="")

    def add(name: str, text: str, kind: type = str, choices: Sequence[str] | None = None) -> None:
        value = getattr(default, name)
        parser.add_argument(
            f"--{name}",
            type=kind,
            choices=choices,
            default=argparse.SUPPRESS,
            help=f"{text} (default: {value})" if value else text,
        )

    add("image", "container image whose entry point is warp-translate")
    add("queue", "Kueue's local queue")
    add("claim", "persistent volume claim, ReadWriteMany, for the work directories")
    add("mount", "where the claim is mounted")
    add("accelerator", "gpu or tpu", choices=("gpu", "tpu"))
    add("hosts", "pods, one process each; a TPU slice has as many as its topology says", int)
    add("gpus", "GPUs of each host", int)
    add("gpu_type", "GKE's name of the GPU, for example nvidia-h100-80gb")
    add("tpu_type", "GKE's name of the TPU")
    add("tpu_topology", "chips of the slice")
    add("tpu_chips", "chips of each host", int)
    add("port", "where the first process coordinates", int)
    add("heartbeat_timeout", "seconds until a silent process is lost", int)
    add("max_restarts", "after crashes; preemptions do not count", int)
    add("grace", "seconds from SIGTERM to SIGKILL", int)


def given_flags(arguments: argparse.Namespace) -> list[str]:
    """Returns which of the manifest's flags were given."""
    flags = [field.name for field in dataclasses.fields(Manifest) if field.name != "name"]
    return [flag for flag in flags if hasattr(arguments, flag)]


def from_arguments(name: str, arguments: argparse.Namespace) -> Manifest:
    """Builds the manifest of a parsed command line.

    Raises:
      UserError: a flag that has no default is missing.
    """
    given = {flag: getattr(arguments, flag) for flag in given_flags(arguments)}
    for flag in ("image", "queue", "claim"):
        if not given.get(flag):
            raise UserError(f"--{flag} is missing: a JobSet needs --image, --queue and --claim")
    return Manifest(name=name, **given)


def _hosts(manifest: Manifest) -> int:
    for flag in ("gpus", "tpu_chips", "port", "heartbeat_timeout"):
        if getattr(manifest, flag) < 1:
            raise UserError(f"--{flag}={getattr(manifest, flag)} must be at least 1")
    if manifest.accelerator == "gpu":
        hosts = 1 if manifest.hosts is None else manifest.hosts
        if hosts < 1:
            raise UserError(f"--hosts={hosts} must be at least 1")
        return hosts
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", manifest.tpu_topology):
        raise UserError(f"--tpu_topology={manifest.tpu_topology} must be like 4x4 or 2x2x4")
    chips = math.prod(int(side) for side in manifest.tpu_topology.split("x"))
    hosts, rest = divmod(chips, manifest.tpu_chips)
    if rest:
        raise UserError(
            f"--tpu_topology={manifest.tpu_topology} has {chips} chips, which hosts of "
            f"--tpu_chips={manifest.tpu_chips} do not make up"
        )
    if manifest.hosts not in (None, hosts):
        raise UserError(
            f"--hosts={manifest.hosts} is not what --tpu_topology={manifest.tpu_topology} has with "
            f"--tpu_chips={manifest.tpu_chips}: {hosts}; leave --hosts out"
        )
    return hosts


def main(argv: Sequence[str]) -> int:
    """Checks the command line and prints the manifest."""
    parser = command_line.Parser("Prints a JobSet: ... -- train --config=... --workdir=/runs/...")
    parser.add_argument("--name", required=True, help="of the JobSet")
    add_arguments(parser)
    own, train_flags = command_line.split_train(argv)
    arguments = parser.parse_args(own)
    sys.stdout.write(render(from_arguments(arguments.name, arguments), train_flags))
    return 0


if __name__ == "__main__":
    command_line.run(main)
