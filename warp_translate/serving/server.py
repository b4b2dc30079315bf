"""The HTTP service around a `Service`: what comes in, what goes out, and its limits."""

import asyncio
import base64
import contextlib
import functools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from importlib import resources
from typing import Any, TextIO

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from warp_translate import image_io, visualize
from warp_translate.errors import UserError
from warp_translate.serving import known_names, kserve
from warp_translate.serving.admission import Admission, Gate, Part, ticket_of
from warp_translate.serving.batcher import Busy, TooLate
from warp_translate.serving.footprint import Need
from warp_translate.serving.hosts import Guard, Pages
from warp_translate.serving.middleware import Edge, Metrics, TooLarge, problem
from warp_translate.serving.routing import Choices, NoRoute, Pair
from warp_translate.serving.service import Answer, Service

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
_FIELDS = ("source", "target", "factor", "format", "maps")
_LOGGED = ("bundle", "factor", "width", "height", "milliseconds")
_LONGEST_NAME = 200
_PAGE = {"": "text/html", "style.css": "text/css", "app.js": "text/javascript"}
_OPEN_PATHS = (
    *("/health/live", "/health/ready", *kserve.OPEN_PATHS),
    *(f"/{name}" for name in _PAGE),
)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'none'; "
    "frame-ancestors 'none'; base-uri 'none'"
)


def build(
    service: Service,
    *,
    most_bytes: int,
    most_requests: int,
    memory: int = 4 << 30,
    read_seconds: float = 60.0,
    scan_seconds: float = 2.0,
    api_key: str | None = None,
    hosts: Collection[str] | None = None,
    origins: Sequence[str] = (),
    log: TextIO | None = sys.stderr,
) -> FastAPI:
    """Builds the application.

    Args:
      service: answers.
      most_bytes: of a request's body; a larger one is answered with 413.
      most_requests: small requests in work and waiting together, and as many large ones; more are
        answered with 503.
      memory: bytes that all requests together may take. One that never fits is answered with 413,
        and one that does not fit beside the others waits, or is answered with 503.
      read_seconds: in which a request must have come whole, or it is answered with 408.
      scan_seconds: between looks at the folder of bundles.
      api_key: if given, what ``X-API-Key`` or ``Authorization: Bearer`` must hold.
      hosts: what the ``Host`` of a request may be; None for anything.
      origins: of the pages of other sites that may use the service, see `hosts.origin`.
      log: gets one JSON line for each request; None for none.
    """
    metrics = Metrics(service, dropped_lines=lambda: getattr(log, "dropped", 0))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(_watch(service, scan_seconds))
        try:
            yield
        finally:
            watching.cancel()
            # What was taken is finished.
            await asyncio.to_thread(service.batcher.close)

    app = FastAPI(title="warp_translate", lifespan=lifespan, docs_url=None, redoc_url=None)
    admission = Admission(memory=memory, most_requests=most_requests, seconds=read_seconds)

    async def limited(
        request: Request, read: Callable[[Request], Awaitable[Any]], *parts: Part
    ) -> Response:
        """Reads a request and does its work, part by part, within the limits."""
        ticket = ticket_of(request.scope)
        # Counted before their bodies are read, which bounds what is held of them.
        await admission.arrive(ticket)
        async with asyncio.timeout(read_seconds):
            got = await read(request)
        for weigh, do in parts:
            got = await admission.work(ticket, got, weigh, do, request.is_disconnected)
        admission.keep(ticket, len(got.body))
        response: Response = got
        return response

    @app.post("/v1/translate")
    async def translate(request: Request) -> Response:
        """Translates the image of the request."""
        read = functools.partial(_read, known=_FIELDS)

        def weigh(got: tuple[bytes, dict[str, str]]) -> Need:
            data, fields = got
            return service.need(
                data,
                source=fields.get("source"),
                target=fields.get("target"),
                factor=_whole("factor", fields.get("factor")),
                with_maps=fields.get("maps") == "all",
            )

        def work(got: tuple[bytes, dict[str, str]]) -> Response:
            data, fields = got
            form = _one_of("format", fields.get("format") or "png", tuple(MEDIA_TYPES))
            maps = _one_of("maps", fields.get("maps") or "none", ("none", "all"))
            found = service.answer(
                data,
                source=_name("source", fields.get("source")),
                target=_name("target", fields.get("target")),
                factor=_whole("factor", fields.get("factor")),
                with_maps=maps == "all",
            )
            if isinstance(found, Choices):
                return _choices(found)
            about = _about(found)
            request.state.told = {name: about[name] for name in _LOGGED}
            return _image(found, form) if maps == "none" else _with_maps(found, form)

        return await limited(request, read, (weigh, work))

    @app.post("/v1/classify")
    async def classify(request: Request) -> Response:
        """Tells which domain the image of the request is of."""
        read = functools.partial(_read, known=())

        def work(got: tuple[bytes, dict[str, str]]) -> Response:
            found = service.classify(got[0])
            return JSONResponse(
                {"recognised": found.domain, "probabilities": dict(found.probabilities)}
            )

        return await limited(
            request, read, (lambda got: service.need(got[0], translated=False), work)
        )

    for name, media in _PAGE.items():
        app.add_api_route(f"/{name}", _page(name or "index.html", media), include_in_schema=False)

    @app.get("/v1/generators")
    def generators() -> dict[str, Any]:
        """What is served, and what is wrong with what is not."""
        served = service.snapshot()
        listed = [
            {
                "name": engine.bundle.name,
                "source": source,
                "target": target,
                "factors": list(engine.bundle.factors),
                "factor": engine.bundle.factor,
                "build": engine.bundle.build,
            }
            for (source, target), engine in sorted(served.engines.items())
        ]
        classifier = None
        if served.classifier is not None:
            told = served.classifier.bundle
            classifier = {
                "name": told.name,
                "domains": list(told.domains),
                "threshold": told.threshold,
                "build": told.build,
            }
        return {
            "generators": listed,
            "classifier": classifier,
            "problems": dict(served.problems),
        }

    @app.get("/health/live")
    def live() -> Response:
        """Whether the process answers."""
        return JSONResponse({"live": True})

    @app.get("/health/ready")
    def ready() -> Response:
        """Whether translations are answered."""
        count, alive = len(service.snapshot().engines), service.batcher.alive
        good = bool(count) and alive
        return JSONResponse({"ready": good, "generators": count}, 200 if good else 503)

    @app.get("/metrics")
    def measured() -> Response:
        """Figures for Prometheus."""
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    kserve.add_routes(app, service, limited)
    for route in [each for each in app.routes if isinstance(each, APIRoute)]:
        if "GET" in (route.methods or ()):
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)
    _answer_errors(app, admission)

    app.add_middleware(Gate, admission=admission)
    app.add_middleware(Guard, hosts=hosts, origins=origins)
    app.add_middleware(
        Edge,
        metrics=metrics,
        open_paths=_OPEN_PATHS,
        most_bytes=most_bytes,
        api_key=api_key,
        log=log,
    )
    app.add_middleware(Pages, origins=origins)
    return app


def _page(name: str, media: str) -> Callable[[], Response]:
    """A file of the page, which loads nothing from elsewhere."""
    text = (resources.files("warp_translate.serving") / "page" / name).read_text("utf-8")
    headers = {"Content-Security-Policy": _POLICY}
    return lambda: Response(text, media_type=f"{media}; charset=utf-8", headers=headers)


async def _watch(service: Service, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(service.registry.scan)
        except Exception as error:
            # The folder may be away for a moment, on a network for instance. Whatever it is, what
            # is served goes on, and so do the looks.
            print(f"the bundles cannot be looked at: {error}", file=sys.stderr, flush=True)


async def _read(request: Request, known: Sequence[str]) -> tuple[bytes, dict[str, str]]:
    """The image and the fields of a request: a form, or a raw body with fields in the address."""
    given = request.query_params.multi_items()
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await request.body(), _fields(given, known)
    try:
        async with request.form(max_files=1, max_fields=len(_FIELDS)) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise UserError("the form has no file called image; send one")
            given += [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
            return await image.read(), _fields(given, known)
    except ValueError as error:  # Python has encodings that fail in ways of their own.
        raise UserError("the form's encoding is none of text; send it as UTF-8") from error


def _fields(given: Iterable[tuple[str, str]], known: Sequence[str]) -> dict[str, str]:
    """The fields by name; an empty one is as good as none."""
    given = list(given)
    known_names.check((name for name, value in given if value or name not in known), known, "field")
    return {name: value for name, value in given if value}


def _name(name: str, text: str | None) -> str | None:
    if not text:
        return None
    # It is told again in errors, which are one line.
    if len(text) > _LONGEST_NAME or not text.isprintable():
        raise UserError(f"{name} must be the name of a domain, got {text[:40]!a}")
    return text


def _whole(name: str, text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise UserError(f"{name} must be a whole number, got {text[:40]!r}")
    return int(text)


def _one_of(name: str, text: str, known: tuple[str, ...]) -> Any:
    if text not in known:
        raise UserError(f"{name} must be one of {', '.join(known)}, got {text[:40]!r}")
    return text


def _about(found: Answer) -> dict[str, Any]:
    """How an image was translated, in the words of headers, JSON and the log."""
    height, width = found.rgb.shape[:2]
    return {
        "bundle": found.bundle,
        "source": found.source,
        "target": found.target,
        "factor": found.factor,
        **({"recognised": found.recognised} if found.recognised is not None else {}),
        "width": width,
        "height": height,
        "milliseconds": found.milliseconds,
    }


def _headers(found: Answer) -> dict[str, str]:
    return {f"X-{name.capitalize()}": str(value) for name, value in _about(found).items()}


def _image(found: Answer, form: Any) -> Response:
    data = image_io.encode_image(found.rgb, found.alpha, form)
    return Response(data, media_type=MEDIA_TYPES[form], headers=_headers(found))


def _with_maps(found: Answer, form: Any) -> Response:
    """The output and pictures of the maps as data addresses."""
    assert found.maps is not None
    full = visualize.full_color(found.rgb.shape)
    return JSONResponse(
        {
            **_about(found),
            "output": _data(image_io.encode_image(found.rgb, found.alpha, form), form),
            "maps": {
                # One after the other, since each takes much memory.
                name: _data(image_io.encode_image(picture, None, "png"), "png")
                for name in visualize.MAPS
                for picture in visualize.draw(found.maps, [name], full).values()
            },
        },
        headers=_headers(found),
    )


def _data(data: bytes, form: str) -> str:
    return f"data:{MEDIA_TYPES[form]};base64,{base64.b64encode(data).decode()}"


def _choices(found: Choices) -> Response:
    looks = "could be anything"
    if found.recognised is not None:
        looks = f"looks like {found.recognised}"
    elif found.probabilities is not None:
        looks = "looks like none of the domains that are known"
    return JSONResponse(
        {
            "error": f"the image {looks}: say target or source, as one of the choices has them",
            "recognised": found.recognised,
            "probabilities": dict(found.probabilities) if found.probabilities else None,
            "choices": _listed(found.pairs),
        },
        status_code=300,
    )


def _listed(pairs: Iterable[Pair]) -> list[dict[str, str]]:
    return [{"source": source, "target": target} for source, target in pairs]


def _answer_errors(app: FastAPI, admission: Admission) -> None:
    """Makes one line of JSON of everything that goes wrong."""

    @app.exception_handler(NoRoute)
    def no_route(request: Request, error: NoRoute) -> Response:
        if not error.pairs:
            return problem(404, str(error))
        return JSONResponse({"error": str(error), "choices": _listed(error.pairs)}, 404)

    @app.exception_handler(UserError)
    def mistake(request: Request, error: UserError) -> Response:
        return problem(400, str(error))

    @app.exception_handler(Busy)
    def busy(request: Request, error: Busy) -> Response:
        return problem(503, f"{error}; try again", error.seconds)

    @app.exception_handler(TooLate)
    def late(request: Request, error: TooLate) -> Response:
        return problem(503, f"the request {error}; try again", admission.seconds())

    @app.exception_handler(MemoryError)
    def memory(request: Request, error: MemoryError) -> Response:
        return problem(413, "the image does not fit into memory; scale it down")

    @app.exception_handler(TooLarge)
    def large(request: Request, error: TooLarge) -> Response:
        return problem(413, str(error))

    @app.exception_handler(ClientDisconnect)
    def gone(request: Request, error: ClientDisconnect) -> Response:
        return problem(400, "the connection was closed before the request was whole")

    @app.exception_handler(TimeoutError)
    def slow(request: Request, error: TimeoutError) -> Response:
        return problem(408, "the request did not come whole in time; send it again")

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        answer = problem(error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})  # A 405 says there what is allowed.
        return answer

    @app.exception_handler(Exception)
    def failure(request: Request, error: Exception) -> Response:
        answer = problem(500, "the server failed at this request; its log says more")
        answer.headers["X-Content-Type-Options"] = "nosniff"  # Nothing else is around this one.
        return answer
