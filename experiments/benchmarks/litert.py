"""Converts a bundle to LiteRT, formerly TensorFlow Lite, and compares the outputs.

    pip install 'litert-converter==0.5.0' 'ai-edge-litert==2.3.0'
    python -m experiments.benchmarks.litert --photos=FOLDER --model=retouch.tflite

The program of the bundle's generator for one size and factor, uint8 ``[1, side, side, 3]`` in and
out, lowered by jax and converted without TensorFlow. Every photograph is translated by it and by
ONNX Runtime, one thread each in turn. The converter's Python interface is not public: other
versions may differ.
"""

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import traverse_util
from PIL import Image

from experiments.benchmarks import measure
from experiments.benchmarks.measure import Table
from warp_translate.constants import BUNDLE_OPTIONS
from warp_translate.models import Generator, translate
from warp_translate.serving import bundle as bundles
from warp_translate.serving.bundle import Bundle
from warp_translate.serving.engine import OnnxEngine, load_parameters
from warp_translate.types import Array, to_float, to_uint8

_PHOTOS = flags.DEFINE_string("photos", None, "Folder of square photographs.", required=True)
_BUNDLE = flags.DEFINE_string("bundle", "retouch", "Bundle.")
_SIDE = flags.DEFINE_integer("side", 512, "Side of the pictures.")
_FACTOR = flags.DEFINE_integer("factor", 4, "Reduction factor.")
_MODEL = flags.DEFINE_string("model", "model.tflite", "The converted model.")
_COUNT = flags.DEFINE_integer("count", 6, "Photographs.")


def _lowered(bundle: Bundle) -> str:
    """The program as StableHLO, with the parameters as constants."""
    settings = dataclasses.asdict(bundle.architecture)
    names = {field.name for field in dataclasses.fields(Generator)}
    generator = Generator(**{name: settings[name] for name in settings.keys() & names})
    flat = {path: jnp.asarray(value) for path, value in load_parameters(bundle).items()}
    params = traverse_util.unflatten_dict(flat, sep="/")
    options = {name: settings[name] for name in BUNDLE_OPTIONS}

    def run(images: Array) -> Array:
        found = translate(generator, params, to_float(images), _FACTOR.value, **options)
        return to_uint8(found.output)

    image = jax.ShapeDtypeStruct((1, _SIDE.value, _SIDE.value, 3), jnp.uint8)
    return str(jax.jit(run).lower(image).compiler_ir("stablehlo"))


def _convert(program: str, target: str) -> None:
    from litert_converter.mlir import ir, passmanager
    from litert_converter.mlir._mlir_libs import converter_api_ext as converter

    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        module = ir.Module.parse(program)
        converter.set_signature(
            module.operation,
            signature_name="serving_default",
            input_names=["image"],
            output_names=["output"],
        )
        settings = converter.ConvertToTFLConfig()
        settings.model_origin_framework = "JAX"
        settings.enable_x64 = False
        converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), settings)
        converter.export_flatbuffer_to_file(module.operation, target)


def benchmark(repeats: int) -> Table:
    """Converts the bundle and compares every photograph."""
    from ai_edge_litert.interpreter import Interpreter

    bundle = bundles.find(_BUNDLE.value)
    _convert(_lowered(bundle), _MODEL.value)
    interpreter: Any = Interpreter(_MODEL.value, num_threads=1)
    interpreter.allocate_tensors()
    given, returned = (
        each()[0]["index"]
        for each in (interpreter.get_input_details, interpreter.get_output_details)
    )
    engine = OnnxEngine(bundle, threads=1)

    def run(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given, image)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(returned))

    largest, differing, ratios = 0, [], []
    for path in sorted(Path(_PHOTOS.value).rglob("*.jpg"))[: _COUNT.value]:
        picture = Image.open(path).convert("RGB").resize((_SIDE.value, _SIDE.value))
        image = np.asarray(picture)[None]
        for _ in range(repeats):
            begin = time.process_time()
            expected = engine.translate(image, _FACTOR.value).output
            middle = time.process_time()
            found = run(image)
            ratios.append((time.process_time() - middle) / (middle - begin))
        levels = np.abs(found.astype(int) - expected)
        largest = max(largest, int(levels.max()))
        differing.append((levels > 0).mean())
    row = {
        "bundle": bundle.name,
        "side": _SIDE.value,
        "factor": _FACTOR.value,
        "megabytes": round(Path(_MODEL.value).stat().st_size / 1e6, 2),
        "largest_difference": largest,
        "differing_percent": round(100 * float(np.mean(differing)), 3),
        "time_of_onnx_runtime": round(statistics.median(ratios), 2),
    }
    packages = ("onnxruntime", "litert-converter", "ai-edge-litert")
    return Table([row], packages=packages)


if __name__ == "__main__":
    measure.run(benchmark, repeats=5)
