"""What a translation costs: multiplications by part, and what the compiled program needs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from warp_translate.constants import Fusion
from warp_translate.evaluation import macs
from warp_translate.evaluation.macs import Macs, Names
from warp_translate.models import Generator, translate
from warp_translate.ops import MaskWeights
from warp_translate.types import Array, PyTree, to_float, to_uint8

PARTS = {
    "reduce": "box average to the reduced size",
    "trunk": "all that is done at the reduced size, the projection for the heads included",
    "upsampling": "features enlarged to the original size, before the heads",
    "heads": "the maps from the enlarged features, at the original size",
    "warp": "the original displaced",
    "fuse": "both images blended by the mask",
    "other": "all else: uint8 to floats and back",
}
"""The parts of a translation, and what each of them is."""

CONVENTION = (
    "multiplications, counted in the traced program, for one image, uint8 to uint8, at its "
    "padded size. A convolution counts output positions x kernel x input channels of a group x "
    "output channels, zeros of padding included; a matrix product rows x columns x what is "
    "summed over; elementwise a multiplication, a division or a function such as tanh counts one "
    "for each number of the result; additions, comparisons, selections, rounding, integers and "
    "gathers count none"
)
"""What a MAC is here; `macs` says it in full."""

_AS_WRITTEN = "none"  # A platform that no operation has a form of its own for.

# By names of the name stack. The outermost that is here decides: what the trunk enlarges inside of
# itself is the trunk's.
_PART_OF_NAME = {
    "reduce": "reduce",
    "trunk": "trunk",
    "project": "trunk",
    "upsample": "upsampling",
    "warp": "warp",
    "fuse": "fuse",
}
# What of the generator is in none of them are its heads.
_HEADS_OF = Generator.__name__


def translation(
    generator: Generator,
    factor: int,
    *,
    mask_weights: MaskWeights = "pretranslated",
    fusion: Fusion = "full",
    in_bands: bool = False,
) -> Callable[[PyTree, Array], Array]:
    """The program that is counted, compiled and timed.

    Args:
      generator: the module.
      factor: how many times smaller the trunk's image is.
      mask_weights: which image the mask multiplies.
      fusion: how the output is put together, see ``models.translate``.
      in_bands: whether it runs in bands, as what translates large images does.

    Returns:
      A function of parameters and uint8 images ``[B, H, W, 3]`` that gives uint8 of that shape.
    """

    def run(params: PyTree, images: Array) -> Array:
        found = translate(
            generator,
            params,
            to_float(images),
            factor,
            mask_weights=mask_weights,
            fusion=fusion,
            in_bands=in_bands,
        )
        return to_uint8(found.output)

    return run


def abstract_parameters(generator: Generator) -> PyTree:
    """Shapes and types of a generator's parameters; nothing is drawn."""
    return jax.eval_shape(lambda: draw_parameters(generator))


def draw_parameters(generator: Generator) -> PyTree:
    """Parameters as they are before training.

    They displace nothing, so that the warp reads in order. Of a translation at 1080x1920 by the
    smallest trunk, where the warp is the largest share, displacements at random made 4 % more time.
    """
    image = jnp.zeros((1, generator.stride, generator.stride, 3))
    # Compiled as one program: operation by operation it takes several times as long.
    return jax.jit(generator.init, static_argnums=3)(jax.random.key(0), image, image, 1)["params"]


def macs_by_part(
    program: Callable[[PyTree, Array], Array], *args: Any
) -> tuple[dict[str, Macs], int]:
    """Counts the multiplications of a translation, by its parts.

    Args:
      program: from `translation`.
      *args: parameters and images, arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      The count of each of `PARTS`, for all examples of the batch together, and how many loops of
      unknown length are in there, which count as if they ran once. What is counted are the networks
      as they are written down, so that the figures are the same on every machine: not the other
      ways in which some platforms come to the same values.
    """
    counted = macs.count(program, *args, platform=_AS_WRITTEN)
    parts = dict.fromkeys(PARTS, Macs())
    for names, found in counted.by_names.items():
        parts[part_of(names)] += found
    return parts, counted.open_loops


def part_of(names: Names) -> str:
    """The part of a translation to which a name stack belongs, one of `PARTS`."""
    for name in names:
        if name in _PART_OF_NAME:
            return _PART_OF_NAME[name]
    # Flax names a method beside its module.
    modules = {name.partition(".")[0] for name in names}
    return "heads" if _HEADS_OF in modules else "other"


@dataclasses.dataclass(frozen=True)
class Needs:
    """What the compiler says that a program needs.

    Attributes:
      bytes_accessed: read and written by its operations, as XLA counts them; what stays in a cache
        counts as well, and the body of a loop once.
      peak_bytes: arguments, results and temporaries together, less what shares its place.
    """

    bytes_accessed: int
    peak_bytes: int


def compiled_needs(compiled: Any) -> Needs:
    """Reads what a compiled program needs.

    Args:
      compiled: a ``jax.stages.Compiled``.
    """
    memory = compiled.memory_analysis()
    return Needs(
        bytes_accessed=int(compiled.cost_analysis()["bytes accessed"]),
        peak_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
    )
