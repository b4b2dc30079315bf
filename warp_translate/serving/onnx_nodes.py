"""Building blocks of the ONNX graphs.

Opset 18 at IR version 8, which ONNX Runtime, Triton and browsers support.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from warp_translate.constants import PIXEL_SCALE, Border

OPSET = 18
IR_VERSION = 8

_MODES: Mapping[Border, str] = {"reflect": "reflect", "repeat": "edge", "zero": "constant"}


class Graph:
    """Nodes and constants in order; every node has a name.

    Attributes:
      params: parameters of the network by path, float32 or float16.
    """

    def __init__(self, params: Mapping[str, np.ndarray]) -> None:
        self.params = params
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._known: set[str] = set()

    def node(self, operation: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Adds a node with one output of the same name, and returns the name."""
        self.nodes.append(helper.make_node(operation, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, dtype: Any, name: str) -> str:
        """Adds a constant unless it exists, and returns its name."""
        if name not in self._known:
            self._known.add(name)
            array = np.ascontiguousarray(np.asarray(value, dtype))
            self.constants.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def integers(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant(list(values), np.int64, f"integers/{'_'.join(map(str, values))}")

    def integer(self, value: int) -> str:
        """An int64 scalar."""
        return self.constant(value, np.int64, f"integer/{value}")

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(value, np.float32, f"number/{value}")

    def parameter(
        self, path: str, arranged: Callable[[np.ndarray], np.ndarray] = lambda value: value
    ) -> str:
        """A parameter of the network as float32, optionally in another arrangement."""
        return self.stored(arranged(self.params[path]), path)

    def stored(self, value: np.ndarray, name: str) -> str:
        """Parameters as float32, by name.

        Float16 is stored as it is; runtimes convert it once, when they load the graph.
        """
        if value.dtype != np.float16:
            return self.constant(value, np.float32, name)
        if name not in self._known:
            self._known.add(name)
            half = self.constant(value, np.float16, f"{name}/half")
            self.node("Cast", half, name=name, to=TensorProto.FLOAT)
        return name

    def take_unused(self, output: str) -> list[onnx.NodeProto]:
        """Removes the nodes that an output does not depend on, and returns them."""
        needed, used, unused = {output}, [], []
        for node in reversed(self.nodes):
            if needed.isdisjoint(node.output):
                unused.append(node)
            else:
                used.append(node)
                needed.update(_inputs(node))
        self.nodes = used[::-1]
        return unused[::-1]

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        """Builds and checks the model.

        Args:
          inputs: names, types and shapes.
          outputs: names, types and shapes.
        """
        model = helper.make_model(
            helper.make_graph(self.nodes, "warp_translate", inputs, outputs, self.constants),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="warp_translate",
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def _inputs(node: onnx.NodeProto) -> Iterator[str]:
    """The inputs of a node and of the nodes in its bodies, which may be those of the graph."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _inputs(inner)


def to_float(graph: Graph, image: str) -> str:
    """Converts uint8 to float32 in [-1, 1]."""
    cast = graph.node("Cast", image, name="original/cast", to=TensorProto.FLOAT)
    scaled = graph.node("Div", cast, graph.number(PIXEL_SCALE), name="original/scaled")
    return graph.node("Sub", scaled, graph.number(1.0), name="original/float")


def padded_by(graph: Graph, features: str, amount: int, border: Border, name: str) -> str:
    """Pads height and width by some pixels on every side."""
    pads = graph.integers(0, 0, amount, amount, 0, 0, amount, amount)
    return graph.node("Pad", features, pads, name=name, mode=_MODES[border])


def convolution(
    graph: Graph, features: str, path: str, *, stride: int = 1, border: Border | None = "reflect"
) -> str:
    """A convolution with an odd kernel, converted from HWIO to OIHW.

    Args:
      graph: receives the nodes.
      features: the input.
      path: of the parameters, and prefix of the nodes' names.
      stride: in both directions.
      border: the padding; None if the features have a border already.
    """
    side = graph.params[f"{path}/kernel"].shape[0]
    amount = side // 2
    if amount and border is not None:
        features = padded_by(graph, features, amount, border, f"{path}/pad")
    inputs = [
        features,
        graph.parameter(f"{path}/kernel", lambda kernel: kernel.transpose(3, 2, 0, 1)),
    ]
    if f"{path}/bias" in graph.params:
        inputs.append(graph.parameter(f"{path}/bias"))
    return graph.node(
        "Conv",
        *inputs,
        name=f"{path}/convolution",
        kernel_shape=[side, side],
        strides=[stride, stride],
    )


def relu(graph: Graph, features: str) -> str:
    """ReLU."""
    return graph.node("Relu", features, name=f"{features}/relu")
