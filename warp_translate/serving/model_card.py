"""The README of a bundle, in the form that model hubs read."""

from collections.abc import Mapping
from typing import Any

from warp_translate.serving import bundle as bundles
from warp_translate.serving.bundle import AnyBundle, Bundle, ClassifierBundle


def write(bundle: Bundle, parity: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the card.

    Args:
      bundle: what it is about.
      parity: what was measured of each format, see ``export.Parity``.
    """
    data, origin = _data(bundle), bundle.provenance
    rows = [
        f"| `{name}` | {found['images']} | {found['largest']} | "
        f"{100 * found['differing'] / found['values']:.3f} % |"
        for name, found in parity.items()
    ]
    return "\n".join(
        [
            "---",
            "library_name: flax",
            "pipeline_tag: image-to-image",
            "tags: [image-to-image, jax, onnx, warp-translate]",
            "---",
            "",
            f"# {bundle.name}",
            "",
            f"Translates pictures of the domain **{bundle.source}** to **{bundle.target}**, at "
            "their own size. The heavy part",
            "of the network sees a reduced copy; the picture itself is warped by a predicted "
            "displacement and fused with a",
            "pretranslated image by a predicted mask.",
            "",
            f"Trained on `{data}` at {bundle.size} px with factor {bundle.factor}, "
            f"{origin.get('step', '?')} steps; made for factors "
            f"{', '.join(map(str, bundle.factors))}.",
            "",
            "## Use",
            "",
            "```python",
            "from warp_translate.serving import bundle, engine",
            "",
            f'translator = engine.open_engine(bundle.read("{bundle.name}"))',
            "output = translator.translate(images).output  # uint8 [N, H, W, 3], any size",
            "```",
            "",
            f"`{bundles.ONNX}` by itself: inputs `image` (uint8 [N, H, W, 3]), and optionally "
            "`factor` (int64) and `with_maps`",
            f"(bool); `output` is like `image`. `{bundles.ONNX_FLOAT}` takes and gives float32 in "
            "[-1, 1].",
            "",
            "## How far the formats are from the checkpoint",
            "",
            "| format | images | largest difference (levels of 255) | values that differ |",
            "|---|---|---|---|",
            *rows,
            *_figures(bundle),
            "",
        ]
    )


def write_classifier(bundle: ClassifierBundle, parity: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the card of a classifier.

    Args:
      bundle: what it is about.
      parity: what was measured of each format, see ``export_classifier.Parity``.
    """
    rows = [
        f"| `{name}` | {found['images']} | {found['largest']:.1e} | {found['domains_differ']} |"
        for name, found in parity.items()
    ]
    return "\n".join(
        [
            "---",
            "library_name: flax",
            "pipeline_tag: image-classification",
            "tags: [image-classification, jax, onnx, warp-translate]",
            "---",
            "",
            f"# {bundle.name}",
            "",
            f"Tells apart the domains {', '.join(f'**{name}**' for name in bundle.domains)}. An "
            "image of which no domain is",
            f"{bundle.threshold:g} probable counts as unknown.",
            "",
            f"Trained on `{_data(bundle)}` at {bundle.size} px, "
            f"{bundle.provenance.get('step', '?')} steps.",
            "",
            "## Use",
            "",
            "```python",
            "from warp_translate.serving import bundle, classifier",
            "",
            f'found = classifier.Classifier(bundle.read_any("{bundle.name}")).classify(image)',
            "found.domain, found.probabilities  # of a uint8 [H, W, 3] image of any size",
            "```",
            "",
            f"`{bundles.CLASSIFIER_ONNX}` by itself: input `image` (uint8 [N, {bundle.size}, "
            f"{bundle.size}, 3]), output `probabilities`",
            f"(float32 [N, {len(bundle.domains)}]).",
            "",
            "## How far the formats are from the checkpoint",
            "",
            "| format | images | largest difference of a probability | other domain |",
            "|---|---|---|---|",
            *rows,
            *_figures(bundle),
            "",
        ]
    )


def _data(bundle: AnyBundle) -> str:
    return str(bundle.provenance.get("config", {}).get("data", {}).get("name", "unknown"))


def _figures(bundle: AnyBundle) -> list[str]:
    found = bundle.provenance.get("figures", {})
    if not found:
        return []
    rows = [
        f"| `{name}` | {value if isinstance(value, str) else f'{value:.4g}'} |"  # NaN, Infinity
        for name, value in found.items()
    ]
    return ["", "## Measured at this step", "", "| metric | |", "|---|---|", *rows]
