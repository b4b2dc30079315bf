"""Requests that are cheap to send and expensive to answer, for many clients at once."""

import json
from collections.abc import Iterator

import numpy as np
from PIL import Image

from experiments.benchmarks.abuse.case import Case, case, encode, request

_BODY = 31_000_000


def crowds(target: str, model: str) -> Iterator[Case]:
    """Yields the requests, each to be sent by a whole crowd.

    Args:
      target: a domain to which one generator leads.
      model: name of a bundle.
    """
    translate, infer = f"/v1/translate?target={target}", f"/v2/models/{model}/infer"
    clear = Image.new("RGBA", (4000, 4000), (90, 120, 30, 128))
    webp = encode(clear, "WEBP", lossless=True)
    medium = encode(smooth(2000, 2000), "JPEG", quality=90)
    noise = np.random.default_rng(0).integers(0, 256, (1400, 1400, 3), dtype=np.uint8)
    images = {
        f"webp of {len(webp)} bytes, 16 MP with alpha": (webp, ""),
        "jpeg of 12 MP": (encode(smooth(3000, 4000), "JPEG", quality=90), ""),
        "png of 16 MP at factor 1": (encode(clear.convert("RGB"), "PNG"), "&factor=1"),
        "jpeg of 4 MP at factor 1": (medium, "&factor=1"),
        "maps of 4 MP": (medium, "&maps=all"),
        "noise of 2 MP, large answers": (encode(Image.fromarray(noise), "JPEG"), ""),
        "body of 31 MB, not an image": (bytes(_BODY), ""),
    }
    for name, (data, query) in images.items():
        yield _one(name, request(data, translate + query))
    for name, part in (("objects", b"{},"), ("lists", b"[],"), ("strings", b'"ab",')):
        body = b'{"inputs": [' + part * (_BODY // len(part)) + part[:-1] + b"]}"
        yield _one(f"JSON of {name}", request(body, infer))
    side = 2272
    count = 3 * side * side
    tensor = {"name": "image", "shape": [1, side, side, 3], "datatype": "UINT8"}
    binary = {"parameters": {"binary_data_output": True}}
    head = json.dumps({"inputs": [{**tensor, "data": []}], **binary}).encode()
    numbers = head.replace(b"[]", b"[" + b"0," * (count - 1) + b"0]")
    yield _one("JSON of numbers", request(numbers, infer))
    sized = {**tensor, "parameters": {"binary_data_size": count}}
    head = json.dumps({"inputs": [sized], **binary}).encode()
    length = f"Inference-Header-Content-Length: {len(head)}"
    yield _one("tensor of 5 MP", request(head + bytes(count), infer, length))


def smooth(height: int, width: int) -> Image.Image:
    """Returns an image as smooth as a photograph."""
    shape = (height // 16 + 2, width // 16 + 2, 3)
    small = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def _one(name: str, sent: bytes) -> Case:
    return case(name, sent, {200, 400, 413, 503}, family="crowd")
