"""Declared settings: valid values and messages."""

import optax
import pytest

from warp_translate.data.augment import JointAugment
from warp_translate.models import Discriminator, DomainClassifier
from warp_translate.ops.augment import Augmentation
from warp_translate.settings import InvalidSetting, declared
from warp_translate.training.classifier_step import ClassifierTraining
from warp_translate.training.contrastive_step import ContrastiveLosses
from warp_translate.training.cycle_step import CycleLosses
from warp_translate.training.discriminator_training import Adversary
from warp_translate.training.loop import Schedule
from warp_translate.training.method import Method
from warp_translate.training.optim import Adam
from warp_translate.training.paired_step import PairedLosses
from warp_translate.training.parallel import Replicas


def adversary(**settings):
    return Adversary(Discriminator(), optax.sgd(0.1), **settings)


def classifier(**settings):
    return ClassifierTraining(
        classifier=DomainClassifier(domains=2), optimizer=optax.sgd(0.1), **settings
    )


def replicas(**settings):
    return Replicas(None, **settings)


@pytest.mark.parametrize(
    ("consumer", "name", "value", "valid"),
    [
        (Method, "factor", 0, "an integer from 1 to 32768"),
        (Method, "factor", 2.0, "an integer from 1 to 32768"),
        (Method, "mask_weights", "both", "one of pretranslated, warped"),
        (Method, "fusion", "sum", "one of full, pretranslated, warped, unwarped"),
        (Method, "warp_kernels", 1, "true or false"),
        (adversary, "loss", "wgan", "one of bce, least_squares, hinge, relativistic"),
        (adversary, "penalty_every", 0, "an integer of at least 1"),
        (Augmentation, "cutout", float("nan"), "a number from 0 to 1"),
        (PairedLosses, "l1_output", -1.0, "a number of at least 0"),
        (PairedLosses, "mask_low", 1.5, "a number from 0 to 1"),
        (CycleLosses, "adversarial_start", -1, "an integer of at least 0"),
        (ContrastiveLosses, "temperature", 0.0, "a number above 0"),
        (ContrastiveLosses, "patches", 2**31, "an integer of at least 2"),
        (classifier, "outliers", True, "a number of at least 0"),
        (classifier, "ema_decay", 1.0, "a number of at least 0 and below 1"),
        (Adam, "lr", 2.0, "a number above 0 and at most 1"),
        (Adam, "schedule", "wavy", "one of constant, linear, cosine"),
        (Schedule, "log_every", 0, "an integer of at least 1"),
        (JointAugment, "scale", (1.2, 1.0), "two numbers above 0, the least and the largest"),
        (replicas, "mapping", "vmap", "one of pmap, shard_map"),
    ],
)
def test_an_invalid_setting_is_named_with_its_valid_values(consumer, name, value, valid):
    with pytest.raises(InvalidSetting) as caught:
        consumer(**{name: value})
    message = str(caught.value)
    assert message.startswith("config.") and f" is {value!r}; it must be {valid}" in message


def test_a_misspelled_choice_is_answered_with_the_closest():
    with pytest.raises(InvalidSetting, match=r"did you mean full\?$"):
        Method(fusion="ful")


def test_settings_that_do_not_fit_each_other_are_refused():
    with pytest.raises(InvalidSetting, match=r"mask_low 0\.8 must be at most .*mask_high 0\.2"):
        PairedLosses(mask_low=0.8, mask_high=0.2)
    with pytest.raises(
        InvalidSetting, match=r"load_size 15 must be at least config\.data\.size 16"
    ):
        JointAugment(size=16, load_size=15)


def test_declarations_are_inherited_and_may_have_another_name():
    found = declared(CycleLosses, "losses")
    assert found["losses.cycle"][1].default == 3.0
    assert found["losses.smoothness_first"][0] == "smoothness_first"
    assert declared(ClassifierTraining, "method").keys() == {
        *("optim.ema_decay", "training.accumulate", "method.outliers")
    }
