"""Which extra of the installation brings a package that is missing."""

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
    """What to tell a user whose command needs a package that is not installed.

    Args:
      error: what the import raised.

    Returns:
      One line; None if no extra brings the package, so that it is no mistake of the user's.
    """
    package = (error.name or "").partition(".")[0]
    for extra, packages in _PACKAGES.items():
        if package in packages:
            return f"this needs the package {package}: pip install 'warp-translate[{extra}]'"
    return None
