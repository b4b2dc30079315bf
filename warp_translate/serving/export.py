"""Makes a bundle of a trained generator, and measures every format in it against the generator."""

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

from warp_translate.constants import LEAST_REDUCED, STRIDE
from warp_translate.errors import UserError
from warp_translate.models import Generator, Translation, translate
from warp_translate.serving import bundle as bundles
from warp_translate.serving import model_card, onnx_graph
from warp_translate.serving.architecture import Architecture
from warp_translate.serving.bundle import Bundle
from warp_translate.serving.engine import Engine, JaxEngine, OnnxEngine, Translated
from warp_translate.types import Array, PyTree, to_float, to_uint8
from warp_translate.visualize import MAPS

PARITY_SIZES = (
    *((64, 64), (65, 47), (128, 96), (131, 257)),
    *((256, 256), (255, 193), (333, 500), (512, 384)),
)
"""Heights and widths at which the formats are compared."""

_OTHER_FACTOR_SIZES = 2
PLATFORMS = ("cpu", "cuda", "tpu")
"""What computations are lowered to."""


@dataclasses.dataclass(frozen=True)
class Parity:
    """How far the outputs of a format are from the checkpoint's.

    Attributes:
      images: how many images were compared.
      values: how many uint8 values.
      differing: how many of them differ.
      largest: largest difference, in levels of uint8.
      maps: largest difference of each map by name, in its own unit.
    """

    images: int
    values: int
    differing: int
    largest: int
    maps: Mapping[str, float]


def write_bundle(
    bundle: Bundle,
    generator: Generator,
    params: PyTree,
    images: Sequence[np.ndarray],
    *,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Parity]:
    """Writes a bundle, or nothing if one of its formats does not do what the generator does.

    Args:
      bundle: what it is; its folder is where it goes, its files and checksums are filled in.
      generator: the module.
      params: its parameters.
      images: uint8 ``[H, W, 3]``, real ones, on which the formats are compared; they are resized
        to `PARITY_SIZES` in turns.
      note: told what is being done.

    Returns:
      What was measured, by format.

    Raises:
      UserError: the folder cannot be written, or a format differs by more than one level.
    """
    architecture = bundle.architecture
    flat = flatten(params)
    with bundles.replaced(bundle.folder) as partial:
        made = dataclasses.replace(bundle, folder=partial)
        note("writing the parameters")
        save_parameters(partial, flat)
        note("writing the ONNX graphs")
        for name, floats in ((bundles.ONNX, False), (bundles.ONNX_FLOAT, True)):
            model = onnx_graph.build(flat, architecture, bundle.factor, floats=floats)
            onnx.save(model, partial / name)
        for factor in bundle.factors:
            note(f"lowering the computation for factor {factor} to {', '.join(PLATFORMS)}")
            exported = _lower(generator, architecture, params, factor)
            (partial / bundles.jax_file(factor)).write_bytes(exported)
        bundles.write_config(made)
        found = _compare(bundles.read(partial), generator, params, images, note)
        report = {name: dataclasses.asdict(parity) for name, parity in found.items()}
        (partial / bundles.PARITY).write_text(json.dumps(report, indent=2) + "\n")
        worst = max(found, key=lambda name: found[name].largest)
        if found[worst].largest > 1:
            raise UserError(
                f"{worst} differs from the checkpoint by {found[worst].largest} levels of 255, "
                "where 1 is allowed; nothing was exported. Please report it"
            )
        card = model_card.write(made, report)
        (partial / bundles.CARD).write_text(card, encoding="utf-8")
        bundles.write_config(made)
    return found


def flatten(params: PyTree) -> dict[str, np.ndarray]:
    """Float32 arrays by their paths.

    They are contiguous: safetensors would save others wrongly and say nothing.
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.ascontiguousarray(
            np.asarray(leaf, np.float32)
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def _lower(generator: Generator, architecture: Architecture, params: PyTree, factor: int) -> bytes:
    """Serialises ``f(parameters by path, uint8 images) -> uint8 output, maps``.

    The images' sides are multiples that the factor and the trunk divide, which the symbolic shape
    says, so that another size is refused in words.
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
            # What the warp can count.
            f"{multiple**2}*n*h*w <= {np.iinfo(np.int32).max}",
        ],
    )
    return lower(run, flatten(params), shape)


def lower(
    run: Callable[[dict[str, Array], Array], PyTree],
    params: Mapping[str, np.ndarray],
    shape: Sequence[Any],
) -> bytes:
    """Serialises a computation for all platforms.

    Args:
      run: maps parameters by their paths and uint8 images to what comes out.
      params: the parameters, of which shapes and types are taken.
      shape: of the images, with symbolic sides, see ``jax.export.symbolic_shape``.

    Returns:
      What ``jax.export.deserialize`` reads.
    """
    described = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in params.items()
    }
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
    exported = jax_export.export(jax.jit(run), platforms=PLATFORMS)(described, images)
    return bytes(exported.serialize())


def save_parameters(folder: Path, params: Mapping[str, np.ndarray]) -> None:
    """Writes parameters by their paths as safetensors into a bundle."""
    # Not save_file, which leaves the file readable by its owner alone.
    saved = safetensors.numpy.save(dict(params), {"format": "flax"})
    (folder / bundles.PARAMETERS).write_bytes(saved)


def _translate(
    generator: Generator, architecture: Architecture, params: PyTree, images: Array, factor: int
) -> Translation:
    return translate(
        generator,
        params,
        to_float(images),
        factor,
        mask_weights=architecture.mask_weights,
        fusion=architecture.fusion,
    )


def _compare(
    bundle: Bundle,
    generator: Generator,
    params: PyTree,
    images: Sequence[np.ndarray],
    note: Callable[[str], None],
) -> dict[str, Parity]:
    def reference(params: PyTree, images: Array, factor: int) -> tuple[Array, Translation]:
        found = _translate(generator, bundle.architecture, params, images, factor)
        return to_uint8(found.output), found

    checkpoint = jax.jit(reference, static_argnums=2)
    engines: dict[str, Engine] = {
        bundles.ONNX: OnnxEngine(bundle),
        bundles.ONNX_FLOAT: OnnxEngine(bundle, floats=True),
        "jaxexport": JaxEngine(bundle),
    }
    measured: dict[str, list[Parity]] = {name: [] for name in engines}
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
        expected = Translated(
            np.asarray(output),
            {name: np.asarray(getattr(translation, name)) for name in MAPS},
        )
        for name, engine in engines.items():
            found = engine.translate(image[None], factor, with_maps=True)
            measured[name].append(_difference(expected, found))
    return {name: _total(parts) for name, parts in measured.items()}


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


def _difference(expected: Translated, found: Translated) -> Parity:
    levels = np.abs(expected.output.astype(np.int16) - found.output.astype(np.int16))
    assert expected.maps is not None and found.maps is not None
    return Parity(
        images=len(levels),
        values=levels.size,
        differing=int(np.count_nonzero(levels)),
        largest=int(levels.max()),
        maps={
            name: float(np.abs(value - found.maps[name]).max())
            for name, value in expected.maps.items()
        },
    )


def _total(parts: Sequence[Parity]) -> Parity:
    return Parity(
        images=sum(part.images for part in parts),
        values=sum(part.values for part in parts),
        differing=sum(part.differing for part in parts),
        largest=max(part.largest for part in parts),
        maps={name: max(part.maps[name] for part in parts) for name in parts[0].maps},
    )
