"""The KServe protocol, version 2: requests are written here as its specification says."""

import asyncio
import io
import json
import random
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from tests.serving.conftest import copy_as, rewrite
from warp_translate.image_io import decode_image
from warp_translate.serving import bundle as bundles
from warp_translate.serving import latency_model, server
from warp_translate.serving.batcher import Batcher
from warp_translate.serving.latency_model import LatencyModel
from warp_translate.serving.registry import Registry
from warp_translate.serving.service import Service

LENGTH = "Inference-Header-Content-Length"
MAPS = ["reduced", "pretranslated", "mask", "displacement", "warped"]
NUMPY = {"UINT8": np.uint8, "FP32": np.dtype("<f4"), "INT64": np.dtype("<i8"), "BOOL": np.bool_}
INFER = "/v2/models/apple-pear/infer"


@pytest.fixture(scope="module")
def folder(exported, tmp_path_factory):
    return copy_as(
        exported[0], tmp_path_factory.mktemp("served"), ("apple", "pear"), ("apple", "plum")
    )


def images(rng, *shape):
    return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)


def engine_of(client, target="pear"):
    return client.service.snapshot().engines["apple", target]


def tensor(name, array, data="flat"):
    """An input in JSON; its binary data are written by `binary`."""
    array = np.asarray(array)
    (datatype,) = (key for key, dtype in NUMPY.items() if dtype == array.dtype)
    told = {"name": name, "shape": list(array.shape), "datatype": datatype}
    if data == "binary":
        return told | {"parameters": {"binary_data_size": array.nbytes}}
    return told | {"data": (array.ravel() if data == "flat" else array).tolist()}


def ask(client, inputs, data="flat", path=INFER, **fields):
    """Sends arrays by name."""
    body = {"inputs": [tensor(name, array, data) for name, array in inputs.items()], **fields}
    text = json.dumps(body).encode()
    if data != "binary":
        return client.post(path, content=text)
    behind = b"".join(np.asarray(array).tobytes() for array in inputs.values())
    return client.post(path, content=text + behind, headers={LENGTH: str(len(text))})


def read(response):
    """The JSON of an answer and its arrays by name."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(LENGTH, len(response.content)))
    told, behind = json.loads(response.content[:length]), response.content[length:]
    arrays = {}
    for each in told["outputs"]:
        dtype = NUMPY[each["datatype"]]
        size = each.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = np.array(each["data"], dtype)
        else:
            assert "data" not in each and len(behind) >= size
            array, behind = np.frombuffer(behind[:size], dtype), behind[size:]
        arrays[each["name"]] = array.reshape(each["shape"])
    assert behind == b""
    return told, arrays


def assert_same(found, expected):
    """Up to a rare level: sums of a stack may have another order than those of other stacks."""
    assert found.shape == expected.shape and found.dtype == np.uint8
    differences = np.abs(found.astype(int) - expected)
    assert differences.max() <= 1 and differences.mean() < 1e-2


@pytest.mark.parametrize("data", ["flat", "nested", "binary"])
def test_images_come_back_as_the_engine_translates_them(client, rng, data):
    for shape in ((1, 21, 34), (3, 16, 9), (1, 1, 1)):
        sent = images(rng, *shape)
        for factor in (2, 4):
            factors = np.array([factor], np.int64)
            told, found = read(ask(client, {"image": sent, "factor": factors}, data))
            assert list(found) == ["output"]
            assert told["model_name"] == "apple-pear" and told["model_version"] == "1"
            assert set(told["parameters"]) == {"factor", "milliseconds"} and "id" not in told
            assert told["parameters"]["factor"] == factor
            assert_same(found["output"], engine_of(client).translate(sent, factor).output)


def test_an_image_is_answered_as_the_other_address_does(client, rng):
    sent = images(rng, 1, 30, 22)
    buffer = io.BytesIO()
    Image.fromarray(sent[0]).save(buffer, "PNG")
    for target in ("pear", "plum"):
        other = client.post(
            "/v1/translate",
            content=buffer.getvalue(),
            params={"source": "apple", "target": target},
        )
        path = f"/v2/models/apple-{target}/versions/1/infer"
        told, found = read(ask(client, {"image": sent}, path=path))
        assert str(told["parameters"]["factor"]) == other.headers["x-factor"]
        expected = decode_image(other.content, "the answer").rgb
        np.testing.assert_array_equal(found["output"][0], expected)


@pytest.mark.parametrize("binary", [False, True])
def test_all_maps_come_with_the_flag(client, rng, binary):
    sent = images(rng, 2, 21, 34)
    inputs = {
        "with_maps": np.array([True]),
        "image": sent,
        "factor": np.array([4], np.int64),
    }
    response = ask(
        client,
        inputs,
        "binary" if binary else "flat",
        parameters={"binary_data_output": binary},
        id="mine \ud800 <é>",
    )
    kind = "application/octet-stream" if binary else "application/json"
    assert response.headers["content-type"] == kind and (LENGTH in response.headers) == binary
    told, found = read(response)
    assert told["id"] == "mine \ud800 <é>"
    assert list(found) == ["output", *MAPS]
    expected = engine_of(client).translate(sent, 4, with_maps=True)
    assert_same(found.pop("output"), expected.output)
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected.maps[name], rtol=0, atol=1e-5)
    assert found["reduced"].shape == (2, 6, 9, 3)
    assert found["displacement"].shape == (2, 21, 34, 2)


def test_the_outputs_are_those_that_are_asked_for_in_their_order_and_form(serve, rng):
    client = serve()
    sent = images(rng, 1, 12, 10)
    outputs = [
        {"name": "mask"},
        {"name": "output", "parameters": {"binary_data": False}},
        {"name": "warped", "parameters": {"binary_data": True}},
    ]
    told, found = read(
        ask(
            client,
            {"image": sent, "factor": np.array([2], np.int64)},
            outputs=outputs,
            parameters={"binary_data_output": True},
        )
    )
    assert list(found) == ["mask", "output", "warped"]
    assert ["data" in each for each in told["outputs"]] == [False, True, False]
    expected = engine_of(client).translate(sent, 2, with_maps=True)
    np.testing.assert_array_equal(found["output"], expected.output)
    np.testing.assert_allclose(found["mask"], expected.maps["mask"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["warped"], expected.maps["warped"], rtol=0, atol=1e-5)
    # Maps that nobody wants are not made.
    seen, translate = [], engine_of(client).translate
    engine_of(client).translate = lambda *a, **options: (
        seen.append(options) or translate(*a, **options)
    )
    _, found = read(
        ask(client, {"image": sent, "with_maps": np.array([True])}, outputs=[{"name": "output"}])
    )
    assert list(found) == ["output"] and seen == [{"with_maps": False}]


def test_the_models_are_told_as_the_graph_has_them(client):
    session = engine_of(client)._session
    found = client.get("/v2/models/apple-pear").json()
    assert found == client.get("/v2/models/apple-pear/versions/1").json()
    assert (found["name"], found["versions"], found["platform"]) == (
        *("apple-pear", ["1"]),
        "onnxruntime_onnx",
    )
    types = {
        **{"tensor(uint8)": "UINT8", "tensor(int64)": "INT64"},
        **{"tensor(bool)": "BOOL", "tensor(float)": "FP32"},
    }

    def told(nodes):
        return [
            {
                "name": node.name,
                "datatype": types[node.type],
                "shape": [side if isinstance(side, int) else -1 for side in node.shape] or [1],
            }
            for node in nodes
        ]

    assert found["inputs"] == told([*session.get_inputs(), *session.get_overridable_initializers()])
    assert found["outputs"] == told(session.get_outputs())


def test_health_and_what_is_served(serve, tmp_path):
    client = serve()
    server_told = client.get("/v2").json()
    assert server_told["name"] == "warp_translate" and server_told["version"]
    assert server_told["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for version in ("", "/versions/1"):
        found = client.get(f"/v2/models/apple-plum{version}/ready")
        assert found.status_code == 200
        assert found.json() == {"name": "apple-plum", "ready": True}
    client.service.batcher.close()
    assert client.get("/v2/health/ready").status_code == 503
    assert client.get("/v2/models/apple-plum/ready").status_code == 503
    (tmp_path / "empty").mkdir()
    empty = serve(root=tmp_path / "empty")
    assert empty.get("/v2/health/live").status_code == 200
    assert empty.get("/v2/health/ready").status_code == 503
    response = ask(empty, {"image": np.zeros((1, 2, 2, 3), np.uint8)})
    assert response.status_code == 404 and "there are: none" in response.json()["error"]


def test_the_index_names_what_is_broken_too(serve, folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "some")
    (root / "apple-plum" / bundles.ONNX).write_bytes(b"spoilt")
    client = serve(root=root)
    good, broken = client.post("/v2/repository/index").json()
    assert good == {"name": "apple-pear", "version": "1", "state": "READY", "reason": ""}
    assert (broken["name"], broken["state"]) == ("apple-plum", "UNAVAILABLE")
    assert "damaged" in broken["reason"]
    assert client.post("/v2/repository/index", json={"ready": True}).json() == [good]
    for body in ('{"ready": 1}', "[]", "{"):
        assert client.post("/v2/repository/index", content=body).status_code == 400


@pytest.mark.parametrize("path", ["", "/ready", "/infer", "/versions/2", "/versions/2/infer"])
def test_what_is_not_there_is_404(client, path):
    name = "apple-pear" if "versions" in path else "apple-fig"
    send = client.post if path.endswith("infer") else client.get
    response = send(f"/v2/models/{name}{path}")
    assert response.status_code == 404
    expected = "no version '2'; there is 1" if "versions" in path else "there are: apple-pear"
    assert expected in response.json()["error"]
    assert client.get("/v2/nothing").status_code == 404
    assert client.get(INFER).status_code == 405


def test_two_bundles_of_one_name_are_not_guessed_between(serve, folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "some")
    rewrite(root / "apple-plum", name="apple-pear")
    response = ask(serve(root=root), {"image": np.zeros((1, 2, 2, 3), np.uint8)})
    assert response.status_code == 400 and "2 bundles are called" in response.json()["error"]


IMAGE = {"name": "image", "shape": [1, 1, 2, 3], "datatype": "UINT8", "data": [1, 2, 3, 4, 5, 6]}
FACTOR = {"name": "factor", "shape": [1], "datatype": "INT64", "data": [2]}
FLAG = {"name": "with_maps", "shape": [1], "datatype": "BOOL", "data": [False]}


def changed(given, **fields):
    """Some fields of an input replaced; None takes a field out."""
    return {key: value for key, value in (given | fields).items() if value is not None}


MALFORMED = {
    "no JSON": ("{", "is no JSON"),
    "empty": ("", "is no JSON"),
    "no UTF-8": (b'{"id": "\xff"}', "is no JSON"),
    "a list": ([IMAGE], "must be a JSON object"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "deep data": (
        '{"inputs": [{"name": "image", "shape": [1,1,2,3], "datatype": "UINT8", "data": '
        + "[" * 900 + "]" * 900 + "}]}",
        "not nested as its shape",
    ),
    "NaN": ('{"inputs": [{"data": [NaN]}]}', "holds NaN, which is no JSON"),
    "infinity": ('{"inputs": [{"data": [-Infinity]}]}', "holds -Infinity"),
    "a number of many digits": ('{"id": ' + "1" * 5000 + "}", "is no JSON"),
    "no inputs": ({}, "inputs must be a list"),
    "inputs by name": ({"inputs": {"image": IMAGE}}, "inputs must be a list"),
    "an input of no kind": ({"inputs": [7]}, "an input must be a JSON object"),
    "no image": ({"inputs": []}, "the input image is missing"),
    "only a factor": ({"inputs": [FACTOR]}, "the input image is missing"),
    "another input": ({"inputs": [changed(IMAGE, name="img")]}, "there is no input 'img'"),
    "no name": ({"inputs": [changed(IMAGE, name=None)]}, "there is no input None"),
    "a list as name": ({"inputs": [changed(IMAGE, name=[])]}, "there is no input []"),
    "twice": ({"inputs": [IMAGE, IMAGE]}, "image is there twice"),
    "an id": ({"inputs": [IMAGE], "id": 7}, "id must be a string"),
    "a type": ({"inputs": [changed(IMAGE, datatype="FP32")]}, "image must be UINT8, got 'FP32'"),
    "no type": ({"inputs": [changed(IMAGE, datatype=None)]}, "image must be UINT8, got None"),
    "no shape": ({"inputs": [changed(IMAGE, shape=None)]}, "the shape of image must be a list"),
    "rank": ({"inputs": [changed(IMAGE, shape=[1, 2, 3])]}, "must have the shape"),
    "channels": ({"inputs": [changed(IMAGE, shape=[1, 1, 1, 6])]}, "must have the shape"),
    "negative": ({"inputs": [changed(IMAGE, shape=[-1, -1, 2, 3])]}, "must have the shape"),
    "nothing": ({"inputs": [changed(IMAGE, shape=[0, 1, 2, 3], data=[])]}, "must have the shape"),
    "a fraction": ({"inputs": [changed(IMAGE, shape=[1, 1, 2.0, 3])]}, "must have the shape"),
    "true": ({"inputs": [changed(IMAGE, shape=[True, 1, 2, 3])]}, "must have the shape"),
    "huge": ({"inputs": [changed(IMAGE, shape=[10**4000, 1, 2, 3])]}, "must have the shape"),
    "large": ({"inputs": [changed(IMAGE, shape=[2**31 - 1] * 3 + [3])]}, "has 6 values"),
    "too few": ({"inputs": [changed(IMAGE, data=[1, 2, 3])]}, "has 3 values"),
    "no data": ({"inputs": [changed(IMAGE, data=None)]}, "the data of image must be a list"),
    "a string": ({"inputs": [changed(IMAGE, data="123456")]}, "the data of image must be a list"),
    "ragged": ({"inputs": [changed(IMAGE, data=[[[[1, 2, 3], [4, 5]]]])]}, "not nested"),
    "half nested": ({"inputs": [changed(IMAGE, data=[1, 2, 3, 4, 5, [6]])]}, "whole numbers"),
    "nested too deep": (
        {"inputs": [changed(IMAGE, data=[[[[[1], 2, 3], [4, 5, 6]]]])]},
        "whole numbers, got [1]",
    ),
    "nested otherwise": ({"inputs": [changed(IMAGE, data=[[1, 2, 3], [4, 5, 6]])]}, "not nested"),
    "fractions": ({"inputs": [changed(IMAGE, data=[1.5, 2, 3, 4, 5, 6])]}, "whole numbers"),
    "strings": ({"inputs": [changed(IMAGE, data=["1"] * 6)]}, "whole numbers, got '1'"),
    "null": ({"inputs": [changed(IMAGE, data=[None] * 6)]}, "whole numbers, got None"),
    "flags": ({"inputs": [changed(IMAGE, data=[True] * 6)]}, "whole numbers, got True"),
    "256": ({"inputs": [changed(IMAGE, data=[256] * 6)]}, "within 0 and 255"),
    "-1": ({"inputs": [changed(IMAGE, data=[-1] * 6)]}, "within 0 and 255"),
    "no factor of it": ({"inputs": [IMAGE, changed(FACTOR, data=[3])]}, "3 is none of 2, 4"),
    "minus two": ({"inputs": [IMAGE, changed(FACTOR, data=[-2])]}, "-2 is none of 2, 4"),
    "a factor of 64 bits": ({"inputs": [IMAGE, changed(FACTOR, data=[1 << 63])]}, "must be within"),
    "two factors": ({"inputs": [IMAGE, changed(FACTOR, shape=[2], data=[2, 2])]}, "the shape [1]"),
    "a scalar": ({"inputs": [IMAGE, changed(FACTOR, shape=[])]}, "the shape [1]"),
    "one": ({"inputs": [IMAGE, changed(FLAG, data=[1])]}, "true or false, got 1"),
    "an output": ({"inputs": [IMAGE], "outputs": [{"name": "sum"}]}, "there is no output 'sum'"),
    "an output twice": (
        {"inputs": [IMAGE], "outputs": [{"name": "mask"}, {"name": "mask"}]},
        "mask is there twice",
    ),
    "outputs by name": ({"inputs": [IMAGE], "outputs": {}}, "outputs must be a list"),
    "parameters": ({"inputs": [IMAGE], "parameters": []}, "must be a JSON object"),
    "a flag": (
        {"inputs": [IMAGE], "parameters": {"binary_data_output": 1}},
        "binary_data_output must be true or false, got 1",
    ),
    "a flag of an output": (
        {"inputs": [IMAGE], "outputs": [{"name": "mask", "parameters": {"binary_data": "x"}}]},
        "binary_data must be true or false",
    ),
    "shared memory": (
        {"inputs": [changed(IMAGE, data=None, parameters={"shared_memory_region": "x"})]},
        "asks for shared_memory_region",
    ),
    "classes": (
        {"inputs": [IMAGE], "outputs": [{"name": "mask", "parameters": {"classification": 1}}]},
        "asks for classification",
    ),
    "both": (
        {"inputs": [changed(IMAGE, parameters={"binary_data_size": 6})]},
        "has data and binary_data_size",
    ),
    "nothing behind it": (
        {"inputs": [changed(IMAGE, data=None, parameters={"binary_data_size": 6})]},
        "has 6 bytes, but 0 are left",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "match"), MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_malformed_is_named(client, body, match):
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    response = client.post(INFER, content=content)
    assert response.status_code == 400, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert match in error and len(error) < 300 and "\n" not in error


@pytest.mark.parametrize(
    ("size", "behind", "length", "match"),
    [
        (6, 6, "x", "must be at most the body's"),
        (6, 6, "-1", "must be at most the body's"),
        (6, 6, "²", "must be at most the body's"),
        (6, 6, 1 << 60, "must be at most the body's"),
        (6, 6, +6, "is no JSON"),
        (6, 6, +7, "must be at most the body's"),
        (6, 6, -7, "is no JSON"),
        (6, 6, None, "is no JSON"),
        (6, 5, 0, "has 6 bytes, but 5 are left"),
        (6, 7, 0, "1 bytes are left behind"),
        (5, 5, 0, "must be 6, as its shape [1, 1, 2, 3] says, got 5"),
        (-6, 6, 0, "must be 6"),
        (6.0, 6, 0, "must be 6"),
        (True, 6, 0, "must be 6"),
        ("6", 6, 0, "must be 6"),
        (10**30, 6, 0, "must be 6"),
    ],
)
def test_binary_data_of_another_length_are_named(client, size, behind, length, match):
    given = changed(IMAGE, data=None, parameters={"binary_data_size": size})
    text = json.dumps({"inputs": [given]}).encode()
    if isinstance(length, int):
        length = str(length if length == 1 << 60 else len(text) + length)
    headers = {} if length is None else {LENGTH: length.encode()}
    response = client.post(INFER, content=text + bytes(behind), headers=headers)
    assert response.status_code == 400, response.text
    assert match in response.json()["error"]


def test_a_binary_flag_is_0_or_1(client):
    given = [
        changed(IMAGE, data=None, parameters={"binary_data_size": 6}),
        changed(FLAG, data=None, parameters={"binary_data_size": 1}),
    ]
    text = json.dumps({"inputs": given}).encode()

    def send(flag):
        content = text + bytes(6) + bytes([flag])
        return client.post(INFER, content=content, headers={LENGTH: str(len(text))})

    assert list(read(send(0))[1]) == ["output"] and list(read(send(1))[1]) == ["output", *MAPS]
    assert send(2).status_code == 400 and "0 or 1" in send(2).json()["error"]


def test_parameters_of_other_clients_are_passed_over(client):
    given = changed(IMAGE, parameters={"content_type": "np"})
    body = {"inputs": [given], "parameters": {"priority": 3}, "outputs": []}
    assert list(read(client.post(INFER, json=body))[1]) == ["output"]


@pytest.mark.parametrize(
    ("path", "body", "match"),
    [
        (f"{INFER}?factor=4", {"inputs": [IMAGE]}, "no field 'factor'"),
        (INFER, {"inputs": [IMAGE], "output": []}, "no field 'output'; did you mean outputs?"),
        (INFER, {"inputs": [IMAGE], "parameters": {"factor": 4}}, "no parameter of the request"),
        (
            INFER,
            {"inputs": [changed(IMAGE, parameters={"binary_data_sise": 3})]},
            "of the input image 'binary_data_sise'; did you mean binary_data_size?",
        ),
        ("/v2/repository/index", {"raedy": True}, "no field 'raedy'; did you mean ready?"),
    ],
)
def test_other_names_that_nothing_reads_are_refused(client, path, body, match):
    response = client.post(path, json=body)
    assert response.status_code == 400 and match in response.json()["error"]


def test_a_compressed_body_is_refused_in_words(client):
    response = client.post(INFER, content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert response.status_code == 400 and "send it as it is" in response.json()["error"]


def test_limits_of_bytes_pixels_images_and_numbers(serve, rng, monkeypatch):
    client = serve(most_bytes=9000, most_pixels=1000)
    assert ask(client, {"image": images(rng, 1, 40, 25)}, "binary").status_code == 200
    response = ask(client, {"image": images(rng, 2, 20, 26)}, "binary")
    assert response.status_code == 400 and "more than 1000 pixels" in response.json()["error"]
    response = ask(client, {"image": images(rng, 65, 1, 1)}, "binary")
    assert response.status_code == 400 and "65 images are more than 64" in response.json()["error"]
    response = ask(client, {"image": images(rng, 1, 60, 50)}, "binary")
    assert response.status_code == 413 and "more than 9000 bytes" in response.json()["error"]

    def unknown_length():
        for _ in range(10):
            yield b" " * 1000

    assert client.post(INFER, content=unknown_length()).status_code == 413
    monkeypatch.setattr("warp_translate.serving.kserve_messages._MOST_JSON_PIXELS", 500)
    sent = {"image": images(rng, 1, 20, 20), "with_maps": np.array([True])}
    response = ask(client, sent, "binary")
    assert response.status_code == 400 and "ask for binary_data" in response.json()["error"]
    answer = ask(client, sent, "binary", parameters={"binary_data_output": True})
    assert set(read(answer)[1]) == {"output", *MAPS}


def test_json_is_counted_before_it_is_built(serve, monkeypatch):
    client = serve(memory=64_000_000, most_bytes=1 << 22)
    monkeypatch.setattr("warp_translate.serving.kserve_messages._json", None)
    for part, status, words in (
        (b"{},", 400, "300001 objects, more than 256"),
        (b'"ab",', 400, "quotes, more than 4096"),
        (b"[],", 413, "300001 values in JSON take about "),
        (b"[0,0,0],", 413, "may take 52 MB; send the image as binary data"),
    ):
        response = client.post(INFER, content=b'{"inputs": [' + part * 300_000 + b"0]}")
        assert response.status_code == status and words in response.json()["error"]
    monkeypatch.setattr("warp_translate.serving.kserve_messages._MOST_JSON_PIXELS", 5000)
    response = client.post(INFER, content=b"[" + b"0," * 40_000 + b"0]")
    assert response.status_code == 400
    assert "40001 values and 1 lists, too many for JSON" in response.json()["error"]


def test_the_factor_follows_from_the_device(serve, rng, monkeypatch):
    sent = images(rng, 4, 16, 16)

    def factors(model, budget, times):
        monkeypatch.setattr(latency_model, "load", lambda path: model)
        client = serve(budget=budget)
        answers = [read(ask(client, {"image": sent}))[0] for _ in range(times)]
        return [answer["parameters"]["factor"] for answer in answers]

    assert factors(LatencyModel(0.0, 0.0, 1.0), 100.0, 1) == [2]  # 64 ms, by the model.
    assert factors(LatencyModel(0.0, 0.0, 1.0), 50.0, 1) == [4]
    # It takes longer than a thousandth of a millisecond, whatever the model says.
    assert factors(LatencyModel(0.0, 0.0, 1e-9), 1e-3, 4) == [2, 2, 2, 4]


@pytest.mark.parametrize("most_waiting", [1, 8])
def test_many_images_pass_a_short_queue_a_few_at_a_time(serve, rng, most_waiting):
    client = serve(queue={"most_waiting": most_waiting})
    sent = images(rng, 20, 8, 8)
    _, found = read(ask(client, {"image": sent, "factor": np.array([2], np.int64)}))
    assert_same(found["output"], engine_of(client).translate(sent, 2).output)


def test_too_many_requests_and_a_full_queue_are_503(serve, rng):
    client = serve(queue={"most_waiting": 2}, most_requests=3)
    go, busy, translate = threading.Event(), threading.Event(), engine_of(client).translate
    translated = []

    def held(sent, *arguments, **options):
        translated.extend(sent)
        busy.set()
        assert go.wait(20)
        return translate(sent, *arguments, **options)

    engine_of(client).translate = held
    batcher, answers = client.service.batcher, []

    def begin(sent, waiting):
        thread = threading.Thread(target=lambda: answers.append(ask(client, {"image": sent})))
        thread.start()
        assert busy.wait(20)
        while batcher.waiting != waiting:
            pass
        return thread

    asking = [begin(images(rng, 1, 8, 8), 0), begin(images(rng, 1, 8, 8), 1)]
    # The second of its images does not fit, so that the first is not translated either.
    refused = ask(client, {"image": images(rng, 2, 8, 8)})
    assert refused.status_code == 503 and "2 requests are waiting" in refused.json()["error"]
    assert refused.headers["retry-after"] == "1"
    go.set()
    for thread in asking:
        thread.join(20)
    assert {answer.status_code for answer in answers} == {200}
    assert len(translated) == len(answers)


def test_requests_are_bounded_before_their_bodies_are_read(serve, rng):
    client = serve(most_requests=1)
    go, busy, translate = threading.Event(), threading.Event(), engine_of(client).translate

    def held(*arguments, **options):
        busy.set()
        assert go.wait(20)
        return translate(*arguments, **options)

    engine_of(client).translate = held
    asking = threading.Thread(target=lambda: ask(client, {"image": images(rng, 1, 8, 8)}))
    asking.start()
    assert busy.wait(20)
    # Nobody looks whether the next is a request at all.
    refused = client.post(INFER, content=b"nothing")
    assert refused.status_code == 503 and "1 requests are being answered" in refused.text
    go.set()
    asking.join(20)
    assert ask(client, {"image": images(rng, 1, 8, 8)}).status_code == 200


def test_a_request_that_does_not_come_whole_is_given_up(exported):
    registry = Registry(exported[0].folder.parent)
    registry.scan()
    batcher = Batcher()
    service = Service(registry, batcher, budget_milliseconds=1e3, most_pixels=99, seconds=1.0)
    app = server.build(service, most_bytes=99, most_requests=1, read_seconds=0.05, log=None)
    sent = []

    async def never():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    scope = {
        **{"type": "http", "method": "POST", "path": INFER},
        **{"headers": [(b"content-length", b"50")], "query_string": b""},
    }
    asyncio.run(app(scope, never, send))
    batcher.close()
    assert sent[0]["status"] == 408 and b"did not come whole" in sent[1]["body"]


def test_an_api_key_is_asked_of_all_but_health(serve, rng):
    client = serve(api_key="open up")
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 200
    for path in ("/v2", "/v2/models/apple-pear", "/v2/models/apple-pear/ready"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"X-API-Key": "open up"}).status_code == 200
    assert client.post("/v2/repository/index").status_code == 401
    assert ask(client, {"image": images(rng, 1, 8, 8)}).status_code == 401


def test_requests_are_counted_by_the_route_and_logged(serve, rng):
    client = serve()
    told = ask(client, {"image": images(rng, 2, 8, 9), "factor": np.array([2], np.int64)}).json()
    client.get("/v2/models/some-secret")
    text = client.get("/metrics").text
    assert 'path="/v2/models/{name}/infer",status="200"' in text
    assert 'path="/v2/models/{name}",status="404"' in text and "secret" not in text
    first = json.loads(client.log.getvalue().splitlines()[0])
    assert (first["bundle"], first["factor"], first["images"]) == ("apple-pear", 2, 2)
    assert (first["width"], first["height"]) == (9, 8)
    assert first["milliseconds"] == told["parameters"]["milliseconds"] > 0


def test_no_mutated_request_is_a_500(client, rng):
    chance = random.Random(0)
    sent = images(rng, 2, 5, 4)
    text = json.dumps(
        {
            "id": "1",
            "parameters": {"binary_data_output": False},
            "inputs": [
                tensor("image", sent, "binary"),
                tensor("factor", np.array([2], np.int64)),
                tensor("with_maps", np.array([False])),
            ],
            "outputs": [{"name": "output", "parameters": {"binary_data": True}}],
        }
    ).encode()
    pieces = [b"null", b"-1", b"1e999", b'"x"', b"[]", b"{}", b"true", b"9" * 30, b"[[1]]"]
    statuses = set()
    for number in range(300):
        mutated = bytearray(text)
        for _ in range(chance.randrange(1, 3)):
            place = chance.randrange(len(mutated))
            if number % 3:  # A value for another.
                ends = [at for at, byte in enumerate(mutated) if byte in b",:]}"]
                begin = chance.choice(ends[:-1])
                end = next(at for at in ends if at > begin)
                mutated[begin + 1 : end] = chance.choice(pieces)
            else:
                mutated[place] = chance.randrange(256)
        length = len(mutated) + chance.choice([0, 0, 0, 0, 1, -1])
        response = client.post(
            INFER, content=bytes(mutated) + sent.tobytes(), headers={LENGTH: str(length)}
        )
        statuses.add(response.status_code)
        assert response.status_code in (200, 400), (number, bytes(mutated), response.text)
        if response.status_code == 400:
            assert set(response.json()) == {"error"} and "\n" not in response.json()["error"]
    assert 400 in statuses
    whole = client.post(INFER, content=text + sent.tobytes(), headers={LENGTH: str(len(text))})
    assert list(read(whole)[1]) == ["output"]
