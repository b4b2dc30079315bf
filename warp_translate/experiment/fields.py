"""What the fields of a configuration may hold, by their dotted names.

The kinds of training have different fields, those that ``experiments/base.py`` gives them; a test
compares. Which values fit each other, and the data, is found where they are built, see ``build``.
"""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_args

import ml_collections

from warp_translate.constants import Border, DisplacementSize, Fusion
from warp_translate.data.portraits import DOMAINS
from warp_translate.errors import UserError
from warp_translate.evaluation.runs import flat
from warp_translate.losses.adversarial import Adversarial
from warp_translate.models.domain_classifier import GROUPS
from warp_translate.models.generator import Head, Remat
from warp_translate.ops import MaskWeights, Reduction
from warp_translate.training.optim import Schedule
from warp_translate.training.parallel import MappingKind

TRAININGS = ("paired", "cycle", "contrastive", "classifier")

_MOST = 2**31 - 1  # What a device's integers hold; the step is one.
_MOST_PIXELS = 2**15
_MOST_IMAGES = 2**20
_MOST_CHANNELS = 2**14


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What a field may hold.

    Attributes:
      what: in words, behind "it must be".
      holds: whether a value is such.
      choices: names of which it is one, if it is one of a few.
    """

    what: str
    holds: Callable[[Any], bool]
    choices: tuple[str, ...] = ()


def _is_number(value: Any) -> bool:
    known = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return known and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_step(value: Any) -> bool:
    return value in ("best", "latest") or (isinstance(value, str) and value.isdecimal())


def _whole(least: int, most: int = _MOST) -> _Rule:
    return _Rule(
        f"a whole number of at least {least}" + (f", at most {most}" if most < _MOST else ""),
        lambda value: _is_whole(value) and least <= value <= most,
    )


def _number(least: float, most: float = math.inf) -> _Rule:
    span = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    return _Rule(f"a number {span}", lambda value: _is_number(value) and least <= value <= most)


def _positive(most: float = math.inf) -> _Rule:
    return _Rule(
        "a number above 0" + (f", at most {most:g}" if most < math.inf else ""),
        lambda value: _is_number(value) and 0 < value <= most,
    )


def _decay() -> _Rule:
    return _Rule(
        "a number of at least 0 and below 1", lambda value: _is_number(value) and 0 <= value < 1
    )


def _one_of(choices: tuple[str, ...]) -> _Rule:
    return _Rule(f"one of {', '.join(choices)}", lambda value: value in choices, choices)


def _optional_text() -> _Rule:
    return _Rule("a path, or not given", lambda value: value is None or _is_text(value))


_WEIGHT = _number(0)
_SHARE = _number(0, 1)
_SWITCH = _Rule("true or false", lambda value: isinstance(value, bool))
_TEXT = _Rule("a name", _is_text)
_TEXT_OR_NONE = _Rule('a text, "" for none', lambda value: isinstance(value, str))
_CHANNELS = _whole(1, _MOST_CHANNELS)
_TYPES = _one_of(("float32", "bfloat16"))
_SCALE = _Rule(
    "two numbers above 0, the least and the largest, such as (0.9,1.1)",
    lambda value: (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(map(_is_number, value))
        and 0 < value[0] <= value[1]
    ),
)
_FACTORS = _Rule(
    "whole numbers of at least 1, such as (1,4)",
    lambda value: (
        isinstance(value, tuple | list) and all(_is_whole(each) and each >= 1 for each in value)
    ),
)

_COMMON = {
    "seed": _whole(0, 2**32 - 1),
    "data.name": _TEXT,
    "data.dir": _optional_text(),
    "data.root": _optional_text(),
    "data.direction": _one_of(("AtoB", "BtoA")),
    "data.domains": _one_of(DOMAINS),
    "data.size": _whole(1, _MOST_PIXELS),
    "data.load_size": _whole(1, _MOST_PIXELS),
    "data.flip": _SWITCH,
    "data.max_shift": _whole(0, _MOST_PIXELS),
    "data.scale": _SCALE,
    "data.max_rotation": _number(0, 180),
    "data.colour": _number(0),
    "data.channel_shuffle": _SHARE,
    "method.training": _one_of(TRAININGS),
    "optim.lr": _positive(1),
    "optim.b1": _decay(),
    "optim.b2": _decay(),
    "optim.schedule": _one_of(get_args(Schedule)),
    "optim.warmup_steps": _whole(0),
    "optim.ema_decay": _decay(),
    "finetune.source": _TEXT_OR_NONE,
    "finetune.step": _Rule("best, latest or a number of steps", _is_step),
    "finetune.freeze": _TEXT_OR_NONE,
    "training.global_batch": _whole(1, _MOST_IMAGES),
    "training.accumulate": _whole(1),
    "training.steps_per_call": _whole(1),
    "training.parallel": _one_of(get_args(MappingKind)),
    "training.total_steps": _whole(1),
    "training.log_every": _whole(1),
    "training.evaluate_every": _whole(1),
    "training.save_every": _whole(1),
    "training.keep_latest": _whole(1),
    "training.keep_every": _whole(0),
    "evaluation.batch_size": _whole(1, _MOST_IMAGES),
    "evaluation.sheet_rows": _whole(1, _MOST_IMAGES),
    "evaluation.best_metric": _TEXT,
}

_CLASSIFIER = {
    "classifier.domains": _TEXT,
    "classifier.width": _Rule(
        f"a whole number, {GROUPS} times 1 or more",
        lambda value: _is_whole(value) and 0 < value <= _MOST_CHANNELS and value % GROUPS == 0,
    ),
    "classifier.stages": _whole(1, 15),
    "classifier.dtype": _TYPES,
    "classifier.param_dtype": _TYPES,
    "method.outliers": _WEIGHT,
    "method.threshold": _SHARE,
}

_TRANSLATION = {
    "method.factor": _whole(1, _MOST_PIXELS),
    "method.mask_weights": _one_of(get_args(MaskWeights)),
    "method.fusion": _one_of(get_args(Fusion)),
    "method.reduction": _one_of(get_args(Reduction)),
    "method.warp_kernels": _SWITCH,
    "generator.width": _CHANNELS,
    "generator.blocks": _whole(0, 1000),
    "generator.head": _one_of(get_args(Head)),
    "generator.head_width": _CHANNELS,
    "generator.head_kernel": _Rule(
        "an odd whole number of at least 3",
        lambda value: _is_whole(value) and value >= 3 and value % 2 == 1,
    ),
    "generator.displacement_size": _one_of(get_args(DisplacementSize)),
    "generator.max_displacement": _WEIGHT,
    "generator.mask_bias": _Rule("a number", _is_number),
    "generator.border": _one_of(get_args(Border)),
    "generator.remat": _one_of(get_args(Remat)),
    "generator.dtype": _TYPES,
    "generator.param_dtype": _TYPES,
    "discriminator.width": _CHANNELS,
    "discriminator.layers": _whole(1, 15),
    "discriminator.scales": _whole(1, 15),
    "discriminator.spectral_norm": _SWITCH,
    "discriminator.dtype": _TYPES,
    "discriminator.param_dtype": _TYPES,
    "adversary.loss": _one_of(get_args(Adversarial)),
    "adversary.r1": _WEIGHT,
    "adversary.r2": _WEIGHT,
    "adversary.penalty_every": _whole(1),
    "adversary.colour": _SHARE,
    "adversary.translation": _SHARE,
    "adversary.cutout": _SHARE,
    "losses.smoothness_first": _WEIGHT,
    "losses.smoothness_second": _WEIGHT,
    "losses.mask_variation": _WEIGHT,
    "losses.mask_band": _WEIGHT,
    "losses.mask_low": _SHARE,
    "losses.mask_high": _SHARE,
    "losses.adversarial": _WEIGHT,
    "finetune.freeze_discriminator": _TEXT_OR_NONE,
    "optim.discriminator_lr": _positive(1),
    "optim.discriminator_b1": _decay(),
    "evaluation.extractor": _TEXT_OR_NONE,
    "evaluation.recogniser": _TEXT_OR_NONE,
    "evaluation.recogniser_domains": _TEXT_OR_NONE,
    "evaluation.factors": _FACTORS,
}

_PAIRED = {
    "losses.l1_output": _WEIGHT,
    "losses.l1_pretranslated": _WEIGHT,
    "losses.l1_warped": _WEIGHT,
    "losses.pyramid_levels": _whole(1, 15),
    "losses.feature_matching": _WEIGHT,
    "losses.perceptual": _WEIGHT,
}

_UNPAIRED = {
    "losses.adversarial_pretranslated": _WEIGHT,
    "losses.adversarial_start": _whole(0),
    "losses.adversarial_ramp": _whole(0),
    "losses.identity": _WEIGHT,
    "losses.identity_pretranslated": _WEIGHT,
    "method.pool_size": _whole(0),
}

_CYCLE = {
    "method.deterministic": _SWITCH,
    "losses.cycle": _WEIGHT,
    "losses.cycle_full": _WEIGHT,
}

_CONTRASTIVE = {
    "losses.contrast": _WEIGHT,
    "losses.contrast_identity": _WEIGHT,
    "losses.temperature": _positive(),
    "losses.patches": _whole(2),
}

_RULES: dict[str, Mapping[str, _Rule]] = {
    "paired": _COMMON | _TRANSLATION | _PAIRED,
    "cycle": _COMMON | _TRANSLATION | _UNPAIRED | _CYCLE,
    "contrastive": _COMMON | _TRANSLATION | _UNPAIRED | _CONTRASTIVE,
    "classifier": _COMMON | _CLASSIFIER,
}

# What a run may lack that was started before there was the field: what has a default without it.
_LATER = frozenset(
    {
        "method.reduction",
        "training.keep_every",
        "evaluation.extractor",
        "evaluation.recogniser",
        "evaluation.recogniser_domains",
        "evaluation.factors",
    }
)
_LATER_SECTIONS = ("finetune.", "generator.", "discriminator.", "losses.")


def names(training: str) -> tuple[str, ...]:
    """The dotted names of all fields of a kind of training, one of ``TRAININGS``."""
    return tuple(_RULES[training])


def check(
    config: ml_collections.ConfigDict, place: str = "config.", *, complete: bool = False
) -> None:
    """Checks that every field is known, and holds what it may.

    Args:
      config: the configuration.
      place: what messages write before the name of a field.
      complete: whether none may be missing; else those may of which older runs know nothing.

    Raises:
      UserError: a field is not as it should be; the first that is found is named.
    """
    fields = flat(config.to_dict())
    kind = fields.get("method.training")
    if kind not in TRAININGS:
        raise _refused(f"{place}method.training", kind, _COMMON["method.training"])
    rules = _RULES[kind]
    for name in fields:
        if name not in rules:
            hint = near(name, rules, place)
            raise UserError(f"{place}{name} is no field of {kind} training; {hint}")
    for name, rule in rules.items():
        if name in fields:
            if not rule.holds(fields[name]):
                raise _refused(f"{place}{name}", fields[name], rule)
        elif complete or not _may_lack(name):
            raise UserError(f"{place}{name} is missing: experiments/base.py says what it is like")


def near(name: str, known: Collection[str], place: str) -> str:
    """The end of a message about a field that does not exist.

    Args:
      name: its dotted name.
      known: those of the fields that exist.
      place: what messages write before each.
    """
    # A field that was looked for in another section, or in none, is still that field.
    last = name.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2] == last]
    close = difflib.get_close_matches(name, same or known, n=1, cutoff=0.0)
    return f"did you mean {place}{close[0]}?"


def _may_lack(name: str) -> bool:
    needed = name.endswith("dtype")
    return name in _LATER or (name.startswith(_LATER_SECTIONS) and not needed)


def _refused(name: str, value: Any, rule: _Rule) -> UserError:
    close = difflib.get_close_matches(str(value), rule.choices, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return UserError(f"{name} is {value!r}; it must be {rule.what}{hint}")
