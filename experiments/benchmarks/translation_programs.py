"""Programs that ``translation.py`` compares; each maps an image to an image of its size.

* jax: the translation by the default paired experiment's generator, compiled.
* onnx: its exported graph in ONNX Runtime as the package serves it, uint8 in and out.
* resnet9, unet256: CycleGAN's and pix2pix's generators in PyTorch. Sides that they cannot take are
  padded within the call by repeating the border, and cropped afterwards.

Parameters are random, also those of the displacement, which would start at zero: the warp reads
from displaced pixels, as after training.
"""

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments import paired
from experiments.benchmarks import macs
from experiments.benchmarks.peers.resnet9 import ResNet9
from experiments.benchmarks.peers.unet256 import UNet256
from warp_translate.evaluation import cost
from warp_translate.experiment import build
from warp_translate.models import Generator, translate
from warp_translate.serving import bundle as bundles
from warp_translate.serving import export, onnx_graph
from warp_translate.serving.architecture import Architecture
from warp_translate.serving.engine import OnnxEngine
from warp_translate.types import Array, PyTree, to_float, to_uint8

PEERS: dict[str, Any] = {"resnet9": ResNet9, "unet256": UNet256}


@dataclasses.dataclass(frozen=True)
class Spec:
    """A program and its conditions.

    Attributes:
      program: name of the program.
      height: of the image in pixels.
      width: of the image in pixels.
      factor: reduction of the trunk's image; None for peers.
      threads: threads of PyTorch and ONNX Runtime; jax takes the cores that the process may use.
      uint8: jax's images are uint8 instead of float32 in [-1, 1].
      channels_last: PyTorch's memory format.
      tiny: whether the networks are tiny, for tests.
    """

    program: Literal["jax", "onnx", "resnet9", "unet256"]
    height: int
    width: int
    factor: int | None = None
    threads: int = 1
    uint8: bool = False
    channels_last: bool = False
    tiny: bool = False

    def __str__(self) -> str:
        factor = "" if self.factor is None else f" factor {self.factor}"
        return f"{self.program} {self.height}x{self.width}{factor}"


Program = Callable[[], Any]


def make(**fields: Any) -> Program:
    """Returns a function that runs the program of a `Spec` with these fields once."""
    spec = Spec(**fields)
    torch.set_num_threads(spec.threads)
    return {"jax": _jax, "onnx": _onnx}.get(spec.program, _peer)(spec)


def operations(spec: Spec) -> int:
    """Returns the MACs of convolutions, with transposed ones counted at their output."""
    if spec.factor is None:
        sides = [side + more for side, more in zip(*_sides(spec), strict=True)]
        return macs.of_torch(_peer_module(spec), 1, 3, *sides)
    parts, _ = cost.macs_by_part(
        cost.translation(_generator(spec), spec.factor),
        jax.eval_shape(lambda: _params(spec)),
        jax.ShapeDtypeStruct((1, spec.height, spec.width, 3), jnp.uint8),
    )
    return sum(part.products for part in parts.values())


def _config(spec: Spec) -> ml_collections.ConfigDict:
    return paired.get_config("runlocal" if spec.tiny else "")


def _generator(spec: Spec) -> Generator:
    return build.generator_training(_config(spec)).generator


def _params(spec: Spec) -> PyTree:
    generator = _generator(spec)
    images = jnp.zeros((1, 64, 64, 3))
    params = generator.init(jax.random.key(0), images[:, ::2, ::2], images, 2)["params"]
    head = jax.tree.map(
        lambda leaf: 0.02 * jax.random.normal(jax.random.key(1), leaf.shape),
        params["displacement"],
    )
    return {**params, "displacement": head}


def _image(spec: Spec) -> np.ndarray:
    shape = (1, spec.height, spec.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _jax(spec: Spec) -> Program:
    generator = _generator(spec)

    def function(params: PyTree, image: Array) -> Array:
        image = to_float(image) if spec.uint8 else image
        output = translate(generator, params, image, spec.factor, in_bands=True).output
        return to_uint8(output) if spec.uint8 else output

    params = jax.jit(lambda: _params(spec))()
    image = jnp.asarray(_image(spec)) if spec.uint8 else to_float(_image(spec))
    compiled = jax.jit(function).lower(params, image).compile()
    return functools.partial(compiled, params, image)


def _onnx(spec: Spec) -> Program:
    generator, method = _generator(spec), _config(spec).method
    fields = (field.name for field in dataclasses.fields(Architecture))
    architecture = Architecture(
        **{
            each: getattr(generator, each) if hasattr(generator, each) else method[each]
            for each in fields
        }
    )
    params = export.flatten(jax.jit(lambda: _params(spec))())
    graph = onnx_graph.build(params, architecture)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(graph, Path(folder, bundles.ONNX))
        bundle = bundles.Bundle(
            folder=Path(folder),
            name="benchmark",
            size=64,
            provenance={},
            files={bundles.ONNX: ""},
            source="a",
            target="b",
            architecture=architecture,
            factors=(1, 2, 4, 8, 16),
            factor=method.factor,
        )
        engine = OnnxEngine(bundle, threads=spec.threads)
    return functools.partial(engine.translate, _image(spec), spec.factor)


def _peer_module(spec: Spec) -> nn.Module:
    module: nn.Module = PEERS[spec.program](width=8) if spec.tiny else PEERS[spec.program]()
    return module


def _sides(spec: Spec) -> tuple[tuple[int, int], list[int]]:
    """Returns height and width, and the pixels by which each is padded for a peer."""
    sides = (spec.height, spec.width)
    return sides, [-side % PEERS[spec.program].multiple for side in sides]


def _peer(spec: Spec) -> Program:
    form = torch.channels_last if spec.channels_last else torch.contiguous_format
    module = _peer_module(spec).eval().to(memory_format=form)
    images = torch.tensor(_image(spec)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    images = images.contiguous(memory_format=form)
    _, (below, right) = _sides(spec)

    def run() -> Tensor:
        with torch.inference_mode():
            padded = images
            if below or right:
                padded = functional.pad(images, (0, right, 0, below), mode="replicate")
            output: Tensor = module(padded)
            return output[:, :, : spec.height, : spec.width]

    return run
