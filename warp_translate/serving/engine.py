"""Runs a bundle: images of any size in, images of the same size out.

`OnnxEngine` needs ONNX Runtime and no jax, `JaxEngine` needs jax and nothing of the training code.
Both give the same values up to one level of uint8.
"""

import abc
import collections
import dataclasses
import functools
import importlib
import importlib.util
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from warp_translate.constants import PIXEL_SCALE, padded_side
from warp_translate.errors import UserError
from warp_translate.serving import bundle as bundles
from warp_translate.serving import footprint
from warp_translate.serving.bundle import AnyBundle, Bundle
from warp_translate.visualize import to_uint8

Backend = Literal["auto", "onnx", "jax"]

# What ONNX Runtime and XLA say when memory is short.
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate", "RESOURCE_EXHAUSTED")


@dataclasses.dataclass(frozen=True)
class Translated:
    """What an engine gives back.

    Attributes:
      output: uint8 ``[N, H, W, 3]``, the size of what went in.
      maps: None unless asked for: "pretranslated" and "warped" ``[N, H, W, 3]`` in [-1, 1], "mask"
        ``[N, H, W, 1]`` in [0, 1], "displacement" ``[N, H, W, 2]`` in pixels, and "reduced"
        ``[N, ceil(H / factor), ceil(W / factor), 3]``, float32.
    """

    output: np.ndarray
    maps: Mapping[str, np.ndarray] | None


class Engine(abc.ABC):
    """A bundle that is ready to translate; several threads may use it."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    @property
    def bundle(self) -> Bundle:
        """What it runs."""
        return self._bundle

    def translate(
        self, images: np.ndarray, factor: int | None = None, *, with_maps: bool = False
    ) -> Translated:
        """Translates images of one size.

        Args:
          images: uint8 ``[N, H, W, 3]``, of at least one pixel.
          factor: one of the bundle's; None for the one that it was trained with.
          with_maps: whether the maps are wanted too.

        Raises:
          UserError: the bundle does not serve the factor.
          MemoryError: the images are too large for this machine.
          ValueError: the images are of another shape or type.
        """
        if (
            images.dtype != np.uint8
            or images.ndim != 4
            or images.shape[3] != 3
            or 0 in images.shape
        ):
            raise ValueError(
                "an engine takes uint8 images [N, H, W, 3] of one pixel or more, got "
                f"{images.dtype} {images.shape}"
            )
        decided = self._bundle.check_factor(factor)
        try:
            return self._run(images, decided, with_maps)
        except Exception as error:  # Each runtime has a type of its own for whatever goes wrong.
            if out_of_memory(error):
                raise MemoryError(f"{images.shape} at factor {decided}") from error
            raise

    @abc.abstractmethod
    def _run(self, images: np.ndarray, factor: int, with_maps: bool) -> Translated:
        """Translates what was checked."""


def out_of_memory(error: Exception) -> bool:
    """Whether a runtime's error means that memory is short."""
    return any(word in str(error) for word in _OUT_OF_MEMORY)


def open_engine(bundle: Bundle, backend: Backend = "auto", *, threads: int | None = None) -> Engine:
    """Makes a bundle ready.

    Args:
      bundle: the bundle.
      backend: "onnx", "jax", or "auto" for the first of them that is installed.
      threads: most threads of one translation in ONNX Runtime; None for one for each core. jax
        takes what it finds.

    Raises:
      UserError: the backend is not installed, or the bundle's file is damaged.
    """
    decided = choose_backend(backend)
    return OnnxEngine(bundle, threads=threads) if decided == "onnx" else JaxEngine(bundle)


def choose_backend(backend: Backend) -> Literal["onnx", "jax"]:
    """Decides what "auto" means here.

    Args:
      backend: "onnx", "jax", or "auto" for the first of them that is installed.

    Raises:
      UserError: the backend is not installed.
    """
    needs = {"onnx": ("onnxruntime", "serve"), "jax": ("jax", "train")}
    there = [name for name, (module, _) in needs.items() if importlib.util.find_spec(module)]
    if backend == "auto":
        if not there:
            raise UserError("no engine is installed: pip install 'warp-translate[serve]'")
        backend = "onnx" if "onnx" in there else "jax"
    if backend not in there:
        module, extra = needs[backend]
        raise UserError(
            f"the engine {backend} needs {module}: pip install 'warp-translate[{extra}]'"
        )
    return backend


def open_session(path: Path, *, threads: int | None = None, arena: bool = True) -> Any:
    """Loads a graph into ONNX Runtime, on CPUs.

    Args:
      path: the file.
      threads: most threads of one run; None for one for each core.
      arena: whether the memory of a run is kept for the next, in one arena for all sessions.
        Without it small runs take up to half as long again, but large ones take no more memory
        than they need, which is up to twice as much with it.

    Returns:
      An ``onnxruntime.InferenceSession``.

    Raises:
      UserError: the file is damaged.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Threads that spin while they wait take the cores from whoever shares them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = arena
    if arena:
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0  # 0 is its word for one for each core.
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has one type for each way to be damaged.
        words = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be loaded ({words}); export the bundle again") from error


@functools.cache
def _share_arena() -> None:
    import onnxruntime

    kind, default = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    place = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, default)
    onnxruntime.create_and_register_allocator(place, None)


def load_parameters(bundle: AnyBundle) -> dict[str, np.ndarray]:
    """The parameters of a bundle by their paths.

    Raises:
      UserError: the file is missing or damaged.
    """
    import safetensors.numpy

    path = bundle.path(bundles.PARAMETERS)
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # The library has its own types, and OSErrors.
        words = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be loaded ({words}); export the bundle again") from error


def load_computation(bundle: AnyBundle, name: str) -> Any:
    """A computation of a bundle that jax runs.

    Args:
      bundle: the bundle.
      name: the file.

    Returns:
      A ``jax.export.Exported``.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = bundle.path(name)
    try:
        data = bytearray(path.read_bytes())
        return importlib.import_module("jax.export").deserialize(data)
    except Exception as error:  # Whatever a damaged file makes of the reader.
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path} cannot be loaded ({words}); export the bundle again") from error


_ARENA_BYTES = 1 << 28
"""What a run of ONNX Runtime may take of the arena, by the estimate; others go without it."""


class OnnxEngine(Engine):
    """A bundle in ONNX Runtime on CPUs. A new size costs nothing that lasts."""

    def __init__(self, bundle: Bundle, *, floats: bool = False, threads: int | None = None) -> None:
        """Loads the graph.

        Args:
          bundle: the bundle.
          floats: whether to run the graph for float32 images, which gives the same.
          threads: most threads of one translation; None for one for each core.

        Raises:
          UserError: the file is missing or damaged.
        """
        super().__init__(bundle)
        self._floats = floats
        path = bundle.path(bundles.ONNX_FLOAT if floats else bundles.ONNX)
        self._session = open_session(path, threads=threads)
        self._large = open_session(path, threads=threads, arena=False)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def _run(self, images: np.ndarray, factor: int, with_maps: bool) -> Translated:
        if self._floats:
            images = images.astype(np.float32) / np.float32(PIXEL_SCALE) - 1
        feeds = {
            "image": images,
            "factor": np.array(factor, np.int64),
            "with_maps": np.array(with_maps),
        }
        count, height, width, _ = images.shape
        pixels = count * padded_side(height, factor) * padded_side(width, factor)
        takes = pixels * footprint.bytes_per_pixel(self._bundle.architecture, factor)
        session = self._session if takes <= _ARENA_BYTES else self._large
        output, *maps = session.run(self._outputs, feeds)
        if self._floats:
            output = to_uint8(output)
        return Translated(
            output, dict(zip(self._outputs[1:], maps, strict=True)) if with_maps else None
        )


class JaxEngine(Engine):
    """A bundle in jax, on whatever device it finds; the model's code is not needed.

    Every padded size is compiled once. The programs of the sizes used last are kept.
    """

    def __init__(self, bundle: Bundle, *, most_programs: int = 32) -> None:
        """Loads the parameters.

        Args:
          bundle: the bundle.
          most_programs: how many compiled programs are kept.

        Raises:
          UserError: a file is missing or damaged.
        """
        import jax

        self._jax: Any = jax
        super().__init__(bundle)
        self._most = most_programs
        self._lock = threading.Lock()
        self._programs: collections.OrderedDict[tuple[Any, ...], Callable[..., Any]] = (
            collections.OrderedDict()
        )
        self._params = jax.device_put(load_parameters(bundle))
        # Now: the folder may be replaced while this engine still serves, and damage is to be found.
        self._exported = {
            factor: load_computation(bundle, bundles.jax_file(factor)) for factor in bundle.factors
        }

    def _run(self, images: np.ndarray, factor: int, with_maps: bool) -> Translated:
        height, width = images.shape[1:3]
        padding = [padded_side(side, factor) - side for side in (height, width)]
        padded = np.pad(images, ((0, 0), (0, padding[0]), (0, padding[1]), (0, 0)), mode="edge")
        program = self._program(padded.shape, factor, with_maps)
        output, maps = self._jax.device_get(program(self._params, padded))
        cropped = {
            name: each[:, : -(-height // factor), : -(-width // factor)]
            if name == "reduced"
            else each[:, :height, :width]
            for name, each in maps.items()
        }
        return Translated(output[:, :height, :width], cropped if with_maps else None)

    def _program(self, shape: tuple[int, ...], factor: int, with_maps: bool) -> Callable[..., Any]:
        key = (shape, factor, with_maps)
        with self._lock:
            if key not in self._programs:
                exported = self._exported[factor]

                def run(params: Any, images: Any) -> Any:
                    output, maps = exported.call(params, images)
                    return output, maps if with_maps else {}

                # A program of its own for each size: dropping it frees what was compiled for it.
                self._programs[key] = self._jax.jit(run)
            self._programs.move_to_end(key)
            while len(self._programs) > self._most:
                self._programs.popitem(last=False)
            return self._programs[key]
