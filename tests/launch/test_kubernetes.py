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

# What a JobSet of v1alpha2 may hold, as far as ours goes: a key, and what it holds. The Job inside
# has a schema of its own.
SCHEMA = {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {"name": str, "labels": {str: str}, "annotations": {str: str}},
    "spec": {
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [
                {
                    "name": re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"),
                    "action": re.compile("FailJobSet|RestartJobSet(AndIgnoreMaxRestarts)?"),
                    "onJobFailureReasons": [
                        re.compile("BackoffLimitExceeded|DeadlineExceeded|PodFailurePolicy")
                    ],
                }
            ],
        },
        "network": {"enableDNSHostnames": bool, "subdomain": str},
        "replicatedJobs": [{"name": str, "replicas": int, "template": {"spec": dict}}],
    },
}


def check(value, schema, place="JobSet"):
    """Raises an AssertionError at the first place that the schema does not know or miss."""
    if isinstance(schema, dict) and str in schema:
        assert isinstance(value, dict), place
        for key, inner in value.items():
            assert isinstance(key, str) and isinstance(inner, schema[str]), f"{place}.{key}"
    elif isinstance(schema, dict):
        assert isinstance(value, dict) and set(value) == set(schema), f"{place}: {value}"
        for key, inner in schema.items():
            check(value[key], inner, f"{place}.{key}")
    elif isinstance(schema, list):
        assert isinstance(value, list) and value, place
        for index, inner in enumerate(value):
            check(inner, schema[0], f"{place}[{index}]")
    elif isinstance(schema, re.Pattern):
        assert schema.fullmatch(value), f"{place}: {value}"
    elif isinstance(schema, str):
        assert value == schema, place
    else:
        assert type(value) is schema, f"{place}: {value!r}"


def check_jobset(jobset):
    check(jobset, SCHEMA)
    for replicated in jobset["spec"]["replicatedJobs"]:
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": replicated["name"]},
            "spec": replicated["template"]["spec"],
        }
        kubernetes_validate.validate(job, "1.37", strict=True)


def rendered(manifest, flags=TRAIN):
    return yaml.safe_load(render.render(manifest, flags))


def job_of(jobset):
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def pod_of(jobset):
    return job_of(jobset)["template"]["spec"]


def container_of(jobset):
    return pod_of(jobset)["containers"][0]


@pytest.mark.parametrize("manifest", [GPU, TPU, render.Manifest("a", **REQUIRED)])
def test_manifests_are_valid(manifest):
    check_jobset(rendered(manifest))


@pytest.mark.parametrize(
    "break_it",
    [
        lambda jobset: jobset["spec"].update(maxRestarts=1),
        lambda jobset: jobset["spec"]["failurePolicy"].pop("maxRestarts"),
        lambda jobset: jobset["spec"]["failurePolicy"]["rules"][0].update(action="Restart"),
        lambda jobset: jobset["metadata"]["labels"].update(a=1),
        lambda jobset: job_of(jobset).update(completion=2),
        lambda jobset: pod_of(jobset).update(terminationGracePeriod=2),
        lambda jobset: container_of(jobset)["args"].append(1),
        lambda jobset: job_of(jobset)["podFailurePolicy"]["rules"][0].pop("action"),
    ],
)
def test_the_validation_finds_what_is_wrong(break_it):
    jobset = rendered(GPU)
    break_it(jobset)
    with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
        check_jobset(jobset)


@pytest.mark.parametrize(("manifest", "hosts"), [(GPU, 2), (TPU, 4)])
def test_every_pod_gets_its_number_and_the_first_ones_address(manifest, hosts, parse_train):
    jobset = rendered(manifest)
    job, arguments = job_of(jobset), container_of(jobset)["args"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == hosts
    index = "3"  # What Kubernetes fills in, of an Indexed job.
    words = [word.replace("$(JOB_COMPLETION_INDEX)", index) for word in arguments]
    parsed = parse_train(words)
    assert (int(parsed.num_processes), int(parsed.process_id)) == (hosts, 3)
    workers = jobset["spec"]["replicatedJobs"][0]
    first_pod = f"{jobset['metadata']['name']}-{workers['name']}-0-0"
    subdomain = jobset["spec"]["network"]["subdomain"]
    port = container_of(jobset)["ports"][0]["containerPort"]
    assert parsed.coordinator == f"{first_pod}.{subdomain}:{port}"
    assert jobset["spec"]["network"]["enableDNSHostnames"] is True
    assert workers["replicas"] == 1


def test_statuses_restart_or_fail_as_they_should():
    jobset = rendered(GPU)
    job, container = job_of(jobset), container_of(jobset)
    actions = {}
    for rule in job["podFailurePolicy"]["rules"]:
        assert rule["onExitCodes"]["containerName"] == container["name"]
        assert rule["onExitCodes"]["operator"] == "In"
        actions.update(dict.fromkeys(rule["onExitCodes"]["values"], rule["action"]))
    assert actions == {2: "FailJob", 42: "Ignore"}
    # Any other status fails the Job at once, and the JobSet starts all of it again, unless the Job
    # failed by the rule for 2.
    assert job["backoffLimit"] == 0
    assert pod_of(jobset)["restartPolicy"] == "Never"
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 10
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


def test_accelerators_are_asked_for():
    gpu, tpu = pod_of(rendered(GPU)), pod_of(rendered(TPU))
    assert gpu["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": 4}}
    assert gpu["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert tpu["containers"][0]["resources"] == {"limits": {"google.com/tpu": 4}}
    assert tpu["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    topology = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    assert rendered(TPU)["metadata"]["annotations"] == {topology: "cloud.google.com/gke-nodepool"}
    assert rendered(GPU)["metadata"]["annotations"] == {}
    unselected = render.Manifest("a", **REQUIRED)
    assert pod_of(rendered(unselected))["nodeSelector"] == {}


def test_values_arrive():
    manifest = render.Manifest(
        "null",  # Of YAML's own words, which unquoted would be no string.
        image="example.org/warp: 1",
        queue="yes",
        claim="12",
        mount="/mnt/runs",
        grace=33,
        max_restarts=5,
        port=99,
        heartbeat_timeout=44,
    )
    jobset = rendered(manifest, ["--config=$HOME/$(X) ${Y}.py", "--workdir", "/mnt/runs/a"])
    assert jobset["metadata"]["name"] == jobset["spec"]["network"]["subdomain"] == "null"
    assert jobset["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "yes"}
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 5
    pod, container = pod_of(jobset), container_of(jobset)
    assert pod["terminationGracePeriodSeconds"] == 33
    assert container["image"] == "example.org/warp: 1"
    # Kubernetes makes $$(X) $(X) again.
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
        ({}, ["--workdir=runs/a"], "--workdir=runs/a behind -- must be a folder below"),
        ({}, ["--workdir=/runs"], "--workdir=/runs behind -- must be a folder below"),
        ({}, ["--config=a.py"], "--workdir= behind -- must be a folder below"),
        ({}, [*TRAIN, "--num_processes=3"], "--num_processes is set by the launcher"),
        ({"accelerator": "tpu", "hosts": 2}, TRAIN, "--hosts=2 is not what --tpu_topology=4x4"),
        ({"accelerator": "tpu", "tpu_topology": "4"}, TRAIN, "must be like 4x4 or 2x2x4"),
        ({"accelerator": "tpu", "tpu_topology": "3x3"}, TRAIN, "has 9 chips"),
    ],
)
def test_mistakes(changes, flags, message):
    manifest = dataclasses.replace(render.Manifest("a", **REQUIRED), **changes)
    with pytest.raises(UserError, match=re.escape(message)):
        render.render(manifest, flags)


def test_the_longest_name_is_taken():
    check_jobset(rendered(render.Manifest("a" * 51, **REQUIRED)))


def test_the_command_prints_the_manifest(capsys):
    flags = ["--name=a", "--image=b", "--queue=c", "--claim=d", "--accelerator=tpu"]
    given = ["--tpu_topology=2x2x2", "--tpu_type=tpu-v4-podslice", "--max_restarts=3"]
    assert render.main([*flags, *given, "--", "train", *TRAIN]) == 0
    jobset = yaml.safe_load(capsys.readouterr().out)
    check_jobset(jobset)
    assert job_of(jobset)["completions"] == 2
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 3
    with pytest.raises(UserError, match="--claim is missing"):
        render.main([*flags[:3], "--", "train", *TRAIN])


def test_every_value_has_a_flag(capsys):
    with pytest.raises(SystemExit):
        render.main(["--help"])
    shown = set(re.findall(r"^  --(\w+)", capsys.readouterr().out, re.M))
    assert shown == {field.name for field in dataclasses.fields(render.Manifest)}
