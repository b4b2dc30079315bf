import json
import math

import ml_collections
import pytest

from experiments import base
from warp_translate.errors import UserError
from warp_translate.evaluation.runs import flat
from warp_translate.experiment import fields


@pytest.mark.parametrize("kind", fields.TRAININGS)
def test_default_configurations_are_valid(kind):
    for config in (base.get_config(kind), base.shrink(base.get_config(kind))):
        fields.check(config)
        # A run's file has lists where the configuration has tuples.
        fields.check(ml_collections.ConfigDict(json.loads(config.to_json())))


@pytest.mark.parametrize("kind", fields.TRAININGS)
def test_every_field_refuses_invalid_values(kind):
    for name, value in flat(base.get_config(kind).to_dict()).items():
        section, _, last = name.rpartition(".")
        wrongs = [3 if isinstance(value, str | bool | None) else "x"]
        wrongs += [math.nan, math.inf] if isinstance(value, float) else []
        wrongs += [True, 0.5, -1] if type(value) is int else []
        for wrong in wrongs:
            content = base.get_config(kind).to_dict()
            (content[section] if section else content)[last] = wrong
            config = ml_collections.ConfigDict(content)
            with pytest.raises(UserError) as caught:
                fields.check(config)
            assert str(caught.value).startswith(f"config.{name} is {wrong!r}; it must be "), name


def test_a_missing_field_is_named():
    config = base.get_config("paired")
    del config.optim.lr
    with pytest.raises(UserError, match=r"^here: optim\.lr is missing: peak learning rate"):
        fields.check(config, "here: ")


def test_an_unknown_kind_of_training_is_refused():
    with pytest.raises(UserError, match=r"config\.method\.training is 'circle'; it must be one of"):
        base.get_config("circle")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("optim.lrr", "optim.lr"),
        ("opitm.b1", "optim.b1"),
        ("lr", "optim.lr"),
    ],
)
def test_an_unknown_field_is_answered_with_the_closest(name, nearest):
    config = base.get_config("paired")
    section, _, last = name.rpartition(".")
    content = config.to_dict()
    (content.setdefault(section, {}) if section else content)[last] = 1.0
    with pytest.raises(UserError) as caught:
        fields.check(ml_collections.ConfigDict(content))
    assert str(caught.value).startswith(f"config.{name} is no field of paired training; did you")
    assert str(caught.value).endswith(f"mean config.{nearest}?")


def test_the_page_lists_every_field_with_meaning_range_and_default():
    config = base.get_config("paired")
    config.losses.l1_output = 50.0
    lines = fields.page(config).splitlines()
    place = lines.index("losses.l1_output = 50.0")
    meaning = "L1 between output and target; a number of at least 0 (default 100.0)"
    assert lines[place + 1].strip() == meaning
    assert [line.partition(" =")[0] for line in lines[::2]] == list(fields.settings("paired"))
