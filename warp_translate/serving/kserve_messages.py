"""What travels by KServe's protocol, version 2: requests for translations, and their answers.

Tensors are JSON or, by the extension for binary tensor data, lie behind it. What they may hold and
how they are written is the protocol's:
https://github.com/kserve/open-inference-protocol and Triton's extension_binary_data.md.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import Response

from warp_translate.errors import UserError
from warp_translate.serving import known_names, signature
from warp_translate.serving.footprint import Need
from warp_translate.serving.service import Stack
from warp_translate.serving.signature import Tensor

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header that tells how many bytes of a body are its JSON."""

_DTYPES = {"BOOL": "?", "UINT8": "u1", "INT64": "<i8", "FP32": "<f4"}
_MOST_SIDE = (1 << 31) - 1
# Of all outputs of an answer together; a number takes up to 60 bytes on its way into JSON.
_MOST_JSON_PIXELS = 1 << 21
_REQUEST = ("id", "parameters", "inputs", "outputs")
# A request has three inputs, six outputs and parameters of each.
_MOST_OBJECTS, _MOST_QUOTES = 256, 4096
# Bytes that Python takes for what JSON holds, and those for a number of an answer.
_NUMBER_BYTES, _LIST_BYTES, _OBJECTS_BYTES = 56, 112, 1 << 20
_TEXT_BYTES, _BINARY_BYTES = 80, 16
_JSON_SECONDS = 5e-8
# What would change the meaning of a request.
_NOT_SERVED = ("shared_memory_region", "classification")
# What clients of Triton and MLServer send, and what changes nothing here.
_PASSED_OVER = {
    *("content_type", "headers", "priority", "timeout"),
    *("sequence_id", "sequence_start", "sequence_end"),
}


@dataclasses.dataclass(frozen=True)
class Inference:
    """A request for translations.

    Attributes:
      id: what the answer is to be called; None if the request does not say it.
      image: uint8 ``[N, H, W, 3]``.
      factor: None if the request does not say it.
      outputs: what is wanted, and whether as binary data, in the order of the answer.
    """

    id: str | None
    image: np.ndarray
    factor: int | None
    outputs: Mapping[str, bool]

    @property
    def with_maps(self) -> bool:
        """Whether any of the maps is wanted."""
        return set(self.outputs) != {signature.OUTPUT.name}


def weigh(body: bytes, header_length: str | None) -> Need:
    """What the JSON of a request takes when it is read, by what it is written with.

    Args:
      body: see `parse`.
      header_length: see `parse`.

    Raises:
      UserError: it holds more objects or strings than any request does, or the length is wrong.
    """
    length = _length(body, header_length)

    def count(mark: bytes) -> int:
        return body.count(mark, 0, length)

    for mark, what, most in ((b"{", "objects", _MOST_OBJECTS), (b'"', "quotes", _MOST_QUOTES)):
        if (found := count(mark)) > most:
            raise UserError(f"the request holds {found} {what}, more than {most}; leave some out")
    numbers, lists = 1 + count(b","), count(b"[")
    # While these are built no other request is looked at.
    if max(numbers / 3, lists) > _MOST_JSON_PIXELS + _MOST_QUOTES:
        raise UserError(
            f"the request holds {numbers} values and {lists} lists, too many for JSON, which holds "
            f"{_MOST_JSON_PIXELS} pixels; send the image as binary data"
        )
    # One character beyond ASCII makes all of them wider.
    text = length if body.isascii() else 4 * length
    return Need(
        text + _NUMBER_BYTES * numbers + _LIST_BYTES * lists + _OBJECTS_BYTES,
        _JSON_SECONDS * length,
        f"{numbers} values in JSON",
        "send the image as binary data",
    )


def answer_bytes(asked: Inference) -> int:
    """What the answer to a request takes beside the translation, at most.

    Args:
      asked: the request.
    """
    # Of at most three channels: stacked, as bytes of their own and joined; or as numbers and text.
    values = 3 * math.prod(asked.image.shape[:3])
    each = (_BINARY_BYTES if binary else _TEXT_BYTES for binary in asked.outputs.values())
    return values * sum(each) + asked.image.nbytes


def parse(body: bytes, header_length: str | None) -> Inference:
    """Reads the body of a request for translations.

    Args:
      body: JSON, and behind it the binary data of inputs in their order, if there are any.
      header_length: how many bytes are the JSON, as the header says it; None for all.

    Raises:
      UserError: it is malformed, or not what a model takes.
    """
    length = _length(body, header_length)
    asked = _object(_json(body[:length]), "the request")
    name = asked.get("id")
    if name is not None and not isinstance(name, str):
        raise UserError(f"id must be a string, got {told(name)}")
    known_names.check(asked, _REQUEST, "field")
    binary = _flag(_parameters(asked, "the request", "binary_data_output"), "binary_data_output")
    inputs = _inputs(asked.get("inputs"), memoryview(body)[length:])
    image = inputs.get(signature.IMAGE.name)
    if image is None:
        raise UserError("the input image is missing; send it as UINT8 [N, H, W, 3]")
    factor, with_maps = (
        None if each.name not in inputs else inputs[each.name].item()
        for each in (signature.FACTOR, signature.WITH_MAPS)
    )
    outputs = _outputs(asked.get("outputs"), binary)
    if not outputs:
        wanted = signature.OUTPUTS if with_maps else (signature.OUTPUT,)
        outputs = {each.name: binary for each in wanted}
    in_json = list(outputs.values()).count(False)
    if in_json * math.prod(image.shape[:3]) > _MOST_JSON_PIXELS:
        raise UserError(
            f"{in_json} outputs of {image.shape[0]} x {image.shape[1]} x {image.shape[2]} are too "
            f"much for JSON, which holds {_MOST_JSON_PIXELS} pixels; ask for binary_data"
        )
    return Inference(name, image, factor, outputs)


def only_ready(body: bytes) -> bool:
    """Reads the body of a request for the index.

    Args:
      body: JSON, or nothing.

    Returns:
      Whether only those models are wanted that answer.

    Raises:
      UserError: it is malformed.
    """
    asked = _object(_json(body), "the request") if body else {}
    known_names.check(asked, ("ready",), "field")
    return _flag(asked, "ready")


def answer(model: str, asked: Inference, found: Stack) -> Response:
    """Writes what a model has found.

    Args:
      model: its name.
      asked: the request.
      found: the translations, with maps where the request wants any.
    """
    arrays = {signature.OUTPUT.name: found.output, **(found.maps or {})}
    datatypes = {tensor.name: tensor.datatype for tensor in signature.OUTPUTS}
    outputs, behind = [], []
    for name, binary in asked.outputs.items():
        array = np.asarray(arrays[name], _DTYPES[datatypes[name]])
        output: dict[str, Any] = {
            "name": name,
            "datatype": datatypes[name],
            "shape": list(array.shape),
        }
        if binary:
            output["parameters"] = {"binary_data_size": array.nbytes}
            behind.append(array.tobytes())
        else:
            output["data"] = array.ravel().tolist()
        outputs.append(output)
    text = json.dumps(
        {
            "model_name": model,
            "model_version": signature.VERSION,
            **({} if asked.id is None else {"id": asked.id}),
            "parameters": {"factor": found.factor, "milliseconds": found.milliseconds},
            "outputs": outputs,
        }
    ).encode()
    if not behind:
        return Response(text, media_type="application/json")
    return Response(
        b"".join([text, *behind]),
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: str(len(text))},
    )


def told(value: Any) -> str:
    """A value of a request in the words of an error: short, whatever it is."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        if len(value) > 8 or any(type(each) is not int for each in value):
            return f"a list of {len(value)}"
        return f"[{', '.join(str(each)[:20] for each in value)}]"
    return repr(value[:40] if isinstance(value, str) else value)[:60]


def _length(body: bytes, header_length: str | None) -> int:
    """How many bytes of a body are its JSON."""
    if header_length is None:
        return len(body)
    digits = header_length.isascii() and header_length.isdigit() and len(header_length) < 16
    if not digits or int(header_length) > len(body):
        raise UserError(
            f"{HEADER_LENGTH} must be at most the body's {len(body)} bytes, got "
            f"{told(header_length)}"
        )
    return int(header_length)


def _json(text: bytes) -> Any:
    def refuse(word: str) -> None:
        raise UserError(f"the request holds {word}, which is no JSON; send finite numbers")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise UserError("the request is nested too deeply") from error
    except ValueError as error:
        words = " ".join(str(error).split())[:120]
        raise UserError(f"the request is no JSON ({words})") from error


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{what} must be a JSON object, got {told(value)}")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{what} must be a list, got {told(value)}")
    return value


def _parameters(given: Mapping[str, Any], what: str, known: str) -> dict[str, Any]:
    found = given.get("parameters")
    found = {} if found is None else _object(found, f"parameters of {what}")
    for name in _NOT_SERVED:
        if name in found:
            raise UserError(f"{what} asks for {name}, which is not served; leave it out")
    known_names.check(found.keys() - _PASSED_OVER, (known,), f"parameter of {what}")
    return found


def _flag(parameters: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise UserError(f"{name} must be true or false, got {told(value)}")
    return value


def _named(given: Any, known: Sequence[Tensor], what: str) -> list[tuple[Tensor, dict[str, Any]]]:
    """The inputs or outputs of a request with what is known of each, none of them twice."""
    by_name = {tensor.name: tensor for tensor in known}
    found: dict[str, tuple[Tensor, dict[str, Any]]] = {}
    for each in _list(given, f"{what}s"):
        name = _object(each, f"an {what}").get("name")
        if not isinstance(name, str) or name not in by_name:
            raise UserError(f"there is no {what} {told(name)}; there are {', '.join(by_name)}")
        if name in found:
            raise UserError(f"the {what} {name} is there twice; send it once")
        found[name] = by_name[name], each
    return list(found.values())


def _inputs(given: Any, binary: memoryview) -> dict[str, np.ndarray]:
    """The inputs by name; ``binary`` is what comes behind the JSON."""
    found = {}
    for tensor, each in _named(given, signature.INPUTS, "input"):
        shape = _shape(tensor, each)
        size = _parameters(each, f"the input {tensor.name}", "binary_data_size").get(
            "binary_data_size"
        )
        if size is None:
            flat = _values(tensor, _flat(tensor, shape, each.get("data")))
        else:
            if "data" in each:
                raise UserError(f"{tensor.name} has data and binary_data_size; send one of them")
            flat = _from_bytes(tensor, shape, size, binary)
            binary = binary[size:]
        found[tensor.name] = flat.reshape(shape)
    if len(binary):
        raise UserError(
            f"{len(binary)} bytes are left behind the inputs; say binary_data_size of each, and "
            f"the length of the JSON in {HEADER_LENGTH}"
        )
    return found


def _outputs(given: Any, binary: bool) -> dict[str, bool]:
    """Whether each output that is asked for is to be binary."""
    return {
        tensor.name: _flag(
            _parameters(each, f"the output {tensor.name}", "binary_data"), "binary_data", binary
        )
        for tensor, each in _named([] if given is None else given, signature.OUTPUTS, "output")
    }


def _shape(tensor: Tensor, given: Mapping[str, Any]) -> list[int]:
    if given.get("datatype") != tensor.datatype:
        raise UserError(
            f"{tensor.name} must be {tensor.datatype}, got {told(given.get('datatype'))}"
        )
    shape = _list(given.get("shape"), f"the shape of {tensor.name}")
    fits = len(shape) == len(tensor.shape) and all(
        type(side) is int and (1 <= side <= _MOST_SIDE if expected < 0 else side == expected)
        for side, expected in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        raise UserError(
            f"{tensor.name} must have the shape {list(tensor.shape)}, where -1 is any size from 1, "
            f"got {told(shape)}"
        )
    return shape


def _flat(tensor: Tensor, shape: Sequence[int], data: Any) -> list[Any]:
    """The values of JSON data, which is flat or nested as the shape says."""
    values = _list(data, f"the data of {tensor.name}")
    count = math.prod(shape)
    # Nothing is made of them before their number is known to be right.
    if values and isinstance(values[0], list):
        values = [values]
        for side in shape:
            if not all(isinstance(each, list) and len(each) == side for each in values):
                raise UserError(
                    f"the data of {tensor.name} are not nested as its shape {told(shape)} says"
                )
            values = list(itertools.chain.from_iterable(values))
    if len(values) != count:
        raise UserError(
            f"{tensor.name} has {len(values)} values, where its shape {told(shape)} says {count}"
        )
    return values


def _values(tensor: Tensor, flat: list[Any]) -> np.ndarray:
    kind, words = (bool, "true or false") if tensor.datatype == "BOOL" else (int, "whole numbers")
    if set(map(type, flat)) != {kind}:
        wrong = next(each for each in flat if type(each) is not kind)
        raise UserError(f"the data of {tensor.name} must be {words}, got {told(wrong)}")
    if kind is bool:
        return np.array(flat)
    limits = np.iinfo(_DTYPES[tensor.datatype])
    if min(flat) < limits.min or max(flat) > limits.max:
        raise UserError(
            f"the data of {tensor.name} must be within {limits.min} and {limits.max}, as "
            f"{tensor.datatype} is"
        )
    return np.array(flat, _DTYPES[tensor.datatype])


def _from_bytes(tensor: Tensor, shape: Sequence[int], size: Any, data: memoryview) -> np.ndarray:
    dtype = np.dtype(_DTYPES[tensor.datatype])
    expected = math.prod(shape) * dtype.itemsize
    if type(size) is not int or size != expected:
        raise UserError(
            f"binary_data_size of {tensor.name} must be {expected}, as its shape {told(shape)} "
            f"says, got {told(size)}"
        )
    if size > len(data):
        raise UserError(
            f"{tensor.name} has {size} bytes, but {len(data)} are left behind the JSON; say its "
            f"length in {HEADER_LENGTH}"
        )
    found = np.frombuffer(data[:size], dtype)
    if tensor.datatype == "BOOL" and found.view("u1").max() > 1:
        raise UserError(f"{tensor.name} must be a byte of 0 or 1")
    return found
