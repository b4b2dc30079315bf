"""The model card of a bundle: a README in the format of model hubs."""

from collections.abc import Mapping
from typing import Any

from warp_translate.serving import bundle as bundles
from warp_translate.serving.bundle import AnyBundle, Bundle, ClassifierBundle

_HEAD = """---
library_name: flax
pipeline_tag: {task}
tags: [{task}, jax, onnx, warp-translate]
---

# {name}

"""
_GENERATOR = """Translates images from the domain **{source}** to **{target}** at their own
resolution. The expensive part of the network sees a reduced copy; the original is warped by a
predicted displacement and blended with a pretranslated image by a predicted mask.

Trained on `{data}` at {size} px with factor {factor}, {step} steps; supports factors {factors}.

## Usage

```python
from warp_translate.serving import bundle, engine

translator = engine.open_engine(bundle.read("{name}"))
output = translator.translate(images).output  # uint8 [N, H, W, 3], any size
```

`{onnx}` on its own: inputs `image` (uint8 [N, H, W, 3], or 4 for RGBA), `factor` (int64) and
`with_maps` (bool); `output` has the type and shape of `image`.

## Differences from the checkpoint

| format | images | largest difference (levels of 255) | differing values |
|---|---|---|---|
"""
_CLASSIFIER = """Distinguishes the domains {domains}. An image is unknown if no domain has a
probability of at least {threshold:g}.

Trained on `{data}` at {size} px, {step} steps.

## Usage

```python
from warp_translate.serving import bundle, classifier

found = classifier.Classifier(bundle.read_any("{name}")).classify(image)
found.domain, found.probabilities  # of a uint8 [H, W, 3] image of any size
```

`{onnx}` on its own: input `image` (uint8 [N, {size}, {size}, 3]), output `probabilities`
(float32 [N, {count}]).

## Differences from the checkpoint

| format | images | largest difference of a probability | other domain |
|---|---|---|---|
"""


def write(bundle: Bundle, parity: Mapping[str, Mapping[str, Any]]) -> str:
    """The card of a generator; ``parity`` holds the fields of `export.Parity` by format."""
    text = (_HEAD + _GENERATOR).format(
        task="image-to-image",
        **_common(bundle),
        source=bundle.source,
        target=bundle.target,
        factor=bundle.factor,
        factors=", ".join(map(str, bundle.factors)),
        onnx=bundles.ONNX,
    )
    for name, found in parity.items():
        share = found["differing"] / found["values"]
        text += f"| `{name}` | {found['images']} | {found['largest']} | {100 * share:.3f} % |\n"
    return text + _metrics(bundle)


def write_classifier(bundle: ClassifierBundle, parity: Mapping[str, Mapping[str, Any]]) -> str:
    """The card of a classifier; ``parity`` holds the fields of `export.ClassifierParity`."""
    text = (_HEAD + _CLASSIFIER).format(
        task="image-classification",
        **_common(bundle),
        domains=", ".join(f"**{name}**" for name in bundle.domains),
        threshold=bundle.threshold,
        count=len(bundle.domains),
        onnx=bundles.CLASSIFIER_ONNX,
    )
    for name, found in parity.items():
        differ = found["domains_differ"]
        text += f"| `{name}` | {found['images']} | {found['largest']:.1e} | {differ} |\n"
    return text + _metrics(bundle)


def _common(bundle: AnyBundle) -> dict[str, Any]:
    origin = bundle.provenance
    data = origin.get("config", {}).get("data", {}).get("name", "unknown")
    return {"name": bundle.name, "size": bundle.size, "data": data, "step": origin.get("step", "?")}


def _metrics(bundle: AnyBundle) -> str:
    found = bundle.provenance.get("figures", {})
    if not found:
        return ""
    text = "\n## Metrics at this step\n\n| metric | |\n|---|---|\n"
    for name, value in found.items():
        # NaN and infinity are text.
        text += f"| `{name}` | {value if isinstance(value, str) else f'{value:.4g}'} |\n"
    return text
