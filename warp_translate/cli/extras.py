"""Which extra of the installation brings a package that is missing."""

_EXTRAS = {
    **dict.fromkeys(("fastapi", "multipart", "onnxruntime", "prometheus_client"), "serve"),
    **dict.fromkeys(("safetensors", "starlette", "uvicorn"), "serve"),
    "onnx": "onnx",
}


def missing_package(error: ModuleNotFoundError) -> str:
    """What to tell a user whose command needs a package that is not installed.

    Args:
      error: what the import raised.
    """
    package = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(package, "train")
    return f"this needs the package {package}: pip install 'warp-translate[{extra}]'"
