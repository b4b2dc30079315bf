"""The fields of a configuration, from the settings that the dataclasses declare."""

import dataclasses
import difflib
import inspect
from collections.abc import Collection
from typing import Any

import ml_collections
from ml_collections import config_dict

from warp_translate.data.augment import JointAugment
from warp_translate.data.portraits import DOMAINS
from warp_translate.data.teacher import Teaching
from warp_translate.evaluation.runs import flat
from warp_translate.models import Discriminator, DomainClassifier, Generator
from warp_translate.ops.augment import Augmentation
from warp_translate.settings import InvalidSetting, Setting, declared, is_integer, setting
from warp_translate.training.base import GeneratorTraining
from warp_translate.training.classifier_step import ClassifierTraining
from warp_translate.training.contrastive_step import ContrastiveLosses, ContrastiveTraining
from warp_translate.training.cycle_step import CycleLosses, CycleTraining
from warp_translate.training.discriminator_training import Adversary
from warp_translate.training.loop import Schedule
from warp_translate.training.method import Method
from warp_translate.training.optim import Adam, AdversarialAdam
from warp_translate.training.paired_step import PairedLosses, PairedTraining
from warp_translate.training.parallel import Replicas
from warp_translate.training.regularization import Regularization

GENERATORS: dict[str, tuple[type[GeneratorTraining], type[Regularization]]] = {
    "paired": (PairedTraining, PairedLosses),
    "cycle": (CycleTraining, CycleLosses),
    "contrastive": (ContrastiveTraining, ContrastiveLosses),
}
TRAININGS = (*GENERATORS, "classifier")

_MOST_IMAGES = 2**20


# Settings that this package itself uses, as fields of the configuration.
@dataclasses.dataclass(frozen=True)
class _Run:
    seed: int = setting(0, "root of all random keys", minimum=0, maximum=2**32 - 1)


@dataclasses.dataclass(frozen=True)
class _Data:
    name: str = setting(
        "openmoji_gender",
        "data set: openmoji_gender, paired_folder, paired_strips, teacher; of unpaired training "
        "openmoji_gender_unpaired, unpaired_folder, portraits, cycle_gan/NAME; of both "
        "tfds_folder; a classifier takes all of these and domain_folders",
    )
    dir: str | None = setting(None, "folder of prepared data sets; default: that of TFDS")
    root: str | None = setting(None, "folder of the images")
    direction: str = setting(
        "AtoB", "direction of translation for folders of pairs", choices=("AtoB", "BtoA")
    )
    domains: str = setting("male_female", "domains of portraits", choices=DOMAINS)


@dataclasses.dataclass(frozen=True)
class _Kind:
    training: str = setting("paired", "kind of training", choices=TRAININGS)


@dataclasses.dataclass(frozen=True)
class _Finetune:
    source: str = setting(
        "",
        "run or bundle with the initial parameters, for a cycle also one for each direction, "
        "separated by a comma; FOLDER:a_to_b is one generator of a cycle",
    )
    step: str = setting(
        "best",
        "step of that run",
        valid=(
            "best, latest or a number of steps",
            lambda value: (
                value in ("best", "latest") or (isinstance(value, str) and value.isdecimal())
            ),
        ),
    )
    freeze: str = setting("", "prefixes of parameters to keep, such as trunk")


@dataclasses.dataclass(frozen=True)
class _AdversarialFinetune(_Finetune):
    freeze_discriminator: str = setting(
        "", "prefixes of discriminator parameters to keep, such as scale_0/Conv_0"
    )


@dataclasses.dataclass(frozen=True)
class _Steps:
    global_batch: int = setting(
        8, "examples per step over all devices", minimum=1, maximum=_MOST_IMAGES
    )
    keep_latest: int = setting(2, "newest checkpoints to keep", minimum=1)
    keep_every: int = setting(0, "steps whose multiples are kept for good; 0 for none", minimum=0)


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    batch_size: int = setting(8, "examples per device", minimum=1, maximum=_MOST_IMAGES)
    sheet_rows: int = setting(8, "rows of the sheet", minimum=1, maximum=_MOST_IMAGES)
    best_metric: str = setting(
        "test/output/l1", "metric of the best checkpoint, a weighted sum of several, or latest"
    )


@dataclasses.dataclass(frozen=True)
class _TranslationEvaluation(_Evaluation):
    extractor: str = setting(
        "",
        "features for distances: efficientnet_lite0, a .safetensors or .onnx file; with "
        ":crops at full resolution; several with commas, the first for best_metric",
    )
    recognizer: str = setting(
        "", "run of a classifier or .onnx file that judges whether outputs pass for the target"
    )
    recognizer_domains: str = setting("", "its classes A and B; default: the first two")
    factors: tuple[int, ...] = setting(
        (),
        "further factors to evaluate",
        valid=(
            "integers of at least 1, such as (1,4)",
            lambda value: (
                isinstance(value, tuple | list)
                and all(is_integer(each) and each >= 1 for each in value)
            ),
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Classification:
    domains: str = setting("man,woman", "names of the domains, separated by commas")
    threshold: float = setting(
        0.8,
        "least probability of a known domain",
        minimum=0,
        maximum=1,
        name="method.threshold",
    )


_COMMON = (
    *(("", _Run), ("data", _Data), ("data", Teaching), ("data", JointAugment)),
    *(("method", _Kind), ("training", Schedule), ("training", Replicas), ("training", _Steps)),
)
_TRANSLATION = (
    *(("method", Method), ("generator", Generator), ("discriminator", Discriminator)),
    *(("adversary", Adversary), ("adversary", Augmentation), ("optim", AdversarialAdam)),
    *(("finetune", _AdversarialFinetune), ("evaluation", _TranslationEvaluation)),
)
_CLASSIFIER = (
    *(("method", ClassifierTraining), ("classifier", _Classification)),
    *(("classifier", DomainClassifier), ("optim", Adam), ("finetune", _Finetune)),
    ("evaluation", _Evaluation),
)


def _consumers(kind: str) -> tuple[tuple[str, type], ...]:
    """The dataclasses that declare the fields of a kind of training, with their sections."""
    if kind == "classifier":
        return (*_COMMON, *_CLASSIFIER)
    training, losses = GENERATORS[kind]
    return (*_COMMON, *_TRANSLATION, ("method", training), ("losses", losses))


_UNPAIRED = {
    "data.name": "openmoji_gender_unpaired",
    # As CycleGAN; the weight of R1 is for it.
    "adversary.loss": "least_squares",
    "adversary.r1": 0.2,
    "adversary.penalty_every": 4,
    "evaluation.best_metric": "test/kernel_distance",
    "evaluation.extractor": "efficientnet_lite0",
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "paired": {},
    "cycle": _UNPAIRED,
    "contrastive": _UNPAIRED,
    "classifier": {"evaluation.best_metric": "test/cross_entropy"},
}
_ORDER = (
    *("", "data", "method", "generator", "discriminator", "adversary", "classifier", "losses"),
    *("optim", "finetune", "training", "evaluation"),
)
# Only a cycle takes the gradient of the warp with respect to the image.
_ONLY_CYCLE = "method.deterministic"


def settings(kind: Any, place: str = "config.") -> dict[str, Setting]:
    """The fields of a kind of training, by dotted name.

    Args:
      kind: one of ``TRAININGS``.
      place: prefix of the fields' names in messages.

    Raises:
      InvalidSetting: there is no such kind.
    """
    if problem := declared(_Kind, "")["training"][1].problem(f"{place}method.training", kind):
        raise InvalidSetting(problem)
    defaults = _DEFAULTS[kind] | {"method.training": kind}
    found = {
        name: dataclasses.replace(each, default=defaults.get(name, each.default))
        for section, consumer in _consumers(kind)
        for name, (_, each) in declared(consumer, section).items()
        if name != _ONLY_CYCLE or kind == "cycle"
    }
    return dict(sorted(found.items(), key=lambda each: _ORDER.index(each[0].rpartition(".")[0])))


def default_config(kind: str) -> ml_collections.ConfigDict:
    """The default configuration of a kind of training.

    Raises:
      InvalidSetting: there is no such kind.
    """
    config = ml_collections.ConfigDict()
    for name, each in settings(kind).items():
        section, _, field = name.rpartition(".")
        if section and section not in config:
            config[section] = ml_collections.ConfigDict()
        place = config[section] if section else config
        place[field] = config_dict.placeholder(str) if each.default is None else each.default
    return config


def check(config: ml_collections.ConfigDict, place: str = "config.") -> None:
    """Checks that a configuration has exactly the fields of its kind, with valid values.

    Args:
      config: the configuration.
      place: prefix of the fields' names in messages.

    Raises:
      InvalidSetting: it does not; names the first wrong field.
    """
    fields = flat(config.to_dict())
    kind = fields.get("method.training")
    known = settings(kind, place)
    for name in fields:
        if name not in known:
            hint = near(name, known, place)
            raise InvalidSetting(f"{place}{name} is no field of {kind} training; {hint}")
    for name, each in known.items():
        if name not in fields:
            raise InvalidSetting(f"{place}{name} is missing: {each.meaning}")
        if problem := each.problem(f"{place}{name}", fields[name]):
            raise InvalidSetting(problem)


def near(name: str, known: Collection[str], place: str) -> str:
    """The end of a message about an unknown field: the closest known one.

    Args:
      name: its dotted name.
      known: the known fields.
      place: prefix of the fields' names in messages.
    """
    # A field in the wrong section, or in none, is closest to that of its last name.
    last = name.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2] == last]
    close = difflib.get_close_matches(name, same or known, n=1, cutoff=0.0)
    return f"did you mean {place}{close[0]}?"


def page(config: ml_collections.ConfigDict) -> str:
    """Every field of a configuration with value, meaning, valid values and default.

    Raises:
      InvalidSetting: see `check`.
    """
    check(config)
    values = flat(config.to_dict())
    return "\n".join(
        f"{name} = {values[name]!r}\n    {each.meaning}; {each.valid} (default {each.default!r})"
        for name, each in settings(values["method.training"]).items()
    )


def table() -> str:
    """The fields of all kinds of training as a Markdown table."""
    by_kind = {kind: settings(kind) for kind in TRAININGS}
    rows = ["| field | of | default | valid | meaning | declared in |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(name for known in by_kind.values() for name in known):
        found = {kind: known[name] for kind, known in by_kind.items() if name in known}
        kinds: dict[Any, list[str]] = {}
        for kind, each in found.items():
            kinds.setdefault(each.default, []).append(kind)
        defaults = (
            f"`{default!r}`" + (f" {_named(those)}" if len(kinds) > 1 else "")
            for default, those in kinds.items()
        )
        kind, each = next(iter(found.items()))
        rows.append(
            f"| `{name}` | {_named(list(found))} | {'; '.join(defaults)} | {each.valid} | "
            f"{each.meaning} | `{_file(kind, name)}` |"
        )
    return "\n".join(rows)


def _file(kind: str, name: str) -> str:
    """The file of the dataclass that declares a field, in the package."""
    for section, consumer in _consumers(kind):
        if name in declared(consumer, section):
            field, _ = declared(consumer, section)[name]
            owner = next(
                each for each in consumer.__mro__ if field in inspect.get_annotations(each)
            )
            return owner.__module__.partition(".")[2].replace(".", "/") + ".py"
    raise KeyError(name)


def _named(kinds: list[str]) -> str:
    groups = {TRAININGS: "all", TRAININGS[:3]: "generators", TRAININGS[1:3]: "unpaired"}
    return groups.get(tuple(kinds), ", ".join(kinds))
