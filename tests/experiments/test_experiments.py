import importlib
from pathlib import Path

import jax
import pytest

from experiments import base
from warp_translate.errors import UserError
from warp_translate.evaluation import cost
from warp_translate.experiment import build

FOLDER = Path(base.__file__).parent
FILES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
EXPERIMENTS = [name for name in FILES if name != "base"]
# Every file as it is, and of those that are for several kinds of training, every kind.
CALLS = [
    (name, arg)
    for name in EXPERIMENTS
    for arg in ["", *("kind=contrastive,",) * ("kind=" in (FOLDER / f"{name}.py").read_text())]
]
KINDS = ("paired", "cycle", "contrastive", "classifier")


def get_config(name, arg=""):
    return importlib.import_module(f"experiments.{name}").get_config(arg)


def test_there_are_experiments():
    assert {"paired", "quickstart", "cycle"} <= set(EXPERIMENTS)
    assert ("cycle", "kind=contrastive,") in CALLS


@pytest.mark.parametrize(("name", "arg"), CALLS)
def test_every_experiment_can_be_built_and_is_shrunk_by_runlocal(name, arg):
    full, tiny = get_config(name, arg), get_config(name, f"{arg}runlocal")
    training = build.training(full)
    if full.method.training == "classifier":
        assert tiny.classifier.width * tiny.classifier.stages <= 16
    else:
        assert full.data.size % (training.factor * training.generator.stride) == 0
        assert full.data.size >= training.adversary.discriminator.minimum_size
        assert tiny.generator.width * tiny.generator.blocks <= 16
    build.joint_augment(full)
    build.eval_crop(full)
    build.schedule(full)
    build.training(tiny)
    assert tiny.training.total_steps <= 10 < full.training.total_steps
    for section, fields in base.get_config(full.method.training).items():
        for config in (full, tiny):
            assert section == "seed" or set(config[section]) == set(fields), section


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "classifier"])
def test_the_cost_of_every_experiment_is_told_by_its_parts(name):
    """What is in none of them is conversion to and from uint8, below a hundredth."""
    training = build.training(get_config(name))
    for factor in (1, 8) if name == "quickstart" else (8,):
        parts, open_loops = cost.macs_by_part(
            cost.translation(
                training.generator,
                factor,
                mask_weights=training.mask_weights,
                fusion=training.fusion,
            ),
            cost.abstract_parameters(training.generator),
            jax.ShapeDtypeStruct((1, 64, 64, 3), "uint8"),
        )
        whole = sum(part.total for part in parts.values())
        assert parts["other"].total < 0.01 * whole
        unused = {"reduce", "upsampling"} if factor == 1 else set()
        assert {part for part, found in parts.items() if not found.total} == unused
        assert open_loops == 0


@pytest.mark.parametrize("kind", KINDS)
def test_base_fields_are_all_read(kind):
    """An option that nothing reads would pass every other test."""
    sources = "".join(path.read_text() for path in Path(build.__file__).parent.glob("*.py"))
    config = base.get_config(kind)
    assert config.method.training == kind
    for section in ("data", "method", "optim", "training", "evaluation"):
        for name in config[section]:
            assert f".{name}" in sources, f"config.{section}.{name}"
    # Reads generator, discriminator, adversary and losses whole, field by field.
    training = build.training(config)
    if kind == "classifier":
        fields = {**config.classifier, "domains": 2}
        assert fields == {name: getattr(training.classifier, name) for name in fields}
        assert training.outliers == config.method.outliers
        return
    for section, built in (("generator", training.generator), ("losses", training.losses)):
        for name in config[section]:
            assert getattr(built, name) == config[section][name], f"config.{section}.{name}"
    assert training.adversary.loss == config.adversary.loss
    assert training.adversary.penalty_every == config.adversary.penalty_every


def test_the_adversarys_fields_reach_the_adversary_and_its_augmentation():
    config = base.get_config("cycle")
    config.adversary.update(loss="bce", r1=0.5, r2=0.25, penalty_every=3)
    config.adversary.update(colour=0.75, translation=0.125, cutout=0.375)
    config.discriminator.spectral_norm = False
    config.method.pool_size = 7
    training = build.training(config)
    adversary, augmentation = training.adversary, training.adversary.augmentation
    assert (adversary.loss, adversary.r1, adversary.r2, adversary.penalty_every) == (
        *("bce", 0.5, 0.25, 3),
    )
    assert augmentation.colour == 0.75
    assert (augmentation.translation, augmentation.cutout) == (0.125, 0.375)
    assert not adversary.discriminator.spectral_norm
    assert training.pool_size == 7


def test_cycle_takes_size_factor_and_kind():
    config = get_config("cycle", "size=128,factor=4")
    assert (config.data.size, config.data.load_size, config.method.factor) == (128, 143, 4)
    assert config.method.training == "cycle" and config.data.name == "openmoji_gender_unpaired"
    assert get_config("cycle", "kind=contrastive").method.training == "contrastive"
    with pytest.raises(UserError, match=r"method.training is 'circle'; it must be one of"):
        build.training(get_config("cycle", "kind=circle"))


def test_arguments_are_typed_and_unknown_ones_refused():
    arg = base.parse_arg(
        "size=128,rate=0.5,runlocal,name=x", size=1, rate=1.0, runlocal=False, name=""
    )
    assert (arg.size, arg.rate, arg.runlocal, arg.name) == (128, 0.5, True, "x")
    assert base.parse_arg(None, size=1).size == 1
    assert not base.parse_arg("runlocal=false", runlocal=True).runlocal
    with pytest.raises(ValueError, match=r"unknown argument 'sise'.* it takes size"):
        base.parse_arg("sise=3", size=1)
    with pytest.raises(ValueError, match=r"argument size takes int, got '1\.5'"):
        base.parse_arg("size=1.5", size=1)
    with pytest.raises(ValueError, match="takes true or false, got 'yes'"):
        base.parse_arg("runlocal=yes", runlocal=False)
