"""Reads the tensors of a weights file without running anything that it holds.

A ``.pth`` is a pickle, and a pickle is a program. The one read here is known by its SHA-256 first,
and its unpickler still admits nothing but tensors: neither check leans on the other.
"""

import collections
import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from warp_translate.errors import UserError

# What opens every file of PyTorch's format before 1.6: torch/serialization.py, MAGIC_NUMBER.
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

_TYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Storage(NamedTuple):
    """A flat piece of memory that the file holds further on."""

    key: str
    dtype: np.dtype
    size: int


class _View(NamedTuple):
    """A tensor: where it lies in a storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
      UserError: the file cannot be read.
    """
    return hashlib.sha256(_contents(path)).hexdigest()


def read_pth(path: str | os.PathLike[str], expected_sha256: str) -> dict[str, np.ndarray]:
    """Reads a state dictionary in PyTorch's format before 1.6, without PyTorch.

    Args:
      path: the ``.pth`` file.
      expected_sha256: of the whole file, in hexadecimal; nothing is unpickled unless it is this.

    Returns:
      float32 and int64 arrays, contiguous, by name.

    Raises:
      UserError: the file cannot be read or is another one.
      pickle.UnpicklingError: it holds something other than tensors.
    """
    contents = _contents(path)
    found = hashlib.sha256(contents).hexdigest()
    if found != expected_sha256:
        raise UserError(
            f"{path} has SHA-256 {found[:12]}, not {expected_sha256[:12]}: it is not the file that "
            "this program knows; install it anew"
        )
    file = io.BytesIO(contents)
    if _load(file) != _MAGIC or _load(file) != _PROTOCOL:
        raise pickle.UnpicklingError(f"{path} is not in PyTorch's format before 1.6")
    _load(file)  # The sizes of the types where it was written, fixed in this format.
    views = _load(file)
    storages = {view.storage.key: view.storage for view in views.values()}
    memory = {key: _stored(file, storages[key]) for key in _load(file)}
    return {name: _array(view, memory[view.storage.key]) for name, view in views.items()}


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a ``.safetensors`` file, which holds no program.

    Args:
      path: the file.

    Returns:
      Arrays by name.

    Raises:
      UserError: the file cannot be read, or safetensors is not installed.
    """
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise UserError(f"{path} needs safetensors: pip install 'warp-translate[eval]'") from error
    try:
        return safetensors.numpy.load(_contents(path))
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is no intact safetensors file ({error}): save it anew") from error


def _contents(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give another file") from error


class _TensorUnpickler(pickle.Unpickler):
    """Admits ordered dictionaries and tensors over float32 and int64, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _view
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise pickle.UnpicklingError(f"a state dictionary has no use for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, size, view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise pickle.UnpicklingError(f"{kind!r} is no storage of float32 or int64")
        return _Storage(key, dtype, size)


def _load(file: BinaryIO) -> Any:
    return _TensorUnpickler(file).load()


def _view(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _View:
    """Stands for ``torch._utils._rebuild_tensor_v2``, whose further arguments concern gradients."""
    return _View(storage, offset, shape, strides)


def _stored(file: BinaryIO, storage: _Storage) -> np.ndarray:
    size = int.from_bytes(file.read(8), "little")
    if size != storage.size:
        raise pickle.UnpicklingError(f"storage {storage.key} has {size} elements, not {storage}")
    return np.frombuffer(file.read(size * storage.dtype.itemsize), storage.dtype, size)


def _array(view: _View, memory: np.ndarray) -> np.ndarray:
    """Copies a strided view; a convolution's weight may lie in memory in another order."""
    last = view.offset + sum(
        (size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True)
    )
    if view.offset < 0 or min(view.strides, default=0) < 0 or last >= memory.size:
        raise pickle.UnpicklingError(f"a tensor reaches beyond its storage {view.storage}")
    strides = [stride * memory.itemsize for stride in view.strides]
    strided = np.lib.stride_tricks.as_strided(
        memory[view.offset :], view.shape, strides, writeable=False
    )
    return np.ascontiguousarray(strided).reshape(view.shape)
