"""Writes a Triton model repository: each generator as a model of the ONNX Runtime backend.

    REPOSITORY/NAME/config.pbtxt    configuration
    REPOSITORY/NAME/1/model.onnx    the bundle's graph for uint8 images

The configuration follows the checks of Triton and of the backend. Triton does not batch requests,
whose factors may differ, but a request may hold several images. A scalar of the graph has dims
``[1]`` and no reshape, which Triton accepts from 23.10 on. The configuration that Triton would
generate has neither ``factor`` nor ``with_maps``.
"""

import os
import shutil
from pathlib import Path

from warp_translate.errors import UserError, reason
from warp_translate.serving import bundle as bundles
from warp_translate.serving import signature
from warp_translate.serving.bundle import Bundle
from warp_translate.serving.signature import Tensor

CONFIG = "config.pbtxt"
MODEL = f"{signature.VERSION}/model.onnx"

_FIRST_LINE = (
    "# Written by warp-translate export, which replaces this folder when it is called again.\n"
)


def model_folder(repository: str | os.PathLike[str], name: str) -> Path:
    """The folder of a model.

    Raises:
      UserError: it holds anything that `write` did not create.
    """
    folder = Path(repository) / name
    if folder.exists() and not _is_ours(folder):
        raise UserError(
            f"{folder} holds other files than those that export writes for Triton: remove it or "
            "choose another --triton"
        )
    return folder


def write(bundle: Bundle, repository: str | os.PathLike[str]) -> Path:
    """Writes a bundle as a model, atomically, replacing an older one of its name.

    The graph is a hard link to the bundle's if the file system supports it, else a copy.

    Args:
      bundle: the bundle.
      repository: the model repository, created if missing.

    Returns:
      The model's folder.

    Raises:
      UserError: the folder holds other files or cannot be written, or the graph is missing.
    """
    folder = model_folder(repository, bundle.name)
    graph = bundle.path(bundles.ONNX)
    with bundles.replaced(folder, holds=CONFIG, flag="--triton") as partial:
        try:
            (partial / CONFIG).write_text(config(bundle.name), encoding="utf-8")
            (partial / MODEL).parent.mkdir()
            try:
                os.link(graph, partial / MODEL)
            except OSError:  # Another file system, or one without hard links.
                shutil.copyfile(graph, partial / MODEL)
        except OSError as error:
            raise UserError(
                f"{graph} cannot be copied to {repository} ({reason(error)}): choose another "
                "--triton"
            ) from error
    return folder


def config(name: str) -> str:
    """The content of ``config.pbtxt``: a ``ModelConfig`` in protobuf's text format."""
    inputs = ",\n".join(_tensor(each) for each in signature.INPUTS)
    outputs = ",\n".join(_tensor(each) for each in signature.OUTPUTS)
    return f"""{_FIRST_LINE}name: "{name}"
platform: "onnxruntime_onnx"
backend: "onnxruntime"
max_batch_size: 0
input [
{inputs}
]
output [
{outputs}
]
"""


def _tensor(tensor: Tensor) -> str:
    # All sides of an image are dynamic in the graph, which also takes RGBA.
    shape = tensor.shape if len(tensor.shape) == 1 else [-1] * len(tensor.shape)
    lines = [
        f'name: "{tensor.name}"',
        f"data_type: TYPE_{tensor.datatype}",
        f"dims: [ {', '.join(map(str, shape))} ]",
    ]
    return "  {\n" + "".join(f"    {line}\n" for line in lines) + "  }"


def _is_ours(folder: Path) -> bool:
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
        held = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    except (OSError, ValueError):
        return False
    return text.startswith(_FIRST_LINE) and held == {CONFIG, signature.VERSION, MODEL}
