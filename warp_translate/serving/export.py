"""Exports generators and classifiers to bundles, and compares every format with the checkpoint."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import safetensors.numpy
from flax import traverse_util
from jax import export as jax_export

from warp_translate import image_io
from warp_translate.constants import BUNDLE_OPTIONS, LEAST_REDUCED, STRIDE
from warp_translate.errors import UserError
from warp_translate.models import DomainClassifier, Generator, Translation, translate
from warp_translate.serving import bundle as bundles
from warp_translate.serving import classifier_graph, model_card, onnx_graph
from warp_translate.serving.architecture import Architecture
from warp_translate.serving.bundle import AnyBundle, Bundle, ClassifierBundle
from warp_translate.serving.classifier import Classifier, prepare
from warp_translate.serving.engine import Backend, Engine, JaxEngine, OnnxEngine, Translated
from warp_translate.types import Array, PyTree, to_float, to_uint8
from warp_translate.visualize import MAPS

PARITY_SIZES = (
    *((64, 64), (65, 47), (128, 96), (131, 257)),
    *((256, 256), (255, 193), (333, 500), (512, 384)),
)
"""Heights and widths at which the formats are compared."""

_OTHER_FACTOR_SIZES = 2
_TOLERANCE = 1e-3  # Of a classifier's probabilities.
_BACKENDS: dict[str, Backend] = {bundles.CLASSIFIER_ONNX: "onnx", bundles.CLASSIFIER_JAX: "jax"}
PLATFORMS = ("cpu", "cuda", "tpu")
"""Platforms that jax.export lowers to."""

Note = Callable[[str], None]


@dataclasses.dataclass
class Parity:
    """Differences between a format's output and the checkpoint's."""

    images: int = 0
    values: int = 0  # Number of uint8 values.
    differing: int = 0  # Number of differing values.
    largest: int = 0  # Largest difference in uint8 levels.
    # Largest difference of each map in its own unit, by name.
    maps: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(MAPS, 0.0))

    def add(self, expected: Translated, found: Translated) -> None:
        """Includes more images."""
        levels = np.abs(expected.output.astype(np.int16) - found.output.astype(np.int16))
        assert expected.maps is not None and found.maps is not None
        self.images += len(levels)
        self.values += levels.size
        self.differing += int(np.count_nonzero(levels))
        self.largest = max(self.largest, int(levels.max()))
        for name, value in expected.maps.items():
            difference = np.abs(value - found.maps[name]).max()
            self.maps[name] = float(np.maximum(self.maps[name], difference))


@dataclasses.dataclass(frozen=True)
class ClassifierParity:
    """Differences between a format's probabilities and the checkpoint's."""

    images: int
    largest: float  # Largest difference of a probability.
    domains_differ: int  # Number of images with another most probable domain.


def write_bundle(
    bundle: Bundle,
    generator: Generator,
    params: PyTree,
    images: Sequence[np.ndarray],
    *,
    half: bool = False,
    sample: np.ndarray | None = None,
    note: Note = lambda line: None,
) -> dict[str, Parity]:
    """Writes a generator's bundle, or nothing if a format differs from the checkpoint.

    All formats compute in float32, as does the checkpoint for the comparison.

    Args:
      bundle: the description, with the folder to write; its checksums are computed.
      generator: the module.
      params: its parameters.
      images: real images, uint8 ``[H, W, 3]``, for the comparison; resized to `PARITY_SIZES`.
      half: whether to round the parameters to float16 first, as which model.safetensors and the
        ONNX graph store them; the comparison is with the rounded parameters.
      sample: picture to try the generator with, uint8 ``[H, W, 3]``.
      note: receives progress messages.

    Returns:
      The differences by format.

    Raises:
      UserError: the folder cannot be written, a format differs by more than one level, or a
        parameter exceeds the range of float16.
    """
    architecture = bundle.architecture
    # Whatever the type in training: values in bfloat16 would differ by several levels.
    generator = generator.clone(dtype=jnp.float32)
    flat = flatten(params)
    if half:
        for path, value in flat.items():
            if np.abs(value).max() > np.finfo(np.float16).max:
                raise UserError(
                    f"{path} holds {np.abs(value).max():.3g}, beyond float16's range: export "
                    "without --half"
                )
        flat = {path: value.astype(np.float16) for path, value in flat.items()}
        rounded = {path: value.astype(np.float32) for path, value in flat.items()}
        params = traverse_util.unflatten_dict(rounded, sep="/")
    with _written(bundle, flat, note) as partial:
        if sample is not None:
            image_io.write_image(partial / bundles.SAMPLE, sample, quality=90)
        note("writing the ONNX graph")
        onnx.save(onnx_graph.build(flat, architecture), partial / bundles.ONNX)
        for factor in bundle.factors:
            note(f"lowering the computation for factor {factor} to {', '.join(PLATFORMS)}")
            exported = _lower_generator(generator, architecture, flat, factor)
            (partial / bundles.jax_file(factor)).write_bytes(exported)
        bundles.write_config(dataclasses.replace(bundle, folder=partial))
        found = _compare(bundles.read(partial, verify=False), generator, params, images, note)
        for name, parity in found.items():
            if parity.largest > 1:
                raise UserError(
                    f"{name} differs from the checkpoint by {parity.largest} levels of 255, "
                    "where 1 is allowed; nothing was exported. Please report it"
                )
        _write_report(bundle, partial, found, model_card.write)
    return found


def write_classifier(
    bundle: ClassifierBundle,
    module: DomainClassifier,
    params: PyTree,
    images: Sequence[np.ndarray],
    *,
    note: Note = lambda line: None,
) -> dict[str, ClassifierParity]:
    """Writes a classifier's bundle, or nothing if a format differs; see `write_bundle`.

    Raises:
      UserError: the folder cannot be written, or a probability differs by more than 1e-3.
    """
    flat = flatten(params)

    def run(flat: Mapping[str, Array], images: Array) -> Array:
        params = traverse_util.unflatten_dict(flat, sep="/")
        logits = module.apply({"params": params}, to_float(images))
        return jax.nn.softmax(jnp.asarray(logits))

    with _written(bundle, flat, note) as partial:
        note("writing the ONNX graph")
        onnx.save(classifier_graph.build(flat, bundle.size), partial / bundles.CLASSIFIER_ONNX)
        note(f"lowering the computation to {', '.join(PLATFORMS)}")
        shape = jax_export.symbolic_shape(f"n, {bundle.size}, {bundle.size}, 3")
        (partial / bundles.CLASSIFIER_JAX).write_bytes(_lower(run, flat, shape))
        bundles.write_config(dataclasses.replace(bundle, folder=partial))
        written = bundles.read_any(partial, verify=False)
        assert isinstance(written, ClassifierBundle)
        note(f"compiling and comparing on {len(images)} images")
        prepared = np.stack([prepare(image, bundle.size) for image in images])
        expected = np.asarray(jax.jit(run)(flat, prepared))
        found = {}
        for name, backend in _BACKENDS.items():
            given = Classifier(written, backend).probabilities(prepared)
            found[name] = parity = ClassifierParity(
                images=len(images),
                largest=float(np.abs(given - expected).max()),
                domains_differ=int((given.argmax(1) != expected.argmax(1)).sum()),
            )
            if not parity.largest <= _TOLERANCE:
                raise UserError(
                    f"{name} differs from the checkpoint by {parity.largest:.2g} in a probability, "
                    f"where {_TOLERANCE:g} is allowed; nothing was exported. Please report it"
                )
        _write_report(bundle, partial, found, model_card.write_classifier)
    return found


@contextlib.contextmanager
def _written(bundle: AnyBundle, flat: Mapping[str, np.ndarray], note: Note) -> Iterator[Path]:
    """A folder with the parameters that replaces the bundle when the block ends."""
    with bundles.replaced(bundle.folder) as partial:
        note("writing the parameters")
        # save_file would make the file readable by its owner only.
        saved = safetensors.numpy.save(dict(flat), {"format": "flax"})
        (partial / bundles.PARAMETERS).write_bytes(saved)
        yield partial


def _write_report(
    bundle: Any, partial: Path, found: Mapping[str, Any], card: Callable[[Any, Any], str]
) -> None:
    report = {name: dataclasses.asdict(parity) for name, parity in found.items()}
    (partial / bundles.PARITY).write_text(json.dumps(report, indent=2) + "\n")
    (partial / bundles.CARD).write_text(card(bundle, report), encoding="utf-8")
    bundles.write_config(dataclasses.replace(bundle, folder=partial))


def flatten(params: PyTree) -> dict[str, np.ndarray]:
    """Float32 arrays by path, contiguous, since safetensors corrupts others silently."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.ascontiguousarray(
            np.asarray(leaf, np.float32)
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def _lower_generator(
    generator: Generator,
    architecture: Architecture,
    flat: Mapping[str, np.ndarray],
    factor: int,
) -> bytes:
    """Serializes ``f(parameters by path, uint8 images) -> uint8 output, maps``.

    The symbolic shape requires sides that the factor and the trunk divide, so that other sizes are
    rejected with a message.
    """

    def run(flat: dict[str, Array], images: Array) -> tuple[Array, dict[str, Array]]:
        params = traverse_util.unflatten_dict(flat, sep="/")
        translation = _translate(generator, architecture, params, images, factor)
        maps = {name: getattr(translation, name) for name in MAPS}
        return to_uint8(translation.output), maps

    multiple, least = factor * STRIDE, LEAST_REDUCED // STRIDE
    shape = jax_export.symbolic_shape(
        f"n, {multiple}*h, {multiple}*w, 3",
        constraints=[
            *(f"h >= {least}", f"w >= {least}"),
            # The warp computes int32 indices.
            f"{multiple**2}*n*h*w <= {np.iinfo(np.int32).max}",
        ],
    )
    return _lower(run, flat, shape)


def _lower(
    run: Callable[[dict[str, Array], Array], PyTree],
    params: Mapping[str, np.ndarray],
    shape: Sequence[Any],
) -> bytes:
    """Serializes a function of parameters by path and uint8 images for all platforms."""
    described = {
        path: jax.ShapeDtypeStruct(leaf.shape, jnp.float32) for path, leaf in params.items()
    }
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
    # Programs name source files. A bundle is given away: keep the last folder, not this machine's.
    regex = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, regex)
    jax.config.update(regex, r"^.*/(?=[^/]*/[^/]*$)")
    try:
        exported = jax_export.export(jax.jit(run), platforms=PLATFORMS)(described, images)
    finally:
        jax.config.update(regex, before)
    return bytes(exported.serialize())


def _translate(
    generator: Generator, architecture: Architecture, params: PyTree, images: Array, factor: int
) -> Translation:
    return translate(
        generator,
        params,
        to_float(images),
        factor,
        **{name: getattr(architecture, name) for name in BUNDLE_OPTIONS},
    )


def _compare(
    bundle: Bundle,
    generator: Generator,
    params: PyTree,
    images: Sequence[np.ndarray],
    note: Note,
) -> dict[str, Parity]:
    def reference(params: PyTree, images: Array, factor: int) -> tuple[Array, Translation]:
        found = _translate(generator, bundle.architecture, params, images, factor)
        return to_uint8(found.output), found

    checkpoint = jax.jit(reference, static_argnums=2)
    engines: dict[str, Engine] = {
        bundles.ONNX: OnnxEngine(bundle),
        "jaxexport": JaxEngine(bundle),
    }
    measured = {name: Parity() for name in engines}
    cases = list(_parity_cases(bundle, images))
    compiled: set[tuple[Any, ...]] = set()
    for count, (image, factor) in enumerate(cases, start=1):
        new = (image.shape, factor) not in compiled
        compiled.add((image.shape, factor))
        note(
            f"{'compiling and ' * new}comparing, image {count} of {len(cases)}: "
            f"{image.shape[0]} x {image.shape[1]}, factor {factor}"
        )
        output, translation = checkpoint(params, image[None], factor)
        maps = {name: np.asarray(getattr(translation, name)) for name in MAPS}
        for name, engine in engines.items():
            found = engine.translate(image[None], factor, with_maps=True)
            measured[name].add(Translated(np.asarray(output), maps), found)
    return measured


def _parity_cases(bundle: Bundle, images: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
    """Every image at one size with the bundle's own factor; two sizes with every other factor."""
    for number, image in enumerate(images):
        yield _resize(image, PARITY_SIZES[number % len(PARITY_SIZES)]), bundle.factor
    for factor in bundle.factors:
        if factor != bundle.factor:
            for size in PARITY_SIZES[1 : 1 + _OTHER_FACTOR_SIZES]:
                yield _resize(images[0], size), factor


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    resized = jax.image.resize(image.astype(np.float32), (*size, 3), "cubic")
    return np.clip(np.round(np.asarray(resized)), 0, 255).astype(np.uint8)
