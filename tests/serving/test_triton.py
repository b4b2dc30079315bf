"""Models of a Triton repository, checked against Triton's schema and its ONNX backend's rules."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from warp_translate.errors import UserError
from warp_translate.serving import bundle as bundles
from warp_translate.serving import triton

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
    """The written graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model / "1/model.onnx", options)


def declared():
    """The part of Triton's ``ModelConfig`` that we use, with its names and numbers."""
    file = descriptor_pb2.FileDescriptorProto(name="declared.proto", package="inference")
    file.syntax = "proto3"
    kinds = file.enum_type.add(name="DataType")
    for number, name in ((0, "INVALID"), (1, "BOOL"), (2, "UINT8"), (9, "INT64"), (11, "FP32")):
        kinds.value.add(name=f"TYPE_{name}", number=number)
    messages = {
        "ModelInput": "name=1:string data_type=2:DataType dims=4:int64*",
        "ModelOutput": "name=1:string data_type=2:DataType dims=3:int64*",
        "ModelConfig": "name=1:string platform=2:string max_batch_size=4:int32 "
        "input=5:ModelInput* output=6:ModelOutput* backend=17:string",
    }
    for message, fields in messages.items():
        made = file.message_type.add(name=message)
        for field in fields.split():
            name, number, kind = re.split("[=:]", field.rstrip("*"))
            added = made.field.add(name=name, number=int(number), label=1 + 2 * (field[-1] == "*"))
            if kind[0].isupper():
                added.type_name = f".inference.{kind}"
            else:
                added.type = getattr(added, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


@pytest.fixture(scope="module")
def config(model):
    """The configuration, parsed with the schema."""
    return text_format.Parse((model / "config.pbtxt").read_text(), declared()())


def dims_of(node):
    return [side if isinstance(side, int) else -1 for side in node.shape]


def type_of(tensor):
    types = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    return types[tensor.data_type].name


def fields_of(message):
    return {field.name for field, _ in message.ListFields()}


def test_configuration_follows_triton_s_rules(config, model):
    assert config.name == model.name == "apple-pear"
    assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 0
    assert fields_of(config) == {"name", "platform", "backend", "input", "output"}
    for each in [*config.input, *config.output]:
        assert len(each.dims) >= 1 and all(side >= 1 or side == -1 for side in each.dims)
        # No reshape: without batching, Triton rejects the empty one of a scalar.
        assert fields_of(each) == {"name", "data_type", "dims"}


def test_inputs_and_outputs_match_the_graph(config, session):
    assert [each.name for each in config.input] == ["image", "factor", "with_maps"]
    for each, node in zip(config.input, session.get_inputs(), strict=True):
        assert (each.name, type_of(each)) == (node.name, TYPES[node.type])
        assert list(each.dims) == (dims_of(node) or [1])
    for each, node in zip(config.output, session.get_outputs(), strict=True):
        assert (each.name, type_of(each)) == (node.name, TYPES[node.type])
        # The backend requires equal dims, dynamic ones included.
        assert list(each.dims) == dims_of(node)


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_models_are_replaced_atomically(exported, copied, tmp_path, monkeypatch):
    models = tmp_path / "models"
    # As after an export killed between its two renames.
    triton.write(exported[0], models).rename(models / ".apple-pear.0a1b2c3d.older")
    (models / ".apple-pear.0a1b2c3d.partial").mkdir()
    older = triton.write(bundles.read(copied), models)
    before = older / "1/model.onnx"
    assert before.samefile(copied / bundles.ONNX)
    with before.open("rb") as reading:  # A server that has it open.
        assert triton.write(exported[0], models) == older
        assert reading.read() == (copied / bundles.ONNX).read_bytes()
    graph = exported[0].folder / bundles.ONNX
    assert before.samefile(graph)
    whole = ["apple-pear", *(f"apple-pear/{name}" for name in ("1", "1/model.onnx"))]
    whole.append("apple-pear/config.pbtxt")
    assert everything(models) == whole
    shutil.rmtree(copied)
    bundles.read(exported[0].folder)

    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    copy = triton.write(exported[0], tmp_path / "other") / "1/model.onnx"
    assert not copy.samefile(graph) and copy.read_bytes() == graph.read_bytes()
    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(UserError, match=r"cannot be copied to .*No space left.* --triton"):
        triton.write(exported[0], models)
    assert everything(models) == whole and before.samefile(graph)


@pytest.mark.parametrize("what", ["version", "config", "bundle", "file", "empty"])
def test_other_folders_are_not_replaced(exported, tmp_path, what):
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
    with pytest.raises(UserError, match=r"apple-pear holds other files than those that export"):
        triton.write(exported[0], folder.parent)
    assert everything(tmp_path) == before


def test_unwritable_repository_is_named(exported, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .* choose another --triton"):
        triton.write(exported[0], tmp_path / "file")


def test_triton_needs_neither_onnx_nor_jax():
    code = (
        "import sys\n"
        "for name in ('jax', 'onnx', 'onnxruntime', 'google.protobuf'): sys.modules[name] = None\n"
        "import warp_translate.serving.triton\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
