"""A model of a Triton repository, by Triton's schema and by the checks of its ONNX backend."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from warp_translate.errors import UserError
from warp_translate.serving import bundle as bundles
from warp_translate.serving import triton
from warp_translate.serving.engine import OnnxEngine

TYPES = {
    **{"tensor(uint8)": "TYPE_UINT8", "tensor(int64)": "TYPE_INT64"},
    **{"tensor(bool)": "TYPE_BOOL", "tensor(float)": "TYPE_FP32"},
}


@pytest.fixture(scope="module")
def model(exported, tmp_path_factory):
    """The folder of the model."""
    return triton.write(exported[0], tmp_path_factory.mktemp("triton") / "models")


@pytest.fixture(scope="module")
def session(model):
    """The graph as it lies there."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model / "1/model.onnx", options)


def declared():
    """What a configuration of ours uses of Triton's ``ModelConfig``, by its names and numbers."""
    file = descriptor_pb2.FileDescriptorProto(name="declared.proto", package="inference")
    file.syntax = "proto3"
    kinds = file.enum_type.add(name="DataType")
    for number, name in enumerate(["INVALID", "BOOL", "UINT8"]):
        kinds.value.add(name=f"TYPE_{name}", number=number)
    kinds.value.add(name="TYPE_INT64", number=9)
    kinds.value.add(name="TYPE_FP32", number=11)
    messages = {
        "ModelInput": "name=1:string data_type=2:DataType dims=4:int64* optional=8:bool",
        "ModelOutput": "name=1:string data_type=2:DataType dims=3:int64*",
        "ModelConfig": "name=1:string platform=2:string max_batch_size=4:int32 "
        "input=5:ModelInput* output=6:ModelOutput* backend=17:string",
    }
    for message, fields in messages.items():
        made = file.message_type.add(name=message)
        for field in fields.split():
            name, number, kind = re.split("[=:]", field.rstrip("*"))
            told = made.field.add(name=name, number=int(number), label=3 if field[-1] == "*" else 1)
            if kind[0].isupper():
                told.type_name = f".inference.{kind}"
            else:
                told.type = getattr(told, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def published():
    """Triton's own, where its client is installed; it wants other packages than jax does."""
    package = Path(pytest.importorskip("tritonclient").__file__).parent
    # Its folder is a package that needs gRPC, which a schema does not.
    spec = importlib.util.spec_from_file_location(
        "triton_model_config", package / "grpc/model_config_pb2.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelConfig


@pytest.fixture(scope="module", params=[declared, published])
def config(model, request):
    """The configuration, read by the schema."""
    return text_format.Parse((model / "config.pbtxt").read_text(), request.param()())


def dims_of(node):
    return [side if isinstance(side, int) else -1 for side in node.shape]


def type_of(told):
    return (
        told.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[told.data_type].name
    )


def fields_of(message):
    return {field.name for field, _ in message.ListFields()}


def test_the_configuration_is_one_that_triton_takes(config, model):
    assert config.name == model.name == "apple-pear"
    assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
    # The backend takes inputs that may be left out with this alone, so that nothing is batched.
    assert config.max_batch_size == 0
    assert fields_of(config) == {"name", "platform", "backend", "input", "output"}
    for each in [*config.input, *config.output]:
        assert len(each.dims) >= 1 and all(side >= 1 or side == -1 for side in each.dims)
        # No reshape: an empty one, as for a scalar, is refused where max_batch_size is 0.
        assert fields_of(each) - {"optional"} == {"name", "data_type", "dims"}


def test_inputs_and_outputs_are_those_of_the_graph(config, session):
    graph = {
        node.name: (node, optional)
        for nodes, optional in (
            (session.get_inputs(), False),
            (session.get_overridable_initializers(), True),
        )
        for node in nodes
    }
    assert [each.name for each in config.input] == list(graph) == ["image", "factor", "with_maps"]
    for each in config.input:
        node, optional = graph[each.name]
        assert type_of(each) == TYPES[node.type] and each.optional == optional
        assert list(each.dims) == (dims_of(node) or [1])
    nodes = session.get_outputs()
    assert [each.name for each in config.output] == [node.name for node in nodes]
    for each, node in zip(config.output, nodes, strict=True):
        assert type_of(each) == TYPES[node.type]
        # The backend wants them alike, open sides and all.
        assert list(each.dims) == dims_of(node)


def test_the_graph_that_lies_there_does_what_the_bundle_does(exported, session, rng):
    engine = OnnxEngine(exported[0])
    images = rng.integers(0, 256, (2, 21, 34, 3), dtype=np.uint8)
    output, *nothing = session.run(None, {"image": images})
    np.testing.assert_array_equal(output, engine.translate(images).output)
    assert {each.shape for each in nothing} == {(0, 0, 0, 0)}
    # As the backend makes them of [1].
    more = {"factor": np.array(4, np.int64), "with_maps": np.array(True)}
    output, *maps = session.run(None, {"image": images, **more})
    expected = engine.translate(images, 4, with_maps=True)
    np.testing.assert_array_equal(output, expected.output)
    for found, (name, array) in zip(maps, expected.maps.items(), strict=True):
        np.testing.assert_allclose(found, array, rtol=0, atol=1e-5, err_msg=name)


def test_the_graph_is_linked_where_that_goes_and_else_copied(
    exported, model, tmp_path, monkeypatch
):
    graph = exported[0].folder / bundles.ONNX
    assert (model / "1/model.onnx").samefile(graph)

    def refuse(*arguments):
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    copy = triton.write(exported[0], tmp_path) / "1/model.onnx"
    assert not copy.samefile(graph) and copy.read_bytes() == graph.read_bytes()


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_an_older_model_is_replaced_and_stays_where_the_new_one_fails(
    exported, copied, tmp_path, monkeypatch
):
    models = tmp_path / "models"
    # Of an export that was killed between its two renames.
    triton.write(exported[0], models).rename(models / ".apple-pear.0a1b2c3d.older")
    (models / ".apple-pear.0a1b2c3d.partial").mkdir()
    # Another bundle of the name, so that another file lies there.
    older = triton.write(bundles.read(copied), models)
    before = older / "1/model.onnx"
    assert before.samefile(copied / bundles.ONNX)
    with before.open("rb") as reading:  # As a server that has it open.
        assert triton.write(exported[0], models) == older
        assert reading.read() == (copied / bundles.ONNX).read_bytes()
    assert before.samefile(exported[0].folder / bundles.ONNX)
    whole = ["apple-pear", *(f"apple-pear/{name}" for name in ("1", "1/model.onnx"))]
    whole.append("apple-pear/config.pbtxt")
    assert everything(models) == whole
    # The bundle it was made of is not needed any more, nor touched.
    shutil.rmtree(copied)
    bundles.read(exported[0].folder)

    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(UserError, match=r"cannot be laid out in .*No space left.* --triton"):
        triton.write(exported[0], models)
    assert everything(models) == whole
    assert before.samefile(exported[0].folder / bundles.ONNX)


@pytest.mark.parametrize("what", ["version", "config", "bundle", "file", "empty"])
def test_what_export_did_not_write_is_left_alone(exported, tmp_path, what):
    folder = tmp_path / "models/apple-pear"
    if what == "bundle":
        shutil.copytree(exported[0].folder, folder)
    elif what == "file":
        folder.parent.mkdir()
        folder.write_text("mine")
    elif what == "empty":
        folder.mkdir(parents=True)
    else:
        triton.write(exported[0], folder.parent)
        if what == "version":
            (folder / "2").mkdir()
        else:
            (folder / "config.pbtxt").write_text('name: "apple-pear"')
    before = everything(tmp_path)
    with pytest.raises(UserError, match=r"apple-pear is there and is not just what export writes"):
        triton.write(exported[0], folder.parent)
    assert everything(tmp_path) == before


def test_a_repository_that_cannot_be_written_is_named(exported, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .* choose another --triton"):
        triton.write(exported[0], tmp_path / "file")


def test_nothing_of_it_needs_onnx_or_jax():
    code = (
        "import sys\n"
        "for name in ('jax', 'onnx', 'onnxruntime', 'google.protobuf'): sys.modules[name] = None\n"
        "import warp_translate.serving.triton\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
