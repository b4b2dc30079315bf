"""Folders on disks and in buckets, ``gs://`` and ``s3://``: opened, listed and written here.

What is in a bucket is read and written by fsspec, behind paths of etils that have the methods of
pathlib's. A bucket has no folders, only names with slashes; nothing in it can be appended to or
renamed, but a file that is written is there whole or not at all.
"""

import atexit
import contextlib
import datetime
import errno
import hashlib
import importlib.util
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from warp_translate.errors import UserError

_EXTRAS = {"gs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs")}  # By scheme: our extra, its package.
_SEPARATOR = "://"

# Before etils makes its first path: what works must not depend on whether TensorFlow is there.
os.environ.setdefault("EPATH_USE_TF", "false")

_reached: set[str] = set()  # Buckets that answered this process.

# Of a path: no pattern of glob, no control character, no blank at an end.
_PLAIN = re.compile(r"(?!\s)[^*?\[\]\\\x00-\x1f\x7f]+(?<!\s)")


def scheme(path: str | os.PathLike[str]) -> str | None:
    """The part before ``://`` of a path in a bucket; None of a path on a disk."""
    found, separator, _ = os.fspath(path).partition(_SEPARATOR)
    return found if separator else None


def to_path(path: str | os.PathLike[str]) -> Path:
    """The path of a folder or file, on a disk or in a bucket.

    Args:
      path: a path, or ``gs://BUCKET/NAME`` or ``s3://BUCKET/NAME``.

    Returns:
      For a bucket a path of etils, which has those methods of pathlib's that read, write and list;
      it cannot be resolved and is no instance of ``pathlib.Path``.

    Raises:
      UserError: the package for such buckets is missing, or the bucket is not there or refuses.
    """
    kind = scheme(path)
    if kind is None:
        return Path(os.path.expanduser(path))
    name = os.fspath(path)
    if kind not in _EXTRAS:
        known = " and ".join(f"{each}{_SEPARATOR}" for each in _EXTRAS)
        raise UserError(f"{name} is in no bucket that is known: there are {known}")
    extra, package = _EXTRAS[kind]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{kind}{_SEPARATOR} needs the extra {extra}: pip install -e '.[{extra}]'")
    bucket = name.partition(_SEPARATOR)[2].partition("/")[0]
    _reach(f"{kind}{_SEPARATOR}{bucket}", name)
    from etils import epath

    return cast(Path, epath.Path(name))


def disk_path(path: str | os.PathLike[str], flag: str) -> Path:
    """A path that must be on a disk.

    Raises:
      UserError: it is in a bucket; the message names the flag.
    """
    if scheme(path) is not None:
        raise UserError(f"{flag}={path} must be on a disk, not in a bucket: copy what is needed")
    return Path(os.path.expanduser(path))


def check_folder(folder: str, flag: str) -> None:
    """Checks that a folder can be written, or made, before there is something to write.

    Args:
      folder: there or not; of one in a bucket it is only checked that the bucket answers.
      flag: the flag that names it, for messages.

    Raises:
      UserError: it cannot.
    """
    if scheme(folder) is not None:
        to_path(folder)
        return
    path = Path(os.path.expanduser(folder)).absolute()
    there = next(each for each in (path, *path.parents) if each.exists())
    if not there.is_dir():
        raise UserError(f"{flag}={folder} cannot be made: {there} is a file; choose another folder")
    if reason := _why_not_writable(there):
        raise UserError(
            f"{flag}={folder} cannot be written: {there} {reason}; choose another folder"
        )


@contextlib.contextmanager
def writing(place: str | os.PathLike[str], flag: str) -> Iterator[None]:
    """Turns an OSError into a UserError that names what cannot be written, and its flag."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{place} cannot be written ({error.strerror or error}): choose another {flag}"
        ) from error


def absolute(path: Path) -> Path:
    """A path that does not depend on the current folder, with links followed."""
    return path if scheme(path) else path.resolve()


def files_below(folder: Path) -> frozenset[str]:
    """All files in a folder and its folders, by their paths from there; none where it is missing.

    Raises:
      OSError: it cannot be listed.
    """
    if scheme(folder) is None:
        found = (path for path in folder.rglob("*") if path.is_file())
        return frozenset(path.relative_to(folder).as_posix() for path in found)
    return frozenset(_listing(folder))


def bytes_below(folder: Path) -> int:
    """What all files in a folder and its folders take.

    Raises:
      OSError: it cannot be listed.
    """
    if scheme(folder) is None:
        return sum((folder / name).stat().st_size for name in files_below(folder))
    return sum(int(info["size"]) for info in _listing(folder).values())


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that is there whole or not at all, whenever the process dies.

    Args:
      path: the file; its folder is made, and one that is there is replaced.
      content: all of it; text becomes UTF-8.

    Raises:
      OSError: it cannot be written; what was there before still is.
    """
    data = content.encode() if isinstance(content, str) else content
    if scheme(path):
        with _as_os_error(path):
            path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, for a file can be moved at once only within a file system.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
      OSError: it cannot be read.
    """
    with _as_os_error(path) if scheme(path) else contextlib.nullcontext(), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(source: Path, target: Path, names: Iterable[str] | None = None) -> None:
    """Copies files out of a bucket.

    Args:
      source: a folder in a bucket.
      target: a folder on a disk; it is made.
      names: of files, from the folder; all of them by default.

    Raises:
      OSError: one is missing, or cannot be read or written.
    """
    wanted = sorted(files_below(source) if names is None else names)
    target.mkdir(parents=True, exist_ok=True)
    if wanted:
        with _as_os_error(source):
            _files(source).get(
                [str(source / name) for name in wanted], [str(target / name) for name in wanted]
            )


def put(source: Path, target: Path, *, last: Collection[str] = ()) -> None:
    """Copies all files of a folder into a bucket.

    Args:
      source: a folder on a disk.
      target: a folder in a bucket; what else is there stays.
      last: names of files that come when all the others are there, to tell that they are.

    Raises:
      OSError: one cannot be read or written.
    """
    for names in _parted(files_below(source), last):
        with _as_os_error(target):
            _files(target).put(
                [str(source / name) for name in names], [str(target / name) for name in names]
            )


def remove(folder: Path, *, first: Collection[str] = ()) -> None:
    """Removes all files of a folder in a bucket.

    Args:
      folder: the folder; nothing happens where it is missing.
      first: names of files that go before all the others.

    Raises:
      OSError: one cannot be removed.
    """
    for names in reversed(_parted(files_below(folder), first)):
        with _as_os_error(folder):
            _files(folder).rm([str(folder / name) for name in names])


def plain_alias(folder: Path) -> Path:
    """A path to a folder for packages that take a path with some characters for something else.

    Args:
      folder: in a bucket, or an absolute path.

    Returns:
      The folder itself, or a link to it in a folder that is removed with the process where its
      path holds characters of patterns or controls.

    Raises:
      OSError: no link can be made.
    """
    if scheme(folder) or _PLAIN.fullmatch(str(folder)):
        return folder
    alias = scratch() / "folder"
    alias.symlink_to(folder, target_is_directory=True)
    return alias


def scratch() -> Path:
    """A new folder on the disk that is removed when the process ends in an orderly way."""
    folder = Path(tempfile.mkdtemp(prefix="warp_translate_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def local_copy(folder: str | os.PathLike[str]) -> Path:
    """A folder for what reads only from disks: itself, or a copy of one in a bucket.

    Raises:
      UserError: as `to_path`, or it cannot be copied.
    """
    path = to_path(folder)
    if scheme(path) is None:
        return path
    copy = scratch() / path.name
    try:
        fetch(path, copy)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    return copy


def mirrored(folder: str | os.PathLike[str]) -> Path:
    """A folder for what reads only from disks: itself, or one that is kept like one in a bucket.

    Its files have the times of those in the bucket, and are copied when sizes or times differ.

    Raises:
      UserError: as `to_path`, or it is not there or cannot be copied.
    """
    path = to_path(folder)
    if scheme(path) is None:
        return path
    local = cached(path)
    partial = local.with_name(f".{local.name}.{os.getpid()}.partial")
    try:
        there = {name: _state(info) for name, info in _listing(path).items()}
        if not there:
            raise FileNotFoundError(errno.ENOENT, "it holds nothing", str(path))
        here = {name: (local / name).stat() for name in files_below(local)}
        known = {name: (stat.st_size, int(stat.st_mtime)) for name, stat in here.items()}
        wanted = [name for name, state in there.items() if known.get(name) != state]
        fetch(path, partial, wanted)
        for name in wanted:
            os.utime(partial / name, (there[name][1],) * 2)
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).replace(local / name)
        for name in known.keys() - there.keys():
            (local / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give another path") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return local


@contextlib.contextmanager
def written_locally(
    folder: str | os.PathLike[str], *, last: Collection[str] = ()
) -> Iterator[Path]:
    """A folder for what writes only to disks: itself, or one that is put into a bucket at the end.

    Args:
      folder: where the files are to go.
      last: as in `put`.

    Yields:
      The folder to write to; it need not be there.

    Raises:
      UserError: as `to_path`.
      OSError: the files cannot be put there. Nothing is put there when the block fails.
    """
    path = to_path(folder)
    if scheme(path) is None:
        yield path
        return
    local = scratch() / path.name
    yield local
    put(local, path, last=last)


def cache() -> Path:
    """The folder of what can be made or fetched again, ``~/.cache/warp_translate`` as a rule."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(root) / "warp_translate"


def cached(folder: str | os.PathLike[str]) -> Path:
    """The folder on the disk that stands for one in a bucket from one command to the next."""
    return cache() / os.fspath(folder).replace(_SEPARATOR, "/", 1)


def _why_not_writable(folder: Path) -> str | None:
    """Why nothing can be made in a folder on a disk; None where it can."""
    if os.access(folder, os.W_OK | os.X_OK):
        return None
    if hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY:
        return "is on a disk that is mounted read-only"
    return "does not let you write (see its owner and mode)"


def _reach(bucket: str, name: str) -> None:
    """Looks into a bucket for the first time, so that it is refused in one line and at once."""
    if bucket in _reached:
        return
    import fsspec

    for package in ("aiobotocore", "botocore"):  # They tell where they found what.
        logging.getLogger(package).setLevel(logging.WARNING)
    # Other processes write there, too.
    for protocol in ("gs", "gcs", "s3"):
        fsspec.config.conf.setdefault(protocol, {})["use_listings_cache"] = False
    try:
        files = fsspec.filesystem(scheme(name))
        try:
            files.ls(name, detail=False)
        except FileNotFoundError:
            # Nothing has this name yet, or there is no such bucket.
            with contextlib.suppress(PermissionError):
                files.ls(bucket, detail=False)
    except FileNotFoundError as error:
        raise UserError(
            f"{name}: there is no bucket {bucket}, or it is hidden from you; make it, or give "
            "another path"
        ) from error
    except Exception as error:  # What lies beneath fsspec has no common base.
        raise UserError(
            f"{name}: {bucket} refuses or cannot be reached ({_words(error)}); look at your "
            "credentials and the network, or give another path"
        ) from error
    _reached.add(bucket)


def _parted(names: Iterable[str], special: Collection[str]) -> list[list[str]]:
    """Names in order, the special ones as a group of their own behind the others."""
    groups: list[list[str]] = [[], []]
    for name in sorted(names):
        groups[name in special].append(name)
    return [group for group in groups if group]


def _listing(folder: Path) -> dict[str, dict[str, Any]]:
    """What a bucket tells of the files below a folder, by their paths from there."""
    root = str(folder).partition(_SEPARATOR)[2] + "/"
    with _as_os_error(folder):
        try:
            found = _files(folder).find(root, detail=True)
        except FileNotFoundError:
            return {}
    # A name that ends with a slash is what some tools make to show a folder.
    return {name.removeprefix(root): found[name] for name in found if not name.endswith("/")}


def _state(info: Mapping[str, Any]) -> tuple[int, int]:
    """Size and time of change of a file in a bucket, in bytes and seconds since 1970."""
    changed = info.get("LastModified") or info.get("mtime") or info["updated"]
    if isinstance(changed, str):
        changed = datetime.datetime.fromisoformat(changed)
    return int(info["size"]), int(changed.timestamp())


def _files(path: Path) -> Any:
    """The file system of a bucket."""
    import fsspec

    return fsspec.filesystem(scheme(path))


@contextlib.contextmanager
def _as_os_error(place: Path) -> Iterator[None]:
    """Makes an OSError with a place and a reason of what the stores raise, which is anything."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place)) from error
    except Exception as error:
        raise OSError(errno.EIO, _words(error), str(place)) from error


def _words(error: Exception) -> str:
    """An error in one line that is not too long."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def split_folders(words: Iterable[str]) -> list[str]:
    """The folders of a list that was parted at its commas.

    Some have commas in their own names, as those of earlier sweeps: where parts that follow each
    other name a folder together, they are one.
    """
    rest, found = [word.strip() for word in words if word.strip()], []
    while rest:
        joined = {count: ",".join(rest[:count]) for count in range(len(rest), 1, -1)}
        count = next((n for n, name in joined.items() if to_path(name).is_dir()), 1)
        found.append(",".join(rest[:count]))
        del rest[:count]
    return found
