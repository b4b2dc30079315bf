"""The REST API under ``/v1``: translate or classify an image file, list the generators."""

import base64
import functools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile

from warp_translate import image_io, visualize
from warp_translate.errors import UserError, check_names
from warp_translate.serving import bundle as bundles
from warp_translate.serving.admission import Admission
from warp_translate.serving.routing import Choices, Pair
from warp_translate.serving.service import Answer, Service, TranslationRequest

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
_FIELDS = ("source", "target", "factor", "format", "maps")
_LOGGED = ("bundle", "factor", "width", "height", "milliseconds")
_LONGEST_NAME = 200
_PREVIEW_SIDE = 512


def add_routes(app: FastAPI, service: Service, admission: Admission) -> None:
    """Adds the API to an application."""

    @app.post("/v1/translate")
    async def translate(request: Request) -> Response:
        """Translate an image.

        Send the file as the body, with the fields in the query, or a form with a file `image`.
        Fields: `source`, `target`, `factor`, `format` (png, jpeg, webp), `maps` (none, all,
        or preview: the maps alone, at most 512 pixels a side).
        """

        def work(parsed: tuple[TranslationRequest, tuple[Any, str]]) -> Response:
            wanted, (form, maps) = parsed
            found = service.answer(wanted)
            if isinstance(found, Choices):
                return choices(found)
            about = _about(found)
            request.state.log = {name: about[name] for name in _LOGGED}
            headers = {f"X-{name.capitalize()}": str(value) for name, value in about.items()}
            if maps == "preview":
                return JSONResponse({**about, "maps": _drawn(found, _PREVIEW_SIDE, "jpeg")})
            data = image_io.encode_image(found.rgb, found.alpha, form)
            if maps == "none":
                return Response(data, media_type=MEDIA_TYPES[form], headers=headers)
            content = {**about, "output": _data_url(data, form), "maps": _drawn(found)}
            return JSONResponse(content, headers=headers)

        return await admission.answer(
            request, _read_translation, (lambda parsed: service.estimate(parsed[0]), work)
        )

    @app.post("/v1/classify")
    async def classify(request: Request) -> Response:
        """Classify an image: its domain, and the probability of every domain."""

        def work(data: bytes) -> Response:
            found = service.classify(data)
            return JSONResponse(
                {"recognised": found.domain, "probabilities": dict(found.probabilities)}
            )

        return await admission.answer(request, _read_image, (service.estimate_decoding, work))

    @app.get("/v1/samples/{name}")
    def sample(name: str) -> Response:
        """Return the sample picture of a generator."""
        engines = service.snapshot().engines.values()
        found = {engine.bundle.name: engine.bundle for engine in engines}
        if name in found and bundles.SAMPLE in found[name].files:
            data = found[name].path(bundles.SAMPLE).read_bytes()
            return Response(data, media_type=MEDIA_TYPES["jpeg"])
        raise HTTPException(404, f"no generator {name[:40]!r} with a sample picture")

    @app.get("/v1/generators")
    def generators() -> dict[str, Any]:
        """List the generators, the classifier, and the bundles that cannot be served."""
        served = service.snapshot()
        classifier = served.classifier and served.classifier.bundle
        return {
            "generators": [
                {
                    "name": engine.bundle.name,
                    "source": source,
                    "target": target,
                    "factors": list(engine.bundle.factors),
                    "factor": engine.bundle.factor,
                    "size": engine.bundle.size,
                    "build": engine.bundle.build,
                    "sample": f"v1/samples/{engine.bundle.name}"
                    if bundles.SAMPLE in engine.bundle.files
                    else None,
                }
                for (source, target), engine in sorted(served.engines.items())
            ],
            "classifier": classifier
            and {
                "name": classifier.name,
                "domains": list(classifier.domains),
                "threshold": classifier.threshold,
                "build": classifier.build,
            },
            "problems": dict(served.problems),
        }


def listed(pairs: Iterable[Pair]) -> list[dict[str, str]]:
    """Generators as JSON."""
    return [{"source": source, "target": target} for source, target in pairs]


async def _read_translation(request: Request) -> tuple[TranslationRequest, tuple[str, str]]:
    data, fields = await _read(request, _FIELDS)
    form = _choice("format", fields.get("format", "png"), MEDIA_TYPES)
    maps = _choice("maps", fields.get("maps", "none"), ("none", "all", "preview"))
    source, target = (_domain(name, fields.get(name)) for name in ("source", "target"))
    factor = fields.get("factor")
    if factor is not None and not (factor.isascii() and factor.isdigit() and len(factor) < 5):
        raise UserError(f"factor must be a whole number, got {factor[:40]!r}")
    reduction = None if factor is None else int(factor)
    wanted = TranslationRequest(data, source, target, reduction, maps != "none")
    return wanted, (form, maps)


async def _read_image(request: Request) -> bytes:
    return (await _read(request, ()))[0]


async def _read(request: Request, known: Sequence[str]) -> tuple[bytes, dict[str, str]]:
    """The image and the fields of a form, or of a raw body and the query."""
    given = request.query_params.multi_items()
    fields = functools.partial(_fields, known=known)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await request.body(), fields(given)
    try:
        async with request.form(max_files=1, max_fields=len(_FIELDS)) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise UserError("the form has no file called image; send one")
            given += [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
            return await image.read(), fields(given)
    except ValueError as error:  # Some of Python's codecs are not text encodings.
        raise UserError("the form's encoding is not a text encoding; send UTF-8") from error


def _fields(given: list[tuple[str, str]], known: Sequence[str]) -> dict[str, str]:
    """The fields by name; empty ones count as missing."""
    check_names((name for name, value in given if value or name not in known), known, "field")
    return {name: value for name, value in given if value}


def _domain(name: str, text: str | None) -> str | None:
    # Errors quote it on one line.
    if text and (len(text) > _LONGEST_NAME or not text.isprintable()):
        raise UserError(f"{name} must be the name of a domain, got {text[:40]!a}")
    return text


def _choice(name: str, text: str, known: Collection[str]) -> str:
    if text not in known:
        raise UserError(f"{name} must be one of {', '.join(known)}, got {text[:40]!r}")
    return text


def _about(found: Answer) -> dict[str, Any]:
    """The metadata of a translation in headers, JSON and the log."""
    height, width = found.rgb.shape[:2]
    return {
        "bundle": found.bundle,
        **found.route.named(),
        "factor": found.stack.factor,
        "width": width,
        "height": height,
        "milliseconds": found.stack.milliseconds,
    }


def _drawn(found: Answer, most_side: int | None = None, form: Any = "png") -> dict[str, str]:
    """Data URLs of the drawn maps, with every n-th pixel where a side is limited."""
    maps = {name: _thinned(each[0], most_side) for name, each in (found.stack.maps or {}).items()}
    full = visualize.full_color(found.rgb.shape)
    return {
        # One at a time to bound the memory.
        name: _data_url(image_io.encode_image(drawing, None, form), form)
        for name in visualize.MAPS
        for drawing in visualize.draw(maps, [name], full).values()
    }


def _thinned(image: np.ndarray, most_side: int | None) -> np.ndarray:
    step = -(-max(image.shape[:2]) // most_side) if most_side else 1
    return image[::step, ::step]


def _data_url(data: bytes, form: str) -> str:
    return f"data:{MEDIA_TYPES[form]};base64,{base64.b64encode(data).decode()}"


def choices(found: Choices) -> Response:
    """The answer to an ambiguous request, with status 300."""
    return JSONResponse(
        {
            "error": found.in_words("source or target"),
            "recognised": found.recognized,
            "probabilities": dict(found.probabilities) if found.probabilities else None,
            "choices": listed(found.pairs),
        },
        status_code=300,
    )
