"""A bundle: one folder that holds an exported network and all that is known of it.

Of a generator:

    config.json         what it is; see `Bundle`
    model.safetensors   the parameters, by their paths
    model.onnx          the whole method: uint8 images, any size, the factor as an input
    model_float.onnx    the same for float32 images in [-1, 1]
    factor2.jaxexport   the whole method for one factor, for cpu, cuda and tpu
    parity.json         how far each of these is from the checkpoint
    README.md           the card for model hubs

A classifier's has the first two, ``classifier.onnx``, ``classifier.jaxexport`` and the last two.

``config.json`` holds the SHA-256 of every other file, the card aside, which is for people to write
on and which nothing reads; and that of its own content, see `sealed`. Exports of format 1 have no
checksum of their ``config.json``: they are read with a warning.

A bundle is made whole under another name and then renamed, so that readers never see half of it. An
export that is killed leaves hidden folders, which `recover` clears away.
"""

import dataclasses
import datetime
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

from absl import logging

from warp_translate import owner, sealed
from warp_translate.errors import UserError
from warp_translate.serving.architecture import Architecture

FORMAT = 2
CONFIG = "config.json"
PARAMETERS = "model.safetensors"
ONNX = "model.onnx"
ONNX_FLOAT = "model_float.onnx"
CLASSIFIER_ONNX = "classifier.onnx"
CLASSIFIER_JAX = "classifier.jaxexport"
PARITY = "parity.json"
CARD = "README.md"

MOST_FACTOR = 64
"""Larger factors are served by no bundle."""

_UNSEALED_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_REMAINS = re.compile(rf"\.({_NAME.pattern})\.([0-9a-f]{{8,16}})\.(?:partial|older|owner)")
_MOST_CONFIG_BYTES = 1 << 20
_MOST_FILES = 64
_MOST_FILE_BYTES = 1 << 31  # No ONNX graph in one file is larger.
_MOST_SIZE = 1 << 14


def jax_file(factor: int) -> str:
    """Name of the file that jax runs for a factor."""
    return f"factor{factor}.jaxexport"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Exported:
    """What ``config.json`` says of every kind.

    Attributes:
      folder: where the bundle lies.
      name: what it is called, also in addresses.
      size: side of the images that it was trained with, in pixels.
      provenance: where it comes from: configuration, step, figures, versions.
      files: SHA-256 of every other file by its name, the card aside.
    """

    folder: Path
    name: str
    size: int
    provenance: Mapping[str, Any]
    files: Mapping[str, str]

    @property
    def build(self) -> str:
        """Tells apart what computes differently: the first digits of the parameters' SHA-256."""
        return self.files[PARAMETERS][:12]

    def path(self, name: str) -> Path:
        """Where a file of the bundle lies.

        Raises:
          UserError: the bundle does not hold it.
        """
        if name not in self.files:
            raise UserError(
                f"the bundle {self.folder} holds no {name}: export it again with this format"
            )
        return self.folder / name

    def _fields(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **{
                field.name: getattr(self, field.name)
                for field in dataclasses.fields(self)
                if field.name != "folder"
            },
            "normalisation": "uint8 / 127.5 - 1",
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle(_Exported):
    """What ``config.json`` says of a generator, besides what it says of every kind.

    Attributes:
      source: the domain that it translates from.
      target: the domain that it translates to.
      architecture: the generator.
      factors: how many times smaller the trunk's image may be, ascending.
      factor: the one that it was trained with.
    """

    source: str
    target: str
    architecture: Architecture
    factors: tuple[int, ...]
    factor: int

    def check_factor(self, factor: int | None) -> int:
        """Returns the factor, or the bundle's own for None.

        Raises:
          UserError: the bundle does not serve it.
        """
        if factor is None:
            return self.factor
        if factor not in self.factors:
            raise UserError(
                f"factor {factor} is none of {', '.join(map(str, self.factors))}, which the "
                f"bundle {self.name} serves"
            )
        return factor

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return self._fields() | {"architecture": dataclasses.asdict(self.architecture)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierBundle(_Exported):
    """What ``config.json`` says of a domain classifier, besides what it says of every kind.

    Attributes:
      domains: names of the domains, in the order of the network's outputs.
      threshold: an image is of none of them if no probability reaches it.
    """

    domains: tuple[str, ...]
    threshold: float

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return self._fields() | {"kind": "classifier"}


AnyBundle = Bundle | ClassifierBundle
"""What a folder may hold."""


def check_name(name: str, what: str) -> str:
    """Returns a name of a bundle or a domain that is safe in paths, addresses and metrics.

    Raises:
      UserError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{what} {sealed.short(name)} must be 1 to 64 letters, digits, '-', '_' and '.', the "
            "first a letter or a digit"
        )
    return name


def provenance(config: Mapping[str, Any], step: int, figures: Mapping[str, Any]) -> dict[str, Any]:
    """What a bundle tells of its origin.

    Args:
      config: the experiment's configuration.
      step: steps done.
      figures: metrics of that step.

    Returns:
      That, the time of the export and the versions of the packages, ready for JSON. Of the folders
      of the data only the names: where they lie on one machine is not for those who get the bundle.
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
    # JSON has no NaN and no infinity, which figures may be: they become text.
    plain: dict[str, Any] = json.loads(json.dumps(found), parse_constant=str)
    return plain


def read(folder: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
    """Opens a generator's bundle.

    Args:
      folder: the bundle.
      verify: whether the files' checksums are compared, which reads them once.

    Raises:
      UserError: there is no bundle, it is damaged, or it is a classifier's.
    """
    found = read_any(folder, verify=verify)
    if isinstance(found, ClassifierBundle):
        raise UserError(f"{folder} holds a classifier, which translates nothing; give a generator")
    return found


def read_any(folder: str | os.PathLike[str], *, verify: bool = True) -> AnyBundle:
    """Opens a bundle of whatever kind; as `read`.

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
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}); export the bundle again") from error
    bundle = _parse(folder, path, found)
    if found["format"] == _UNSEALED_FORMAT:
        logging.warning(
            "%s is of an earlier export, without a checksum of its own: damage to it would not be "
            "noticed; export the bundle again",
            path,
        )
    elif not sealed.is_intact(found):
        raise UserError(
            f"{path} is damaged or was edited (another SHA-256 than exported); export the bundle "
            "again"
        )
    for name, expected in bundle.files.items():
        _check_file(folder / name, expected if verify else None)
    return bundle


def _parse(folder: Path, path: Path, found: Any) -> AnyBundle:
    def bad(what: str) -> UserError:
        return UserError(f"{path}: {what}; export the bundle again")

    if not isinstance(found, dict) or "format" not in found:
        raise bad("this is no bundle's")
    if type(found["format"]) is not int or found["format"] not in (_UNSEALED_FORMAT, FORMAT):
        raise bad(
            f"format {sealed.short(found['format'])} is not {FORMAT}, which this version reads"
        )
    kind = found.get("kind", "generator")
    types: dict[str, Any] = {"name": str, "size": int, "provenance": dict, "files": dict}
    if kind == "generator":
        types |= {"source": str, "target": str, "factor": int, "factors": list}
        types |= {"architecture": dict}
    elif kind == "classifier":
        types |= {"domains": list, "threshold": int | float}
    else:
        raise bad(f"kind {sealed.short(kind)} is none that this version reads")
    for name, expected in types.items():
        if not isinstance(found.get(name), expected) or isinstance(found.get(name), bool):
            raise bad(f"{name} is {sealed.short(found.get(name))}")
    if not 1 <= found["size"] <= _MOST_SIZE:
        raise bad(f"size is {found['size']}, not 1 to {_MOST_SIZE}")
    if len(found["files"]) > _MOST_FILES:
        raise bad(f"it names {len(found['files'])} files, more than {_MOST_FILES}")
    for name, digest in found["files"].items():
        # A name from a file must not lead out of the folder.
        if not _NAME.fullmatch(name) or not re.fullmatch("[0-9a-f]{64}", str(digest)):
            raise bad(f"file {sealed.short(name)} with checksum {sealed.short(digest)}")
    if PARAMETERS not in found["files"]:
        raise bad(f"{PARAMETERS} is not among its files")
    check_name(found["name"], f"{path}: name")
    common = {name: found[name] for name in ("name", "size", "provenance", "files")}
    if kind == "classifier":
        domains = found["domains"]
        for domain in domains:
            if not isinstance(domain, str):
                raise bad(f"domains are {sealed.short(domains)}")
            check_name(domain, f"{path}: domain")
        if len(domains) < 2 or len(set(domains)) != len(domains):
            raise bad(f"domains are {sealed.short(domains)}")
        if not 0 <= found["threshold"] <= 1:
            raise bad(f"threshold is {sealed.short(found['threshold'])}")
        return ClassifierBundle(
            folder=folder, domains=tuple(domains), threshold=float(found["threshold"]), **common
        )
    for name in ("source", "target"):
        check_name(found[name], f"{path}: {name}")
    factors = found["factors"]
    if not factors or any(
        type(each) is not int or not 1 <= each <= MOST_FACTOR for each in factors
    ):
        raise bad(f"factors are {sealed.short(factors)}, not 1 to {MOST_FACTOR} each")
    if found["factor"] not in factors:
        raise bad(f"factor {found['factor']} is none of its factors {sealed.short(factors)}")
    return Bundle(
        folder=folder,
        architecture=Architecture.from_json(found["architecture"], str(path)),
        factors=tuple(sorted(set(factors))),
        **{name: found[name] for name in ("source", "target", "factor")},
        **common,
    )


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
        raise UserError(f"{path} is damaged (another SHA-256 than exported); export it again")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_config(bundle: AnyBundle) -> None:
    """Writes ``config.json`` with its own checksum and those of the other files, the card aside."""
    paths = sorted(bundle.folder.iterdir())
    files = {path.name: sha256(path) for path in paths if path.name not in (CONFIG, CARD)}
    text = sealed.dumps(dataclasses.replace(bundle, files=files).to_json())
    (bundle.folder / CONFIG).write_text(text, encoding="utf-8")


@contextmanager
def replaced(folder: Path, *, holds: str = CONFIG, flag: str = "--output") -> Iterator[Path]:
    """Makes a folder under another name and gives it its own at the end, in place of an older one.

    Args:
      folder: what it is to be called. If there is such a bundle it is replaced; anything else that
        is there is left alone.
      holds: the file that tells that a folder may be replaced.
      flag: what an error says is to be changed.

    Yields:
      The folder to fill. When the block fails, it is removed and the older one stays. When the
      process is killed, the next call or `recover` does that.

    Raises:
      UserError: something else is there, or the folder cannot be written.
    """
    recover(folder.parent)
    if folder.exists() and not (folder / holds).is_file():
        raise UserError(f"{folder} is there and is no bundle: remove it or choose another name")
    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            # Hidden, so that whoever looks for bundles passes it over.
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
                if not folder.exists():  # The new one could not take its place.
                    older.rename(folder)
                shutil.rmtree(older, ignore_errors=True)


def recover(parent: Path) -> list[str]:
    """Clears away what exports that were killed have left in a folder; nothing of living ones.

    Args:
      parent: the folder of bundles, or a model repository.

    Returns:
      The names of those that had no folder any more, and that are back as they were.
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
        with suppress(OSError):  # Another process does the same, or the folder is read-only.
            if older.exists() and not folder.exists():
                older.rename(folder)
                back.append(name)
            for remains in (older, mine.with_suffix(".partial")):
                shutil.rmtree(remains, ignore_errors=True)
            mine.unlink(missing_ok=True)
    return back
