"""Bundles: folders that hold an exported network.

Of a generator:

    config.json         description; see `Bundle`
    model.safetensors   parameters by path
    model.onnx          the whole method: uint8 images, any size, the factor as an input
    factor2.jaxexport   the whole method for one factor, for cpu, cuda and tpu
    parity.json         differences between each format and the checkpoint
    sample.jpg          picture to try the generator with; optional
    README.md           model card

Of a classifier: ``classifier.onnx`` and ``classifier.jaxexport`` instead of the models.

``config.json`` holds the SHA-256 of every file except the model card, and of itself (see `sealed`).
Format 1 lacks the latter and is read with a warning.

An export writes a hidden folder and then renames it, so readers never see a partial bundle. A
killed export leaves hidden folders behind; `recover` removes them.

`INCLUDED` holds the bundles that are part of the package.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

from absl import logging

from warp_translate import owner, sealed, storage
from warp_translate.errors import UserError, did_you_mean, reason
from warp_translate.serving.architecture import Architecture

INCLUDED = Path(__file__).parents[1] / "generators"

FORMAT = 2
CONFIG = "config.json"
PARAMETERS = "model.safetensors"
ONNX = "model.onnx"
CLASSIFIER_ONNX = "classifier.onnx"
CLASSIFIER_JAX = "classifier.jaxexport"
PARITY = "parity.json"
SAMPLE = "sample.jpg"
CARD = "README.md"

MOST_FACTOR = 64
"""Largest factor that a bundle supports."""

_UNSEALED_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NAME_RULE = "1 to 64 letters, digits, '-', '_' and '.', the first a letter or a digit"
_SHA256 = re.compile("[0-9a-f]{64}")
_REMAINS = re.compile(rf"\.({_NAME.pattern})\.([0-9a-f]{{8,16}})\.(?:partial|older|owner)")
_MOST_CONFIG_BYTES = 1 << 20
_MOST_FILES = 64
_MOST_FILE_BYTES = 1 << 31  # ONNX Runtime's limit for a graph in one file.
_MOST_SIZE = 1 << 14


def jax_file(factor: int) -> str:
    """Name of the jax.export file for a factor."""
    return f"factor{factor}.jaxexport"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Exported:
    """Common content of ``config.json``."""

    folder: Path
    name: str  # Of the bundle, also in URLs.
    size: int  # Side of the training images in pixels.
    provenance: Mapping[str, Any]  # Configuration, step, metrics and versions.
    files: Mapping[str, str]  # SHA-256 of every other file by name, except the model card.

    @property
    def build(self) -> str:
        """Identifies the parameters: the first digits of their SHA-256."""
        return self.files[PARAMETERS][:12]

    def path(self, name: str) -> Path:
        """Path of a file of the bundle.

        Raises:
          UserError: the bundle has no such file.
        """
        if name not in self.files:
            raise UserError(
                f"the bundle {self.folder} holds no {name}: export it again with this format"
            )
        return self.folder / name

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        fields = dataclasses.asdict(self)
        del fields["folder"]
        return {"format": FORMAT, **fields, "normalisation": "uint8 / 127.5 - 1"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle(_Exported):
    """``config.json`` of a generator."""

    source: str
    target: str
    architecture: Architecture
    factors: tuple[int, ...]  # Supported reductions, ascending.
    factor: int  # The one it was trained with.

    def check_factor(self, factor: int | None) -> int:
        """Returns the factor, or the bundle's own for None.

        Raises:
          UserError: the bundle does not support it.
        """
        if factor is None:
            return self.factor
        if factor not in self.factors:
            raise UserError(
                f"factor {factor} is none of {', '.join(map(str, self.factors))}, which the "
                f"bundle {self.name} serves"
            )
        return factor


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierBundle(_Exported):
    """``config.json`` of a domain classifier."""

    domains: tuple[str, ...]  # In the order of the network's outputs.
    threshold: float  # Least probability of a known domain.

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return super().to_json() | {"kind": "classifier"}


AnyBundle = Bundle | ClassifierBundle


def check_name(name: str, what: str) -> str:
    """Returns the name of a bundle or domain if it is safe in paths, URLs and metrics.

    Raises:
      UserError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{what} {sealed.short(name)} must be {_NAME_RULE}")
    return name


def provenance(config: Mapping[str, Any], step: int, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Describes a bundle's origin in JSON.

    Args:
      config: the experiment's configuration; of the data folders only the names are kept.
      step: training steps.
      figures: metrics at that step; NaN and infinity become text.

    Returns:
      These, the time of the export and the packages' versions.
    """
    packages = ("warp-translate", "jax", "flax", "onnx")
    data = dict(config.get("data", {}))
    data |= {name: PurePath(data[name]).name for name in ("root", "dir") if data.get(name)}
    found = {
        "config": {**config, "data": data},
        "step": step,
        "figures": dict(figures),
        "exported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: metadata.version(name) for name in packages},
    }
    plain: dict[str, Any] = json.loads(json.dumps(found), parse_constant=str)
    return plain


def find(name: str) -> Bundle:
    """Opens a generator's bundle.

    Args:
      name: its folder, also in a bucket; or the name of an included bundle, unless the working
        directory has a file or folder of that name.

    Raises:
      UserError: there is no such bundle, it is damaged, or it holds a classifier.
    """
    included = sorted(path.parent.name for path in INCLUDED.glob(f"*/{CONFIG}"))
    if storage.scheme(name) is None and not Path(name).exists():
        if name in included:
            return read(INCLUDED / name)
        hint = did_you_mean(name, included) or f"included generators are {', '.join(included)}"
        raise UserError(
            f"{name} holds no bundle: give a folder that warp-translate export wrote, or the name "
            f"of an included generator; {hint}"
        )
    return read(storage.local_copy(name))


def read(folder: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
    """Opens a generator's bundle; see `read_any`.

    Raises:
      UserError: there is no bundle, it is damaged, or it holds a classifier.
    """
    found = read_any(folder, verify=verify)
    if isinstance(found, ClassifierBundle):
        raise UserError(f"{folder} holds a classifier, not a generator; give a generator")
    return found


def read_any(folder: str | os.PathLike[str], *, verify: bool = True) -> AnyBundle:
    """Opens a bundle of either kind.

    Args:
      folder: the bundle.
      verify: whether to compare the files' checksums, which reads them once.

    Raises:
      UserError: there is no bundle, or it is damaged.
    """
    folder = Path(folder)
    path = folder / CONFIG
    try:
        with sealed.open_regular(path, _MOST_CONFIG_BYTES) as file:
            found = sealed.loads(file.read())
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no bundle ({CONFIG} is missing): give a folder that "
            "warp-translate export wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({reason(error)}); export the bundle again"
        ) from error
    bundle = _parse(folder, path, found)
    if found["format"] == _UNSEALED_FORMAT:
        logging.warning(
            "%s is of an earlier format without a checksum of its own, so damage to it goes "
            "undetected; export the bundle again",
            path,
        )
    elif not sealed.is_intact(found):
        raise UserError(
            f"{path} is damaged or was edited (its SHA-256 differs); export the bundle again"
        )
    for name, expected in bundle.files.items():
        _check_file(folder / name, expected if verify else None)
    return bundle


_Rule = tuple[Callable[[Any], bool], str]


def _integer(most: int) -> _Rule:
    return lambda value: type(value) is int and 1 <= value <= most, f"an integer from 1 to {most}"


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _are_factors(value: Any) -> bool:
    good, _ = _integer(MOST_FACTOR)
    return isinstance(value, list) and value != [] and all(map(good, value))


def _are_domains(value: Any) -> bool:
    if not isinstance(value, list) or not all(map(_is_name, value)):
        return False
    return len(set(value)) == len(value) >= 2


_COMMON: dict[str, _Rule] = {
    "name": (_is_name, _NAME_RULE),
    "size": _integer(_MOST_SIZE),
    "provenance": (_is_object, "an object"),
    "files": (
        lambda value: _is_object(value) and len(value) <= _MOST_FILES,
        f"an object of at most {_MOST_FILES} files",
    ),
}
_KINDS: dict[str, dict[str, _Rule]] = {
    "generator": {
        "source": (_is_name, _NAME_RULE),
        "target": (_is_name, _NAME_RULE),
        "factors": (_are_factors, f"a list of integers from 1 to {MOST_FACTOR}"),
        "factor": _integer(MOST_FACTOR),
        "architecture": (_is_object, "an object"),
    },
    "classifier": {
        "domains": (_are_domains, f"a list of at least two different names of {_NAME_RULE}"),
        "threshold": (
            lambda value: type(value) in (int, float) and 0 <= value <= 1,
            "a number from 0 to 1",
        ),
    },
}


def _parse(folder: Path, path: Path, found: Any) -> AnyBundle:
    def bad(problem: str) -> UserError:
        return UserError(f"{path}: {problem}; export the bundle again")

    if not isinstance(found, dict) or "format" not in found:
        raise bad("this is not a bundle's")
    if type(found["format"]) is not int or found["format"] not in (_UNSEALED_FORMAT, FORMAT):
        raise bad(f"format must be {FORMAT}, got {sealed.short(found['format'])}")
    kind = found.get("kind", "generator")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise bad(f"kind must be one of {', '.join(_KINDS)}, got {sealed.short(kind)}")
    rules = _COMMON | _KINDS[kind]
    for name, (is_good, rule) in rules.items():
        if not is_good(found.get(name)):
            raise bad(f"{name} must be {rule}, got {sealed.short(found.get(name))}")
    for name, digest in found["files"].items():
        # A name must not lead out of the folder.
        if not _is_name(name) or not _SHA256.fullmatch(str(digest)):
            raise bad(f"file {sealed.short(name)} with checksum {sealed.short(digest)}")
    if PARAMETERS not in found["files"]:
        raise bad(f"{PARAMETERS} is not among its files")
    fields = {name: found[name] for name in rules}
    if kind == "classifier":
        fields |= {"domains": tuple(found["domains"]), "threshold": float(found["threshold"])}
        return ClassifierBundle(folder=folder, **fields)
    if found["factor"] not in found["factors"]:
        raise bad(
            f"factor must be one of its factors {sealed.short(found['factors'])}, got "
            f"{found['factor']}"
        )
    fields["architecture"] = Architecture.from_json(found["architecture"], str(path))
    fields["factors"] = tuple(sorted(set(found["factors"])))
    return Bundle(folder=folder, **fields)


def _check_file(path: Path, expected: str | None) -> None:
    try:
        with sealed.open_regular(path, _MOST_FILE_BYTES) as file:
            if expected is None:
                return
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); export the bundle again"
        ) from error
    if digest != expected:
        raise UserError(f"{path} is damaged (its SHA-256 differs); export the bundle again")


def write_config(bundle: AnyBundle) -> None:
    """Writes ``config.json`` with the checksums of all other files except the model card."""
    paths = sorted(bundle.folder.iterdir())
    files = {path.name: storage.sha256(path) for path in paths if path.name not in (CONFIG, CARD)}
    text = sealed.dumps(dataclasses.replace(bundle, files=files).to_json())
    (bundle.folder / CONFIG).write_text(text, encoding="utf-8")


@contextmanager
def replaced(folder: Path, *, holds: str = CONFIG, flag: str = "--output") -> Iterator[Path]:
    """Writes a folder under a hidden name, then renames it, replacing an older version.

    Args:
      folder: its final path.
      holds: file that marks a folder as replaceable.
      flag: the flag that names the parent, for errors.

    Yields:
      The folder to fill. If the block fails, it is removed and the older version stays. If the
      process is killed, the next call or `recover` does so.

    Raises:
      UserError: something else exists there, or the folder cannot be written.
    """
    recover(folder.parent)
    if folder.exists() and not (folder / holds).is_file():
        raise UserError(
            f"{folder} exists without {holds}, so it is not replaced: remove it or choose another "
            "name"
        )
    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            mine = stack.enter_context(owner.held(folder.parent, f".{folder.name}."))
            partial, older = mine.with_suffix(".partial"), mine.with_suffix(".older")
            partial.mkdir()
        except OSError as error:
            raise UserError(
                f"{folder.parent} cannot be written ({error.strerror}): choose another {flag}"
            ) from error
        try:
            yield partial
            if folder.exists():
                folder.rename(older)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if older.exists():
                if not folder.exists():  # The last rename failed.
                    older.rename(folder)
                shutil.rmtree(older, ignore_errors=True)


def recover(parent: Path) -> list[str]:
    """Removes leftovers of killed exports in a folder; running exports are not touched.

    Returns:
      The names of the folders that were restored to their older version.
    """
    back = []
    try:
        found = [match for name in os.listdir(parent) if (match := _REMAINS.fullmatch(name))]
    except OSError:
        return []
    for name, key in sorted({(match[1], match[2]) for match in found}):
        mine = parent / f".{name}.{key}.owner"
        if owner.is_alive(mine):
            continue
        folder, older = parent / name, mine.with_suffix(".older")
        with suppress(OSError):  # Another process is faster, or the folder is read-only.
            if older.exists() and not folder.exists():
                older.rename(folder)
                back.append(name)
            for remains in (older, mine.with_suffix(".partial")):
                shutil.rmtree(remains, ignore_errors=True)
            mine.unlink(missing_ok=True)
    return back
