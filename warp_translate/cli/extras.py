"""Which extra of the installation brings a missing package."""

_PACKAGES = {
    "serve": (
        *("fastapi", "h11", "multipart", "onnxruntime", "prometheus_client", "safetensors"),
        *("starlette", "uvicorn"),
    ),
    "onnx": ("onnx",),
    "eval": ("jinja2", "markupsafe", "matplotlib"),
    "train": (
        *("array_record", "cv2", "flax", "grain", "jax", "jaxlib", "ml_collections", "optax"),
        *("orbax", "packaging", "tensorboardX", "tensorflow_datasets"),
    ),
}


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Returns how to install a missing package; None if no extra brings it, which is a bug."""
    package = (error.name or "").partition(".")[0]
    for extra, packages in _PACKAGES.items():
        if package in packages:
            return f"this needs the package {package}: pip install 'warp-translate[{extra}]'"
    return None
