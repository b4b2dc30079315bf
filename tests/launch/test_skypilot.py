import pytest
import yaml

from tests.launch.conftest import ROOT, call

TASK = yaml.safe_load((ROOT / "launch/skypilot/train.yaml").read_text())


def test_fields():
    assert set(TASK) == {
        *("name", "num_nodes", "resources", "workdir", "envs", "file_mounts", "setup", "run"),
    }
    assert set(TASK["resources"]) == {"accelerators", "use_spot", "job_recovery"}
    assert TASK["resources"]["job_recovery"] == {
        "recover_on_exit_codes": [42],
        "max_restarts_on_errors": 3,
    }
    assert TASK["num_nodes"] > 1
    assert all(isinstance(value, str) for value in TASK["envs"].values())


@pytest.mark.parametrize("rank", [0, 1])
def test_nodes_get_their_rank_and_the_address_of_the_first(fake, parse_train, rank):
    program = fake.folder.parent / ".venv/bin/warp-translate"
    fake.add("warp-translate", "exit 42", path=program)
    environment = {
        "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": str(rank),
        "FLAGS": "--config.optim.lr=1e-3 --config.seed=3",
        "RUN": "two words",
    }
    environment = {**fake.environment, **TASK["envs"], **environment}
    done = call("bash", "-c", TASK["run"], cwd=fake.folder.parent, env=environment)
    assert done.returncode == 42
    (words,) = fake.calls("warp-translate")
    parsed = parse_train(words)
    assert parsed.coordinator == "10.0.0.5:8476"
    assert (int(parsed.num_processes), int(parsed.process_id)) == (2, rank)
    assert (parsed.config.optim.lr, parsed.config.seed) == (1e-3, 3)
    (mount,) = TASK["file_mounts"]
    assert parsed.workdir == f"{mount}/two words"
