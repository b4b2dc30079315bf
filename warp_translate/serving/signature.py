"""Inputs and outputs of the ONNX graph, as the KServe protocol and Triton name them."""

import dataclasses

from warp_translate.visualize import MAPS

ROUTER = "router"
"""The model that chooses a bundle for each image, by its domain and the parameters ``source`` and
``target`` of the request; a bundle of that name takes its place."""

VERSION = "1"
"""The only version of every model."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or an output."""

    name: str  # Its name in the graph.
    datatype: str  # As the KServe protocol writes it.
    shape: tuple[int, ...]  # -1 for any size; a scalar of the graph is ``[1]`` in a request.
    optional: bool = False  # Whether a request to the server may omit it.


IMAGE = Tensor("image", "UINT8", (-1, -1, -1, 3))
FACTOR = Tensor("factor", "INT64", (1,), optional=True)
WITH_MAPS = Tensor("with_maps", "BOOL", (1,), optional=True)
INPUTS = (IMAGE, FACTOR, WITH_MAPS)

OUTPUT = Tensor("output", "UINT8", (-1, -1, -1, 3))
# Without with_maps the maps are [0, 0, 0, 0], so every dimension is dynamic.
OUTPUTS = (OUTPUT, *(Tensor(name, "FP32", (-1, -1, -1, -1)) for name in MAPS))
