"""The whole method as an ONNX graph: reduce, predict, warp, fuse, at any size and factor.

Written by hand so that batch, height, width and factor are dynamic and every node has a name. It
equals ``models.translate``; inside the graph images are channels first.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from warp_translate.constants import (
    AFFINE_CHANNELS,
    COARSE,
    LEAST_REDUCED,
    PIXEL_SCALE,
    STRIDE,
    Sampling,
)
from warp_translate.serving.architecture import Architecture
from warp_translate.serving.onnx_nodes import Graph, convolution, padded_by, relu, to_float
from warp_translate.visualize import MAPS

_NORM_EPSILON = 1e-5


def build(params: Mapping[str, np.ndarray], architecture: Architecture) -> onnx.ModelProto:
    """Builds and checks the graph.

    Inputs: ``image``, uint8 ``[N, H, W, C]`` with three channels or, as a browser's canvas holds
    them, four; ``factor``, int64 scalar; and ``with_maps``, bool scalar.
    Outputs: ``output``, of the type and shape of ``image``, the fourth channel unchanged; and the
    maps of ``models.Translation``, float32. Without ``with_maps`` the maps are empty,
    ``[0, 0, 0, 0]``, since a runtime computes every output, requested or not.

    Args:
      params: float32 or float16 arrays by path, such as "trunk/ReflectConv_0/conv/kernel".
      architecture: the generator.
    """
    graph = Graph(params)
    colors, alpha = (
        graph.node(
            "Slice",
            "image",
            graph.integers(first),
            graph.integers(end),
            graph.integers(3),
            name=f"image/{name}",
        )
        for name, first, end in (("colors", 0, 3), ("alpha", 3, 4))
    )
    original = to_float(graph, colors)
    original = graph.node("Transpose", original, name="original", perm=[0, 3, 1, 2])
    height, width = _sides(graph, original)
    padded, reduced = _reduce(graph, original, height, width)
    pretranslated, mask, displacement = _heads(
        graph, architecture, reduced, padded, original, (height, width)
    )
    if architecture.fusion == "unwarped":
        displacement = graph.node("Mul", displacement, graph.number(0.0), name="unwarped")
    warped = _warp(graph, original, displacement, height, width, architecture.sampling)
    alone = {"pretranslated": pretranslated, "warped": warped}
    fused = alone.get(architecture.fusion, "")
    if not fused:
        high, low = pretranslated, warped
        if architecture.mask_weights == "warped":
            high, low = low, high
        difference = graph.node("Sub", high, low, name="fuse/difference")
        weighted = graph.node("Mul", mask, difference, name="fuse/weighted")
        fused = graph.node("Add", low, weighted, name="fuse/fused")
    fused = graph.node("Transpose", _to_uint8(graph, fused), name="colors", perm=[0, 2, 3, 1])
    graph.node("Concat", fused, alpha, name="output", axis=3)
    reduced_sides = (
        _ceil_div(graph, height, "factor", "reduced/height"),
        _ceil_div(graph, width, "factor", "reduced/width"),
    )
    reduced = _cut(graph, reduced, "reduced/cut", graph.integer(0), reduced_sides)
    _maps(graph, dict(zip(MAPS, (reduced, pretranslated, mask, displacement, warped), strict=True)))

    image_shape = [*"NHWC"]
    return graph.model(
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, image_shape),
            helper.make_tensor_value_info("factor", TensorProto.INT64, []),
            helper.make_tensor_value_info("with_maps", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("output", TensorProto.UINT8, image_shape),
            *(
                helper.make_tensor_value_info(
                    name, TensorProto.FLOAT, [f"{name}_{axis}" for axis in "NHWC"]
                )
                for name in MAPS
            ),
        ],
    )


def _to_uint8(graph: Graph, image: str) -> str:
    shifted = graph.node("Add", image, graph.number(1.0), name="uint8/shifted")
    scaled = graph.node("Mul", shifted, graph.number(PIXEL_SCALE), name="uint8/scaled")
    rounded = graph.node("Round", scaled, name="uint8/rounded")
    clipped = graph.node(
        "Clip", rounded, graph.number(0.0), graph.number(255.0), name="uint8/clipped"
    )
    return graph.node("Cast", clipped, name="uint8/cast", to=TensorProto.UINT8)


def _sides(graph: Graph, image: str) -> tuple[str, str]:
    """Height and width as int64 scalars."""
    shape = graph.node("Shape", image, name="original/shape")
    height = graph.node("Gather", shape, graph.integer(2), name="original/height", axis=0)
    width = graph.node("Gather", shape, graph.integer(3), name="original/width", axis=0)
    return height, width


def _ceil_div(graph: Graph, size: str, multiple: str, name: str) -> str:
    """``size / multiple``, rounded up."""
    sum_ = graph.node("Add", size, multiple, name=f"{name}/sum")
    less = graph.node("Sub", sum_, graph.integer(1), name=f"{name}/less")
    return graph.node("Div", less, multiple, name=f"{name}/count")


def _vector(graph: Graph, parts: Sequence[str], name: str) -> str:
    """Concatenates int64 scalars."""
    rows = [
        graph.node("Unsqueeze", part, graph.integers(0), name=f"{name}/{place}")
        for place, part in enumerate(parts)
    ]
    return graph.node("Concat", *rows, name=name, axis=0)


def _reduce(graph: Graph, original: str, height: str, width: str) -> tuple[str, str]:
    """The padded original, and the average of its blocks of factor x factor pixels."""
    multiple = graph.node("Mul", "factor", graph.integer(STRIDE), name="reduce/multiple")
    sides, padding = [], []
    for axis, size in (("height", height), ("width", width)):
        count = _ceil_div(graph, size, multiple, f"reduce/{axis}")
        least = graph.node(
            "Max", count, graph.integer(LEAST_REDUCED // STRIDE), name=f"reduce/{axis}/least"
        )
        side = graph.node("Mul", least, multiple, name=f"reduce/{axis}/side")
        sides.append(side)
        padding.append(graph.node("Sub", side, size, name=f"reduce/{axis}/padding"))
    none = graph.integer(0)
    pads = _vector(graph, [none] * 6 + padding, "reduce/pads")
    padded = graph.node("Pad", original, pads, name="padded", mode="edge")

    # One axis at a time, in shapes for which the runtime has fast reductions.
    minus = graph.integer(-1)
    reduced_height = graph.node("Div", sides[0], "factor", name="reduce/reduced_height")
    reduced_width = graph.node("Div", sides[1], "factor", name="reduce/reduced_width")
    rows_shape = _vector(graph, [minus, "factor", sides[1]], "reduce/rows_shape")
    rows = graph.node("Reshape", padded, rows_shape, name="reduce/rows")
    rows = graph.node("ReduceMean", rows, graph.integers(1), name="reduce/rows_mean", keepdims=0)
    columns_shape = _vector(graph, [minus, "factor"], "reduce/columns_shape")
    columns = graph.node("Reshape", rows, columns_shape, name="reduce/columns")
    columns = graph.node(
        "ReduceMean", columns, graph.integers(1), name="reduce/columns_mean", keepdims=0
    )
    shape = _vector(graph, [minus, graph.integer(3), reduced_height, reduced_width], "reduce/shape")
    return padded, graph.node("Reshape", columns, shape, name="reduced/padded")


def _norm(graph: Graph, features: str, path: str) -> str:
    scale, bias = (graph.parameter(f"{path}/{name}") for name in ("scale", "bias"))
    return graph.node(
        "InstanceNormalization", features, scale, bias, name=path, epsilon=_NORM_EPSILON
    )


def _enlarge(graph: Graph, features: str, scales: str, name: str) -> str:
    return graph.node(
        "Resize",
        features,
        "",
        scales,
        name=name,
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )


def _trunk(graph: Graph, architecture: Architecture, reduced: str) -> str:
    features, border = reduced, architecture.border
    for number, stride in enumerate((1, 2, 2)):
        features = convolution(
            graph, features, f"trunk/ReflectConv_{number}/conv", stride=stride, border=border
        )
        features = relu(graph, _norm(graph, features, f"trunk/InstanceNorm_{number}"))
    for number in range(architecture.blocks):
        path = f"trunk/ResidualBlock_{number}"
        residual = convolution(graph, features, f"{path}/ReflectConv_0/conv", border=border)
        residual = relu(graph, _norm(graph, residual, f"{path}/InstanceNorm_0"))
        residual = convolution(graph, residual, f"{path}/ReflectConv_1/conv", border=border)
        residual = _norm(graph, residual, f"{path}/InstanceNorm_1")
        features = graph.node("Add", features, residual, name=path)
    twice = graph.constant([1, 1, 2, 2], np.float32, "trunk/twice")
    for number in (0, 1):
        path = f"trunk/EnlargingConv_{number}"
        features = _enlarge(graph, features, twice, f"{path}/enlarge")
        features = convolution(graph, features, f"{path}/conv", border="repeat")
        features = relu(graph, _norm(graph, features, f"trunk/InstanceNorm_{number + 3}"))
    return features


def _heads(
    graph: Graph,
    architecture: Architecture,
    reduced: str,
    padded: str,
    original: str,
    sides: tuple[str, str],
) -> tuple[str, str, str]:
    """The maps at the size of the original.

    The border that their convolutions need is added to the features before these are enlarged: at
    full size every copy takes as long as a convolution. All maps are one convolution, whose slices
    also cut the border off.
    """
    factor = graph.node("Cast", "factor", name="factor/float", to=TensorProto.FLOAT)
    features = _trunk(graph, architecture, reduced)
    if architecture.head != "literal":
        features = convolution(graph, features, "project")
    if architecture.color_modulation:
        features = _modulate(graph, features, reduced)
    margin = architecture.head_kernel // 2
    bordered = padded_by(graph, features, margin, "repeat", "enlarge/bordered")
    enlarge = _deconvolve if architecture.enlarge == "transposed" else _enlarge_by_factor
    large = enlarge(graph, bordered, factor, "enlarge")
    border = graph.node("Mul", "factor", graph.integer(margin), name="enlarge/border")
    if architecture.head != "literal":
        large = relu(graph, _join(graph, architecture, large, padded, border))

    # One convolution has taken its margin off.
    first = graph.node("Sub", border, graph.integer(margin), name="heads/border")
    names = ["pretranslated", "mask"]
    if architecture.displacement_size == "original":
        names.append("displacement")
    kernel, bias = (
        np.concatenate([graph.params[f"{name}/{part}"] for name in names], -1)
        for part in ("kernel", "bias")
    )
    maps = graph.node(
        "Conv",
        large,
        graph.stored(kernel.transpose(3, 2, 0, 1), "heads/kernel"),
        graph.stored(bias, "heads/bias"),
        name="heads/maps",
        kernel_shape=kernel.shape[:2],
    )
    ends = np.cumsum([graph.params[f"{name}/bias"].size for name in names]).tolist()
    colors, logit, *shares = (
        _cut(graph, maps, f"heads/{name}", first, sides, channels)
        for name, channels in zip(names, itertools.pairwise([0, *ends]), strict=True)
    )
    if architecture.synthesis == "direct":
        pretranslated = graph.node("Tanh", colors, name="heads/color")
    else:
        pretranslated = _affine(graph, colors, original)
    logit = graph.node("Add", logit, graph.number(architecture.mask_bias), name="heads/mask_logit")
    mask = graph.node("Sigmoid", logit, name="heads/weight")
    if shares:
        share = graph.node("Tanh", *shares, name="heads/share")
    else:
        share = _small_share(graph, architecture, features, factor)
        share = _cut(graph, share, "heads/displacement", graph.integer(0), sides)
    bound = graph.number(architecture.max_displacement)
    moved = graph.node("Mul", share, bound, name="heads/reduced_pixels")
    if (least := architecture.displacement_threshold) > 0:
        limits = graph.number(-least), graph.number(least)
        below = graph.node("Clip", moved, *limits, name="heads/below_threshold")
        moved = graph.node("Sub", moved, below, name="heads/above_threshold")
    return pretranslated, mask, graph.node("Mul", moved, factor, name="heads/pixels")


def _join(graph: Graph, architecture: Architecture, features: str, padded: str, border: str) -> str:
    """Equals `models.generator.Join`, of features with a border."""
    if architecture.head == "projected":
        none = graph.integer(0)
        pads = _vector(graph, [none, none, border, border] * 2, "join/pads")
        bordered = graph.node("Pad", padded, pads, name="join/bordered", mode="edge")
        features = graph.node("Concat", features, bordered, name="joined", axis=1)
    return convolution(graph, features, "join/conv", border=None)


def _small_share(graph: Graph, architecture: Architecture, features: str, factor: str) -> str:
    """The displacement's share of its bound, predicted at the reduced size or coarser."""
    coarse = architecture.displacement_size == "coarse"
    if coarse:
        cell = [COARSE, COARSE]
        features = graph.node(
            "AveragePool", features, name="heads/cells", kernel_shape=cell, strides=cell
        )
    share = graph.node("Tanh", convolution(graph, features, "displacement"), name="heads/small")
    if coarse:
        times = graph.constant([1, 1, COARSE, COARSE], np.float32, "heads/cell")
        share = _enlarge(graph, share, times, "heads/small/enlarged")
    return _enlarge_by_factor(graph, share, factor, "heads/small/share")


def _enlarge_by_factor(graph: Graph, features: str, factor: str, name: str) -> str:
    along = graph.node("Unsqueeze", factor, graph.integers(0), name=f"{name}/factor")
    one = graph.constant([1, 1], np.float32, "factor/ones")
    scales = graph.node("Concat", one, along, along, name=f"{name}/scales", axis=0)
    return _enlarge(graph, features, scales, name)


def _deconvolve(graph: Graph, features: str, factor: str, name: str) -> str:
    """Equals `models.generator.Deconvolution` inside.

    The border grows with the features. Its outermost ``factor - 1`` pixels lack neighbors; the
    inner ones, at least one, are exact.
    """
    kernel = graph.parameter("deconvolve/kernel", lambda taps: taps.transpose(2, 0, 1)[:, None])
    channels = graph.params["deconvolve/kernel"].shape[-1]
    logarithm = graph.node("Log", factor, name=f"{name}/logarithm")
    doublings = graph.node("Div", logarithm, graph.number(math.log(2)), name=f"{name}/doublings")
    rounded = graph.node("Round", doublings, name=f"{name}/rounded")
    times = graph.node("Cast", rounded, name=f"{name}/times", to=TensorProto.INT64)
    taken, given = f"{name}/taken", f"{name}/given"
    double = helper.make_node(
        "ConvTranspose",
        [taken, kernel],
        [given],
        name=given,
        group=channels,
        strides=[2, 2],
        pads=[1] * 4,
    )
    going, on = f"{name}/going", f"{name}/on"
    flags = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in (going, on)]
    images = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (taken, given)
    ]
    body = helper.make_graph(
        [helper.make_node("Identity", [going], [on], name=on), double],
        f"{name}/body",
        [
            helper.make_tensor_value_info(f"{name}/number", TensorProto.INT64, []),
            flags[0],
            images[0],
        ],
        [flags[1], images[1]],
    )
    return graph.node("Loop", times, "", features, name=name, body=body)


def _split(graph: Graph, source: str, parts: int) -> list[str]:
    """Splits the channels into equal parts."""
    names = [f"{source}/part_{number}" for number in range(parts)]
    name = f"{source}/split"
    graph.nodes.append(
        helper.make_node("Split", [source], names, name=name, axis=1, num_outputs=parts)
    )
    return names


def _modulate(graph: Graph, features: str, reduced: str) -> str:
    """Equals `models.layers.ColorModulation`."""
    pixels = relu(graph, convolution(graph, reduced, "modulate/pixels"))
    pooled = graph.node("GlobalAveragePool", pixels, name="modulate/pooled")
    hidden = relu(graph, convolution(graph, pooled, "modulate/hidden"))
    scale, shift = _split(graph, convolution(graph, hidden, "modulate/modulation"), 2)
    scale = graph.node("Add", scale, graph.number(1.0), name="modulate/scale")
    scaled = graph.node("Mul", features, scale, name="modulate/scaled")
    return graph.node("Add", scaled, shift, name="modulate/shifted")


def _affine(graph: Graph, coefficients: str, original: str) -> str:
    """The pretranslated image of affine synthesis, from its coefficients."""
    offset, *columns = _split(graph, coefficients, AFFINE_CHANNELS // 3)
    total = graph.node("Tanh", offset, name="heads/offset")
    channels = _split(graph, original, 3)
    for number, (column, channel) in enumerate(zip(columns, channels, strict=True)):
        product = graph.node("Mul", column, channel, name=f"heads/product_{number}")
        total = graph.node("Add", total, product, name=f"heads/sum_{number}")
    return total


def _cut(
    graph: Graph,
    features: str,
    name: str,
    first: str,
    sides: tuple[str, str],
    channels: tuple[int, int] | None = None,
) -> str:
    """A rectangle of features.

    Args:
      graph: receives the nodes.
      features: ``[N, C, H, W]``.
      name: of the node.
      first: the first row and column, an int64 scalar.
      sides: height and width, int64 scalars.
      channels: the first and the end, by default all.
    """
    ends = [
        graph.node("Add", first, side, name=f"{name}/{axis}")
        for axis, side in zip(("below", "right"), sides, strict=True)
    ]
    axes, start = [2, 3], [first, first]
    if channels is not None:
        axes = [1, *axes]
        start, ends = (
            [graph.integer(each), *rest] for each, rest in zip(channels, (start, ends), strict=True)
        )
    return graph.node(
        "Slice",
        features,
        _vector(graph, start, f"{name}/start"),
        _vector(graph, ends, f"{name}/ends"),
        graph.integers(*axes),
        name=name,
    )


def _warp(
    graph: Graph, original: str, displacement: str, height: str, width: str, sampling: Sampling
) -> str:
    """Samples at ``position + displacement``; GridSample takes positions in [-1, 1]."""
    grids, scales = [], []
    for axis, size, shape in (("x", width, (1, -1)), ("y", height, (-1, 1))):
        places = graph.node(
            "Range", graph.integer(0), size, graph.integer(1), name=f"warp/{axis}/places"
        )
        places = graph.node("Cast", places, name=f"warp/{axis}/float", to=TensorProto.FLOAT)
        grids.append(
            graph.node("Reshape", places, graph.integers(*shape), name=f"warp/{axis}/places_shaped")
        )
        last = graph.node("Sub", size, graph.integer(1), name=f"warp/{axis}/last")
        # Avoids a division by zero; a single pixel is sampled at any position.
        last = graph.node("Max", last, graph.integer(1), name=f"warp/{axis}/at_least_one")
        last = graph.node("Cast", last, name=f"warp/{axis}/last_float", to=TensorProto.FLOAT)
        scales.append(graph.node("Div", graph.number(2.0), last, name=f"warp/{axis}/scale"))
    parts = []
    for channel, (axis, places, scale) in enumerate(zip("xy", grids, scales, strict=True)):
        shift = graph.node(
            "Gather", displacement, graph.integer(channel), name=f"warp/{axis}/shift", axis=1
        )
        position = graph.node("Add", shift, places, name=f"warp/{axis}/position")
        scaled = graph.node("Mul", position, scale, name=f"warp/{axis}/scaled")
        centered = graph.node("Sub", scaled, graph.number(1.0), name=f"warp/{axis}/centered")
        parts.append(
            graph.node("Unsqueeze", centered, graph.integers(3), name=f"warp/{axis}/coordinate")
        )
    grid = graph.node("Concat", *parts, name="warp/grid", axis=3)
    return graph.node(
        "GridSample",
        original,
        grid,
        name="warp",
        mode="bicubic" if sampling == "cubic" else sampling,
        padding_mode="border",
        align_corners=1,
    )


def _maps(graph: Graph, maps: Mapping[str, str]) -> None:
    """Outputs the maps, channels last, if ``with_maps`` is set, and empty arrays otherwise.

    What the output does not need is computed with the maps only.
    """
    only_maps = graph.take_unused("output")

    def branch(kind: str) -> onnx.GraphProto:
        nodes, outputs = list(only_maps if kind == "shown" else ()), []
        for name, source in maps.items():
            output = f"{kind}/{name}"
            if kind == "shown":
                perm = [0, 2, 3, 1]
                node = helper.make_node("Transpose", [source], [output], name=output, perm=perm)
            else:
                empty = numpy_helper.from_array(np.zeros((0, 0, 0, 0), np.float32), output)
                node = helper.make_node("Constant", [], [output], name=output, value=empty)
            nodes.append(node)
            shape = [f"{kind}_{name}_{axis}" for axis in "NHWC"]
            outputs.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))
        return helper.make_graph(nodes, kind, [], outputs)

    graph.nodes.append(
        helper.make_node(
            "If",
            ["with_maps"],
            list(maps),
            name="maps",
            then_branch=branch("shown"),
            else_branch=branch("nothing"),
        )
    )
