"""A model repository of Triton: each generator as a model of its ONNX Runtime backend.

    REPOSITORY/NAME/config.pbtxt    what Triton must know of the graph
    REPOSITORY/NAME/1/model.onnx    the bundle's graph for uint8 images

What a configuration may hold follows from Triton's checks of it and from those of the backend. Only
a model whose ``max_batch_size`` is 0 may have inputs that can be left out, so that Triton joins no
requests; a request may hold several images all the same. A scalar of the graph has the dims ``[1]``
and no reshape, which Triton takes from 23.10 on. Without a configuration Triton would guess one
that knows neither ``factor`` nor ``with_maps``.
"""

import os
import shutil
from pathlib import Path

from warp_translate.errors import UserError
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
    """Where a model goes.

    Args:
      repository: the model repository; it need not be there yet.
      name: the bundle's name.

    Raises:
      UserError: something is there that `write` did not make, or more than it made.
    """
    folder = Path(repository) / name
    if folder.exists() and not _is_ours(folder):
        raise UserError(
            f"{folder} is there and is not just what export writes for Triton: remove it or choose "
            "another --triton"
        )
    return folder


def write(bundle: Bundle, repository: str | os.PathLike[str]) -> Path:
    """Lays a bundle out as a model, in place of an older one of its name.

    The graph is a hard link to the bundle's where the file system has them, and else a copy. The
    folder is made whole under a hidden name and then renamed.

    Args:
      bundle: the bundle, which keeps its files.
      repository: the model repository; made if it is not there.

    Returns:
      The model's folder.

    Raises:
      UserError: the folder is somebody else's or cannot be written, or the graph is missing.
    """
    folder = model_folder(repository, bundle.name)
    graph = bundle.path(bundles.ONNX)
    with bundles.replaced(folder, holds=CONFIG, flag="--triton") as partial:
        try:
            (partial / CONFIG).write_text(config(bundle.name), encoding="utf-8")
            (partial / MODEL).parent.mkdir()
            try:
                os.link(graph, partial / MODEL)
            except OSError:  # On another disk, or on one without links.
                shutil.copyfile(graph, partial / MODEL)
        except OSError as error:
            raise UserError(
                f"{graph} cannot be laid out in {repository} ({error.strerror or error}): choose "
                "another --triton"
            ) from error
    return folder


def config(name: str) -> str:
    """The content of ``config.pbtxt``: a ``ModelConfig`` in protobuf's text format.

    Args:
      name: the bundle's, which is the model's.
    """
    inputs = ",\n".join(_tensor(each) for each in signature.INPUTS)
    outputs = ",\n".join(_tensor(each) for each in signature.OUTPUTS)
    return (
        f"{_FIRST_LINE}"
        f'name: "{name}"\n'
        'platform: "onnxruntime_onnx"\n'
        'backend: "onnxruntime"\n'
        "max_batch_size: 0\n"
        f"input [\n{inputs}\n]\n"
        f"output [\n{outputs}\n]\n"
    )


def _tensor(tensor: Tensor) -> str:
    lines = [
        f'name: "{tensor.name}"',
        f"data_type: TYPE_{tensor.datatype}",
        f"dims: [ {', '.join(map(str, tensor.shape))} ]",
        *(["optional: true"] if tensor.optional else []),
    ]
    return "  {\n" + "".join(f"    {line}\n" for line in lines) + "  }"


def _is_ours(folder: Path) -> bool:
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8")
        held = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    except (OSError, ValueError):
        return False
    return text.startswith(_FIRST_LINE) and held == {CONFIG, signature.VERSION, MODEL}
