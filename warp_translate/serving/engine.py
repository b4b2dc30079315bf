"""Runs a bundle: images of any size in, images of the same size out.

`OnnxEngine` needs ONNX Runtime and no jax, `JaxEngine` needs jax and no training code. Their
outputs agree to one level of uint8.
"""

import abc
import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from warp_translate.constants import padded_side
from warp_translate.errors import UserError
from warp_translate.serving import bundle as bundles
from warp_translate.serving import footprint
from warp_translate.serving.bundle import AnyBundle, Bundle

Backend = Literal["auto", "onnx", "jax"]

# In the errors of ONNX Runtime and XLA.
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate", "RESOURCE_EXHAUSTED")
# Largest estimated use of ONNX Runtime's arena by a run; larger runs bypass the arena.
_ARENA_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class Translated:
    """Output of an engine."""

    output: np.ndarray  # uint8 ``[N, H, W, 3]``.
    # float32 by name, or None: "pretranslated" (see ``models.Translation``) and "warped"
    # ``[N, H, W, 3]`` in [-1, 1], "mask" ``[N, H, W, 1]`` in [0, 1], "displacement" ``[N, H, W,
    # 2]`` in pixels, and "reduced" ``[N, ceil(H / factor), ceil(W / factor), 3]``.
    maps: Mapping[str, np.ndarray] | None

    def cropped(self, height: int, width: int, factor: int) -> "Translated":
        """Removes the padding below and to the right of an image of ``height`` x ``width``."""
        reduced = -(-height // factor), -(-width // factor)

        def crop(name: str, array: np.ndarray) -> np.ndarray:
            h, w = reduced if name == "reduced" else (height, width)
            return array[..., :h, :w, :]

        maps = self.maps and {name: crop(name, array) for name, array in self.maps.items()}
        return Translated(crop("output", self.output), maps)


class Engine(abc.ABC):
    """A loaded bundle; thread-safe.

    Attributes:
      bundle: the bundle.
      accelerator: kind of the accelerator that computes; empty for the CPU.
    """

    def __init__(self, bundle: Bundle, accelerator: str = "") -> None:
        self.bundle = bundle
        self.accelerator = accelerator

    def translate(
        self, images: np.ndarray, factor: int | None = None, *, with_maps: bool = False
    ) -> Translated:
        """Translates images of one size.

        Args:
          images: uint8 ``[N, H, W, 3]``, not empty.
          factor: one of the bundle's; by default the one it was trained with.
          with_maps: whether to return the maps.

        Raises:
          UserError: the bundle does not support the factor.
          MemoryError: the images are too large for this machine.
          ValueError: the images have another shape or dtype.
        """
        shape = images.shape
        if images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise ValueError(
                "an engine takes uint8 images [N, H, W, 3] of one pixel or more, got "
                f"{images.dtype} {shape}"
            )
        decided = self.bundle.check_factor(factor)
        try:
            return self._run(images, decided, with_maps)
        except Exception as error:  # Every runtime has exceptions of its own.
            if out_of_memory(error):
                raise MemoryError(f"{shape} at factor {decided}") from error
            raise

    @abc.abstractmethod
    def _run(self, images: np.ndarray, factor: int, with_maps: bool) -> Translated:
        """Translates checked images."""


def out_of_memory(error: Exception) -> bool:
    """Whether a runtime's error means that memory is exhausted."""
    return any(word in str(error) for word in _OUT_OF_MEMORY)


def open_engine(bundle: Bundle, backend: Backend = "auto", *, threads: int | None = None) -> Engine:
    """Loads a bundle.

    Args:
      bundle: the bundle.
      backend: "onnx", "jax", or "auto" for the first one installed.
      threads: of one translation in ONNX Runtime; one per core by default. Ignored by jax.

    Raises:
      UserError: the backend is not installed, or a file is missing or damaged.
    """
    if choose_backend(backend) == "onnx":
        return OnnxEngine(bundle, threads=threads)
    return JaxEngine(bundle)


def choose_backend(backend: Backend) -> Literal["onnx", "jax"]:
    """Resolves "auto" to the first installed backend; raises UserError if there is none."""
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
    """Loads a graph into ONNX Runtime on the CPU.

    Args:
      path: the graph.
      threads: of one run; one per core by default.
      arena: whether runs keep their memory in an arena shared by all sessions. Without it small
        runs take up to 1.5 times as long, but large ones as little as half of the memory.

    Returns:
      An ``onnxruntime.InferenceSession``.

    Raises:
      UserError: the file is damaged.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Spinning threads would take the cores from other processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = arena
    if arena:
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0  # 0: one per core.
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has many exception types.
        raise _damaged(path, str(error)) from error


@functools.cache
def _share_arena() -> None:
    import onnxruntime

    kind, default = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    place = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, default)
    onnxruntime.create_and_register_allocator(place, None)


def load_parameters(bundle: AnyBundle) -> dict[str, np.ndarray]:
    """Loads a bundle's parameters by path, as float32.

    Raises:
      UserError: they are missing or damaged.
    """
    import safetensors.numpy

    path = bundle.path(bundles.PARAMETERS)
    try:
        stored = safetensors.numpy.load_file(path)
    except Exception as error:  # The library's own types, and OSError.
        raise _damaged(path, str(error)) from error
    return {name: value.astype(np.float32, copy=False) for name, value in stored.items()}


def load_computation(bundle: AnyBundle, name: str) -> Any:
    """Loads a ``jax.export.Exported``; raises UserError if it is missing or damaged."""
    path = bundle.path(name)
    try:
        data = bytearray(path.read_bytes())
        return importlib.import_module("jax.export").deserialize(data)
    except Exception as error:  # Depends on the damage.
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _damaged(path: Path, reason: str) -> UserError:
    reason = " ".join(reason.split())[:200]
    return UserError(f"{path} cannot be loaded ({reason}); export the bundle again")


class OnnxEngine(Engine):
    """A bundle in ONNX Runtime on the CPU. New sizes cost nothing extra.

    It opens the graph twice, with and without an arena: small runs are fast with it, and large
    ones stay within the memory estimated in `footprint` without it.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        """Loads the graph; see `open_engine`."""
        super().__init__(bundle)
        path = bundle.path(bundles.ONNX)
        self._session = open_session(path, threads=threads)
        self._large = open_session(path, threads=threads, arena=False)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def _run(self, images: np.ndarray, factor: int, with_maps: bool) -> Translated:
        feeds = {
            "image": images,
            "factor": np.array(factor, np.int64),
            "with_maps": np.array(with_maps),
        }
        count, height, width, _ = images.shape
        pixels = count * padded_side(height, factor) * padded_side(width, factor)
        takes = pixels * footprint.bytes_per_pixel(self.bundle.architecture, factor)
        session = self._session if takes <= _ARENA_BYTES else self._large
        output, *maps = session.run(self._outputs, feeds)
        return Translated(
            output, dict(zip(self._outputs[1:], maps, strict=True)) if with_maps else None
        )


class JaxEngine(Engine):
    """A bundle in jax on any device, without the model's code.

    Every padded size is compiled once; the most recently used programs are kept.
    """

    def __init__(self, bundle: Bundle, *, most_programs: int = 32) -> None:
        """Loads the bundle; keeps up to ``most_programs`` compiled programs."""
        import jax

        device = jax.devices()[0]
        super().__init__(bundle, "" if device.platform == "cpu" else device.device_kind)
        self._get: Callable[..., Any] = jax.device_get
        self._params = jax.device_put(load_parameters(bundle))
        # Loaded now to detect damage, and because the folder may be replaced later.
        exported = {
            factor: load_computation(bundle, bundles.jax_file(factor)) for factor in bundle.factors
        }

        # One jitted function per size, so that dropping it frees its program.
        @functools.lru_cache(most_programs)
        def program(shape: tuple[int, ...], factor: int, with_maps: bool) -> Callable[..., Any]:
            def run(params: Any, images: Any) -> Any:
                output, maps = exported[factor].call(params, images)
                return output, maps if with_maps else {}

            return jax.jit(run)

        self._program = program

    def _run(self, images: np.ndarray, factor: int, with_maps: bool) -> Translated:
        height, width = images.shape[1:3]
        padding = [padded_side(side, factor) - side for side in (height, width)]
        padded = np.pad(images, ((0, 0), (0, padding[0]), (0, padding[1]), (0, 0)), mode="edge")
        program = self._program(padded.shape, factor, with_maps)
        output, maps = self._get(program(self._params, padded))
        return Translated(output, maps if with_maps else None).cropped(height, width, factor)
