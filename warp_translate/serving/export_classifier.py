"""Makes a bundle of a trained domain classifier, and measures every format in it."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax import traverse_util
from jax import export as jax_export

from warp_translate.errors import UserError
from warp_translate.models import DomainClassifier
from warp_translate.serving import bundle as bundles
from warp_translate.serving import classifier_graph, model_card
from warp_translate.serving.bundle import ClassifierBundle
from warp_translate.serving.classifier import Classifier, prepare
from warp_translate.serving.engine import Backend
from warp_translate.serving.export import PLATFORMS, flatten, lower, save_parameters
from warp_translate.types import Array, PyTree, to_float

_TOLERANCE = 1e-3
_BACKENDS: dict[str, Backend] = {bundles.CLASSIFIER_ONNX: "onnx", bundles.CLASSIFIER_JAX: "jax"}


@dataclasses.dataclass(frozen=True)
class Parity:
    """How far the probabilities of a format are from the checkpoint's.

    Attributes:
      images: how many images were compared.
      largest: largest difference of a probability.
      domains_differ: how many images are taken for another domain.
    """

    images: int
    largest: float
    domains_differ: int


def write_bundle(
    bundle: ClassifierBundle,
    module: DomainClassifier,
    params: PyTree,
    images: Sequence[np.ndarray],
    *,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Parity]:
    """Writes a bundle, or nothing if one of its formats does not do what the classifier does.

    Args:
      bundle: what it is; its folder is where it goes, its files and checksums are filled in.
      module: the module.
      params: its parameters.
      images: uint8 ``[H, W, 3]``, real ones, on which the formats are compared.
      note: told what is being done.

    Returns:
      What was measured, by format.

    Raises:
      UserError: the folder cannot be written, or a format differs.
    """
    flat = flatten(params)

    def run(flat: Mapping[str, Array], images: Array) -> Array:
        params = traverse_util.unflatten_dict(flat, sep="/")
        logits = module.apply({"params": params}, to_float(images))
        return jax.nn.softmax(jnp.asarray(logits))

    with bundles.replaced(bundle.folder) as partial:
        note("writing the parameters")
        save_parameters(partial, flat)
        note("writing the ONNX graph")
        onnx.save(classifier_graph.build(flat, bundle.size), partial / bundles.CLASSIFIER_ONNX)
        note(f"lowering the computation to {', '.join(PLATFORMS)}")
        shape = jax_export.symbolic_shape(f"n, {bundle.size}, {bundle.size}, 3")
        (partial / bundles.CLASSIFIER_JAX).write_bytes(lower(run, flat, shape))
        bundles.write_config(dataclasses.replace(bundle, folder=partial))
        written = bundles.read_any(partial)
        assert isinstance(written, ClassifierBundle)
        note(f"compiling and comparing on {len(images)} images")
        shown = np.stack([prepare(image, bundle.size) for image in images])
        expected = np.asarray(jax.jit(run)(flat, shown))
        found = {}
        for name, backend in _BACKENDS.items():
            given = Classifier(written, backend).probabilities(shown)
            found[name] = Parity(
                images=len(images),
                largest=float(np.abs(given - expected).max()),
                domains_differ=int((given.argmax(1) != expected.argmax(1)).sum()),
            )
        report = {name: dataclasses.asdict(parity) for name, parity in found.items()}
        (partial / bundles.PARITY).write_text(json.dumps(report, indent=2) + "\n")
        for name, parity in found.items():
            if not parity.largest <= _TOLERANCE:
                raise UserError(
                    f"{name} differs from the checkpoint by {parity.largest:.2g} in a probability, "
                    f"where {_TOLERANCE:g} is allowed; nothing was exported. Please report it"
                )
        card = model_card.write_classifier(bundle, report)
        (partial / bundles.CARD).write_text(card, encoding="utf-8")
        bundles.write_config(dataclasses.replace(bundle, folder=partial))
    return found
