import math

import ml_collections
import pytest

from experiments import base
from warp_translate.errors import UserError
from warp_translate.evaluation.runs import flat
from warp_translate.experiment import fields


@pytest.mark.parametrize("kind", fields.TRAININGS)
def test_the_fields_are_those_of_the_default_configuration_and_its_values_pass(kind):
    config = base.get_config(kind)
    assert set(fields.names(kind)) == set(flat(config.to_dict()))
    fields.check(config, complete=True)
    fields.check(base.shrink(config), complete=True)


@pytest.mark.parametrize("kind", fields.TRAININGS)
def test_every_field_refuses_something_and_says_its_name(kind):
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


def test_what_came_later_may_be_missing_of_a_run_and_nothing_else():
    def without(*names):
        config = base.get_config("paired")
        for name in names:
            section, _, last = name.rpartition(".")
            del config[section][last]
        return config

    older = without("evaluation.factors", "generator.border", "finetune.source")
    fields.check(older)
    with pytest.raises(UserError, match=r"^config\.\S+ is missing"):
        fields.check(older, complete=True)
    with pytest.raises(UserError, match=r"^here: optim\.lr is missing"):
        fields.check(without("optim.lr"), "here: ")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("optim.lrr", "optim.lr"),
        ("opitm.b1", "optim.b1"),
        ("lr", "optim.lr"),
    ],
)
def test_an_unknown_field_is_answered_with_the_nearest(name, nearest):
    config = base.get_config("paired")
    section, _, last = name.rpartition(".")
    content = config.to_dict()
    (content.setdefault(section, {}) if section else content)[last] = 1.0
    with pytest.raises(UserError) as caught:
        fields.check(ml_collections.ConfigDict(content))
    assert str(caught.value).startswith(f"config.{name} is no field of paired training; did you")
    assert str(caught.value).endswith(f"mean config.{nearest}?")
