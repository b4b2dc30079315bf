from pathlib import Path

import pytest
from flax import traverse_util

from experiments import openmoji, openmoji_cycle
from experiments.ablations import patent
from warp_translate.experiment import build
from warp_translate.experiment.sweep import read_sweep

ROOT = Path(__file__).parents[2]
FOLDER = "experiments/ablations"
NOT_SWEEPS = {"__init__", "bases"}
ABLATIONS = sorted({path.stem for path in (ROOT / FOLDER).glob("*.py")} - NOT_SWEEPS)


pytestmark = pytest.mark.usefixtures("in_the_checkout")


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_variant_builds_and_is_different(name):
    sweep = read_sweep(f"{FOLDER}/{name}.py", seeds=2)
    assert sweep.title.endswith(".")
    assert sweep.claim.startswith("Claim: ")
    assert len(sweep.variants) >= 3
    module = __import__(f"experiments.ablations.{name}", fromlist=["get_config"])
    configs = []
    for overrides in sweep.variants.values():
        config = module.get_config()
        config.update_from_flattened_dict(dict(overrides))
        build.training(config)
        configs.append(config.to_json(sort_keys=True))
    assert len(set(configs)) == len(configs), "two variants are the same"


@pytest.mark.parametrize("name", sorted(set(ABLATIONS) - {"cycle", "patent"}))
def test_ablations_of_pairs_take_another_base(name):
    module = __import__(f"experiments.ablations.{name}", fromlist=["get_config"])
    config = module.get_config("base=paired,steps=123")
    assert (config.data.size, config.training.total_steps) == (256, 123)
    assert module.get_config("runlocal").data.size == 32
    with pytest.raises(ValueError, match=r"base must be one of openmoji, paired.*'other'"):
        module.get_config("base=other")


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_the_walk_from_the_patent_ends_at_the_defaults(kind):
    default = openmoji if kind == "paired" else openmoji_cycle
    config = patent.get_config(f"kind={kind}")
    *_, last = patent.get_sweep(f"kind={kind}").values()
    config.update_from_flattened_dict(last)
    assert config.to_dict() == default.get_config().to_dict()


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_the_way_back_takes_one_deviation_from_the_defaults(kind):
    flat = [
        flatten(patent.get_config(f"kind={kind},back"), overrides)
        for overrides in patent.get_sweep(f"kind={kind},back").values()
    ]
    literal, default = flatten(patent.get_config(f"kind={kind}"), {}), flat[0]
    assert default == flatten(patent.get_config(f"kind={kind}"), last(kind))
    for variant in flat[1:]:
        differing = {path for path in default if variant[path] != default[path]}
        assert differing and all(variant[path] in (literal[path], "reduced") for path in differing)
    # The heads need two steps, of which only the second can be taken back.
    assert len(flat) == len(patent.get_sweep(f"kind={kind}")) - 1


def last(kind):
    return [*patent.get_sweep(f"kind={kind}").values()][-1]


def flatten(config, overrides):
    config.update_from_flattened_dict(overrides)
    return traverse_util.flatten_dict(config.to_dict(), sep=".")
