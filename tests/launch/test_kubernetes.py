import dataclasses
import re

import kubernetes_validate
import pytest
import yaml

from launch.kubernetes import render
from warp_translate.errors import UserError

TRAIN = ["--config=experiments/paired.py", "--workdir=/runs/paired"]
REQUIRED = {"image": "example.org/warp:1", "queue": "research", "claim": "runs"}
GPU = render.Manifest("paired", **REQUIRED, hosts=2, gpus=4, gpu_type="nvidia-h100-80gb")
TPU = render.Manifest("paired", **REQUIRED, accelerator="tpu")


def jobset(manifest, flags=TRAIN):
    """Renders a manifest and validates its Job against the schema of Kubernetes."""
    rendered = yaml.safe_load(render.render(manifest, flags))
    validate(job_of(rendered))
    return rendered


def validate(spec):
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "workers"}, "spec": spec}
    kubernetes_validate.validate(job, "1.37", strict=True)


def job_of(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def pod_of(jobset):
    return job_of(jobset)["template"]["spec"]


def container_of(jobset):
    return pod_of(jobset)["containers"][0]


def test_jobset_around_the_job():
    """The fields of JobSet v1alpha2, for which there is no schema here."""
    rendered = jobset(GPU)
    (workers,) = rendered["spec"].pop("replicatedJobs")
    assert (workers["name"], workers["replicas"]) == ("workers", 1)
    assert rendered == {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": "paired",
            "labels": {"kueue.x-k8s.io/queue-name": "research"},
            "annotations": {},
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": 10,
                # User errors fail the JobSet; any other failure of the Job restarts it.
                "rules": [
                    {
                        "name": "userError",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "network": {"enableDNSHostnames": True, "subdomain": "paired"},
        },
    }


def test_strict_validation_rejects_unknown_and_missing_fields():
    job = job_of(jobset(GPU))
    for broken in ({**job, "completion": 2}, {**job, "podFailurePolicy": {"rules": [{}]}}):
        with pytest.raises(kubernetes_validate.ValidationError):
            validate(broken)


@pytest.mark.parametrize(("manifest", "hosts"), [(GPU, 2), (TPU, 4)])
def test_pods_get_their_index_and_the_address_of_the_first(manifest, hosts, parse_train):
    rendered = jobset(manifest)
    job, container = job_of(rendered), container_of(rendered)
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == hosts
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "3") for word in container["args"]]
    parsed = parse_train(words)
    assert (int(parsed.num_processes), int(parsed.process_id)) == (hosts, 3)
    port = container["ports"][0]["containerPort"]
    # <jobset>-<replicated job>-<job index>-<pod index>.<subdomain>
    assert parsed.coordinator == f"paired-workers-0-0.paired:{port}"


def test_exit_statuses():
    job = job_of(jobset(GPU))
    actions = {}
    for rule in job["podFailurePolicy"]["rules"]:
        assert rule["onExitCodes"]["containerName"] == "train"
        assert rule["onExitCodes"]["operator"] == "In"
        actions.update(dict.fromkeys(rule["onExitCodes"]["values"], rule["action"]))
    assert actions == {2: "FailJob", 42: "Ignore"}
    # Any other status fails the Job at once.
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")


def test_accelerators():
    gpu, tpu = jobset(GPU), jobset(TPU)
    assert container_of(gpu)["resources"] == {"limits": {"nvidia.com/gpu": 4}}
    selector = {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert pod_of(gpu)["nodeSelector"] == selector
    assert container_of(tpu)["resources"] == {"limits": {"google.com/tpu": 4}}
    assert pod_of(tpu)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    topology = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    assert tpu["metadata"]["annotations"] == {topology: "cloud.google.com/gke-nodepool"}
    longest_name = render.Manifest("a" * 51, **REQUIRED)
    assert pod_of(jobset(longest_name))["nodeSelector"] == {}


def test_values_are_rendered_unchanged():
    manifest = render.Manifest(
        "null",  # A YAML keyword: not a string unless quoted.
        image="example.org/warp: 1",
        queue="yes",
        claim="12",
        mount="/mnt/runs",
        grace=33,
        max_restarts=5,
        port=99,
        heartbeat_timeout=44,
    )
    rendered = jobset(manifest, ["--config=$HOME/$(X) ${Y}.py", "--workdir", "/mnt/runs/a"])
    assert rendered["metadata"]["name"] == rendered["spec"]["network"]["subdomain"] == "null"
    assert rendered["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "yes"}
    assert rendered["spec"]["failurePolicy"]["maxRestarts"] == 5
    pod, container = pod_of(rendered), container_of(rendered)
    assert pod["terminationGracePeriodSeconds"] == 33
    assert container["image"] == "example.org/warp: 1"
    # Kubernetes turns $$(X) into $(X).
    assert container["args"][:4] == [
        *("train", "--config=$HOME/$$(X) ${Y}.py", "--workdir", "/mnt/runs/a"),
    ]
    assert "--coordinator=null-workers-0-0.null:99" in container["args"]
    assert "--heartbeat_timeout=44" in container["args"]
    claims = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert claims[mounts["/mnt/runs"]]["persistentVolumeClaim"] == {"claimName": "12"}
    assert claims[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        ({"name": "Paired"}, TRAIN, "--name=Paired must be lower-case"),
        ({"name": "a" * 52}, TRAIN, "may have 63 characters"),
        ({"hosts": 0}, TRAIN, "--hosts=0 must be at least 1"),
        ({"gpus": 0}, TRAIN, "--gpus=0 must be at least 1"),
        ({}, ["--workdir=runs/a"], "--workdir=runs/a after -- must be a folder below"),
        ({}, ["--workdir=/runs"], "--workdir=/runs after -- must be a folder below"),
        ({}, ["--config=a.py"], "--workdir= after -- must be a folder below"),
        ({}, [*TRAIN, "--num_processes=3"], "--num_processes is set by the launcher"),
        ({"accelerator": "tpu", "hosts": 2}, TRAIN, "--hosts=2 contradicts --tpu_topology=4x4"),
        ({"accelerator": "tpu", "tpu_topology": "4"}, TRAIN, "must be like 4x4 or 2x2x4"),
        ({"accelerator": "tpu", "tpu_topology": "3x3"}, TRAIN, "has 9 chips"),
    ],
)
def test_user_errors(changes, flags, message):
    manifest = dataclasses.replace(render.Manifest("a", **REQUIRED), **changes)
    with pytest.raises(UserError, match=re.escape(message)):
        render.render(manifest, flags)


def test_command_prints_the_manifest(capsys):
    flags = ["--name=a", "--image=b", "--queue=c", "--claim=d", "--accelerator=tpu"]
    given = ["--tpu_topology=2x2x2", "--tpu_type=tpu-v4-podslice", "--max_restarts=3"]
    assert render.main([*flags, *given, "--", "train", *TRAIN]) == 0
    rendered = yaml.safe_load(capsys.readouterr().out)
    assert job_of(rendered)["completions"] == 2
    assert rendered["spec"]["failurePolicy"]["maxRestarts"] == 3
    with pytest.raises(UserError, match="--claim is missing"):
        render.main([*flags[:3], "--", "train", *TRAIN])
