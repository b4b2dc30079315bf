"""The programs that ``translation.py`` compares: one image in, one image of its size out.

* jax: `our_function` of the default paired experiment's generator, compiled.
* onnx: the same graph as the package exports it, in ONNX Runtime as the package serves it, uint8 in
  and out.
* resnet9, unet256: CycleGAN's and pix2pix's generators in PyTorch. Sides that they cannot take are
  padded within the call by repeating the border, and cropped again.

Parameters are random. The displacement's are too, which would start at zero: so that the warp reads
from elsewhere than where it writes, as after training.
"""

import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
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

How = Literal["jax", "onnx", "resnet9", "unet256"]
PEERS: dict[str, Any] = {"resnet9": ResNet9, "unet256": UNet256}
_SERVED = (1, 2, 4, 8, 16)  # Factors that the engine accepts.


@dataclasses.dataclass(frozen=True)
class Spec:
    """Which program.

    Attributes:
      how: whose.
      height: of the image in pixels.
      width: of the image in pixels.
      factor: how many times smaller the trunk's image is; None for peers.
      threads: of PyTorch and ONNX Runtime; jax takes the cores that the process is allowed.
      donate: jax may write the output over the input.
      uint8: jax's images are uint8, as they are served, and not float32 in [-1, 1].
      channels_last: PyTorch's layout.
      tiny: networks small enough for a test.
    """

    how: How
    height: int
    width: int
    factor: int | None = None
    threads: int = 1
    donate: bool = False
    uint8: bool = False
    channels_last: bool = False
    tiny: bool = False


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that is ready.

    Attributes:
      run: translates once.
      prepare: makes the input anew, where `run` gives it away.
      compiled: what was compiled, of jax.
    """

    run: Callable[[], Any]
    prepare: Callable[[], None] | None = None
    compiled: Any = None


def make(**fields: Any) -> Program:
    """Builds the program of a `Spec` of these fields, with parameters and input."""
    spec = Spec(**fields)
    torch.set_num_threads(spec.threads)
    return {"jax": _jax, "onnx": _onnx}.get(spec.how, _peer)(spec)


def our_function(
    generator: Generator, factor: int, *, uint8: bool
) -> Callable[[PyTree, Array], Array]:
    """How this package's translation is called: parameters and an image ``[1, H, W, 3]``."""
    if uint8:
        return lambda params, image: to_uint8(
            translate(generator, params, to_float(image), factor, in_bands=True).output
        )
    return lambda params, image: translate(generator, params, image, factor, in_bands=True).output


def operations(spec: Spec) -> tuple[int, int]:
    """Multiplications of convolutions, transposed ones counted at output and at input."""
    if spec.factor is None:
        peer = _described(spec)
        return macs.of_torch(
            peer, 1, 3, *(_multiple(side, peer.multiple) for side in (spec.height, spec.width))
        )
    generator = _generator(spec.tiny)
    parts, _ = cost.macs_by_part(
        cost.translation(generator, spec.factor),
        jax.eval_shape(lambda: _drawn(spec.tiny)),
        jax.ShapeDtypeStruct((1, spec.height, spec.width, 3), jnp.uint8),
    )
    found = sum(part.products for part in parts.values())
    return found, found  # It has no transposed convolution.


def _config(tiny: bool) -> Any:
    return paired.get_config("runlocal" if tiny else "")


def _generator(tiny: bool) -> Generator:
    return build.generator_training(_config(tiny)).generator


def _drawn(tiny: bool) -> PyTree:
    generator = _generator(tiny)
    images = jnp.zeros((1, 64, 64, 3))
    params = generator.init(jax.random.key(0), images[:, ::2, ::2], images, 2)["params"]
    head = params["displacement"]
    drawn = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), head)
    return {**params, "displacement": jax.tree.map(lambda leaf: 0.02 * leaf, drawn)}


def _image(spec: Spec) -> np.ndarray:
    shape = (1, spec.height, spec.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _jax(spec: Spec) -> Program:
    assert spec.factor is not None
    params = jax.jit(functools.partial(_drawn, spec.tiny))()
    host = _image(spec)
    image = jnp.asarray(host) if spec.uint8 else to_float(host)
    del host
    function = our_function(_generator(spec.tiny), spec.factor, uint8=spec.uint8)
    jitted = jax.jit(function, donate_argnums=(1,) if spec.donate else ())
    compiled = jitted.lower(params, image).compile()
    if not spec.donate:
        return Program(functools.partial(compiled, params, image), None, compiled)
    # Every call gets a copy, made beforehand.
    holder: list[Array] = []

    def prepare() -> None:
        holder[:] = [jax.block_until_ready(jnp.array(image, copy=True))]

    return Program(lambda: compiled(params, holder.pop()), prepare, compiled)


def _onnx(spec: Spec) -> Program:
    training = build.generator_training(_config(spec.tiny))
    generator = training.generator
    architecture = Architecture(
        **{
            field.name: getattr(
                generator if hasattr(generator, field.name) else training.method, field.name
            )
            for field in dataclasses.fields(Architecture)
        }
    )
    params = jax.jit(functools.partial(_drawn, spec.tiny))()
    with tempfile.TemporaryDirectory() as folder:
        graph = onnx_graph.build(
            export.flatten(params), architecture, training.method.factor, floats=False
        )
        onnx.save(graph, os.path.join(folder, bundles.ONNX))
        bundle = bundles.Bundle(
            folder=Path(folder),
            name="benchmark",
            size=_config(spec.tiny).data.size,
            provenance={},
            files={bundles.ONNX: ""},
            source="a",
            target="b",
            architecture=architecture,
            factors=_SERVED,
            factor=training.method.factor,
        )
        engine = OnnxEngine(bundle, threads=spec.threads)
    del params, graph
    return Program(functools.partial(engine.translate, _image(spec), spec.factor))


def _described(spec: Spec) -> nn.Module:
    module: nn.Module = PEERS[spec.how](width=8) if spec.tiny else PEERS[spec.how]()
    return module


def _peer(spec: Spec) -> Program:
    module = _described(spec).eval()
    images = torch.tensor(_image(spec)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    form = torch.channels_last if spec.channels_last else torch.contiguous_format
    module, images = module.to(memory_format=form), images.contiguous(memory_format=form)
    beyond = [_multiple(side, module.multiple) - side for side in (spec.height, spec.width)]

    def run() -> Tensor:
        with torch.inference_mode():
            padded = images
            if any(beyond):
                padded = functional.pad(images, (0, beyond[1], 0, beyond[0]), mode="replicate")
            made: Tensor = module(padded)
            return made[:, :, : spec.height, : spec.width]

    return Program(run)


def _multiple(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
