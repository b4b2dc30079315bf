"""Requests that take little to send and much to answer, for many at once."""

import json

import numpy as np
from PIL import Image

from experiments.benchmarks.abuse.case import Case, encode, request

# Answered, refused for good, or sent away for a while.
_ANY = frozenset({200, 400, 413, 503})
_BODY = 31_000_000


def crowds(target: str, model: str) -> list[Case]:
    """What each of a crowd sends.

    Args:
      target: a domain to which one generator leads.
      model: name of a bundle.
    """
    path = f"/v1/translate?target={target}"
    infer = f"/v2/models/{model}/infer"
    clear = Image.new("RGBA", (4000, 4000), (90, 120, 30, 128))
    webp = encode(clear, "WEBP", lossless=True)
    flat = encode(clear.convert("RGB"), "PNG")
    photograph = encode(_smooth(3000, 4000), "JPEG", quality=90)
    medium = encode(_smooth(2000, 2000), "JPEG", quality=90)
    noise = np.random.default_rng(0).integers(0, 256, (1400, 1400, 3), dtype=np.uint8)
    noisy = encode(Image.fromarray(noise), "JPEG")
    side = 2272
    tensor = {"name": "image", "shape": [1, side, side, 3], "datatype": "UINT8"}
    asks = {"parameters": {"binary_data_output": True}}
    numbers = json.dumps({"inputs": [{**tensor, "data": [0]}], **asks}).replace(
        "[0]", "[" + "0," * (3 * side * side - 1) + "0]"
    )
    binary = json.dumps(
        {"inputs": [{**tensor, "parameters": {"binary_data_size": 3 * side * side}}], **asks}
    ).encode()
    sends = {
        f"webp of {len(webp)} bytes, 16 MP with alpha": request(webp, path),
        "jpeg of 12 MP": request(photograph, path),
        "png of 16 MP at factor 1": request(flat, f"{path}&factor=1"),
        "jpeg of 4 MP at factor 1": request(medium, f"{path}&factor=1"),
        "maps of 4 MP": request(medium, f"{path}&maps=all"),
        "noise of 2 MP, large answers": request(noisy, path),
        "JSON of objects": request(_filled(b'{"inputs": [', b"{},", b"{}]}"), infer),
        "JSON of lists": request(_filled(b'{"inputs": [', b"[],", b"[]]}"), infer),
        "JSON of strings": request(_filled(b'{"inputs": [', b'"ab",', b'""]}'), infer),
        "JSON of numbers": request(numbers.encode(), infer),
        "tensor of 5 MP": request(
            binary + bytes(3 * side * side),
            infer,
            f"Inference-Header-Content-Length: {len(binary)}",
        ),
        "body of 31 MB, no picture": request(bytes(_BODY), path),
    }
    return [Case("crowd", name, (sent,), _ANY) for name, sent in sends.items()]


def small_picture() -> bytes:
    """What is to be answered soon all the while."""
    return encode(_smooth(64, 64), "PNG")


def _smooth(height: int, width: int) -> Image.Image:
    chance = np.random.default_rng(0)
    small = chance.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def _filled(head: bytes, part: bytes, end: bytes) -> bytes:
    return head + part * (_BODY // len(part)) + end
