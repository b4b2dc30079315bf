import itertools

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from tests.serving.conftest import architecture_of, random_generator
from warp_translate.models import translate
from warp_translate.serving import export, onnx_graph
from warp_translate.types import to_float, to_uint8
from warp_translate.visualize import MAPS

SIZES = [(1, 1, 1), (2, 5, 3), (1, 37, 53), (2, 64, 32), (1, 100, 9)]
LITERAL = {"head": "literal"}
# Every factor, size and variant of the generator, each with either head.
CASES = [
    *(({}, 1, (1, 37, 53)), ({}, 2, (2, 5, 3)), ({}, 3, (1, 100, 9)), ({}, 8, (2, 64, 32))),
    *((LITERAL, 2, (1, 37, 53)), (LITERAL, 3, (1, 1, 1)), (LITERAL, 8, (1, 100, 9))),
    *(({"head_kernel": 7}, 2, (1, 21, 30)), (LITERAL | {"head_kernel": 7}, 1, (2, 64, 32))),
    ({"displacement_size": "reduced", "displacement_threshold": 0.2}, 4, (1, 1, 1)),
    ({"displacement_threshold": 0.2}, 2, (1, 21, 30)),
    ({"displacement_size": "coarse"}, 3, (1, 21, 30)),
    (LITERAL | {"displacement_size": "reduced"}, 4, (2, 5, 3)),
    ({"head": "reduced"}, 4, (1, 37, 53)),
    ({"enlarge": "transposed"}, 1, (1, 37, 53)),
    ({"enlarge": "transposed", "head_kernel": 7}, 8, (1, 37, 53)),
    (LITERAL | {"enlarge": "transposed", "synthesis": "affine"}, 4, (2, 5, 3)),
    *(
        ({"synthesis": "affine", "color_modulation": True}, 3, (2, 5, 3)),
        (LITERAL | {"synthesis": "affine"}, 4, (1, 21, 30)),
    ),
    *(({"border": "repeat"}, 4, (1, 21, 30)), ({"border": "zero"}, 2, (1, 21, 30))),
]
GRID = itertools.product(({}, LITERAL), (1, 2, 3, 8), SIZES)


def session(generator, params, **architecture):
    model = onnx_graph.build(export.flatten(params), architecture_of(generator, **architecture))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return model, onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(session, image, factor=2, with_maps=False):
    feeds = {"image": image, "factor": np.array(factor), "with_maps": np.array(with_maps)}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize(
    ("options", "factor", "shape"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.full) for case in GRID if case not in CASES)],
    ids=str,
)
def test_graph_equals_the_method_for_every_variant_and_size(options, factor, shape, rng):
    generator, params = random_generator(**options, mask_bias=0.4)
    _, graph = session(generator, params)
    images = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = jax.jit(lambda p, x: translate(generator, p, to_float(x), factor))(params, images)
    output = np.asarray(to_uint8(expected.output))
    found = run(graph, images, factor=factor, with_maps=True)
    assert found["output"].dtype == np.uint8
    np.testing.assert_allclose(found["output"].astype(int), output.astype(int), atol=1)
    differing = np.count_nonzero(found["output"] != output)
    assert differing <= max(2, 0.01 * output.size)
    for name in MAPS:
        value = np.asarray(getattr(expected, name))
        # The norm of a nearly flat image amplifies rounding errors. On a random image, an error e
        # of the position changes values by up to 2 e.
        bound = {"displacement": 2e-3 * factor, "warped": 4e-3 * factor}.get(name, 1e-3)
        np.testing.assert_allclose(found[name], value, atol=bound, err_msg=name)


def test_mask_conventions_and_fusions_are_exported(rng):
    every = [{}, {"mask_weights": "warped"}]
    every += [{"fusion": fusion} for fusion in ("pretranslated", "warped", "unwarped")]
    every += [{"sampling": "cubic"}]
    generator, params = random_generator()
    images = rng.integers(0, 256, (1, 21, 30, 3), dtype=np.uint8)

    @jax.jit
    def reference(params, images):
        given = to_float(images)
        return [to_uint8(translate(generator, params, given, 2, **each).output) for each in every]

    outputs = np.asarray(reference(params, images)).astype(int)
    assert (np.abs(outputs[1:] - outputs[0]).max((1, 2, 3, 4)) > 20).all()
    for options, output in zip(every, outputs, strict=True):
        found = run(session(generator, params, **options)[1], images)["output"]
        np.testing.assert_allclose(found.astype(int), output, atol=1, err_msg=str(options))


def test_a_fourth_channel_is_kept_and_maps_are_optional(rng):
    """A browser's canvas holds RGBA."""
    _, graph = session(*random_generator())
    images = rng.integers(0, 256, (2, 20, 24, 4), dtype=np.uint8)
    found = run(graph, images)
    np.testing.assert_array_equal(found["output"][..., :3], run(graph, images[..., :3])["output"])
    np.testing.assert_array_equal(found["output"][..., 3], images[..., 3])
    assert all(found[name].size == 0 for name in MAPS)


def test_parameters_of_a_loop_may_be_stored_as_float16(rng):
    generator, params = random_generator(enlarge="transposed")
    half = {name: value.astype(np.float16) for name, value in export.flatten(params).items()}
    model = onnx_graph.build(half, architecture_of(generator))
    graph = onnxruntime.InferenceSession(model.SerializeToString())
    assert run(graph, rng.integers(0, 256, (1, 20, 24, 3), dtype=np.uint8))["output"].any()


def test_heads_that_only_maps_need_run_with_the_maps_only():
    generator, params = random_generator(displacement_size="reduced")
    names = [
        {node.name for node in session(generator, params, fusion=fusion)[0].graph.node}
        for fusion in ("full", "warped")
    ]
    assert {"heads/maps", "enlarge", "reduced/cut"} & names[0] == {"heads/maps", "enlarge"}
    assert names[0] - names[1] >= {"heads/maps", "enlarge", "join/conv/convolution"}
    assert "warp" in names[1]


def test_graph_uses_portable_operations():
    model, _ = session(*random_generator())
    assert model.ir_version == 8
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 18)]
    names = [node.name for node in model.graph.node]
    assert all(names) and len(set(names)) == len(names)
    (sample,) = [node for node in model.graph.node if node.op_type == "GridSample"]
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in sample.attribute}
    assert attributes == {"mode": b"bilinear", "padding_mode": b"border", "align_corners": 1}
    # Some runtimes do not list an input with a default, and ONNX Runtime warns of it.
    assert not {each.name for each in model.graph.input} & {
        each.name for each in model.graph.initializer
    }
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == [*"NHWC"]
