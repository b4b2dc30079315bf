"""Assembles the HTTP server: the APIs, the web page, health, metrics, limits and errors."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from importlib import resources
from typing import TextIO

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from warp_translate.errors import UserError, reason
from warp_translate.serving import kserve, rest
from warp_translate.serving.admission import Admission, AdmissionMiddleware
from warp_translate.serving.batcher import Busy, TooLate
from warp_translate.serving.middleware import Access, Cors, HostCheck, Metrics, TooLarge, problem
from warp_translate.serving.routing import NoRoute
from warp_translate.serving.service import Service

# By path: the file of the page, and its media type. On a site without a server, device.js takes the
# place of server.js; see `site`.
_PAGE = {
    "": ("index.html", "text/html"),
    "style.css": ("style.css", "text/css"),
    "app.js": ("app.js", "text/javascript"),
    "backend.js": ("server.js", "text/javascript"),
}
_HEALTH = ("/health/live", "/v2/health/live", "/health/ready", "/v2/health/ready")
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
      service: answers the requests.
      most_bytes: largest body; 413 beyond.
      most_requests: limit of small requests in progress, and of large ones; 503 beyond.
      memory: bytes for all requests together. A request that never fits gets 413; one that does
        not fit beside the others waits or gets 503.
      read_seconds: limit for receiving a request; 408 beyond.
      scan_seconds: interval between scans of the bundle folder.
      api_key: required in ``X-API-Key`` or ``Authorization: Bearer`` if given.
      hosts: accepted values of ``Host``; None for any.
      origins: of other sites' pages that may use the server; see `middleware.parse_origin`.
      log: receives one JSON line per request; None for no log.
    """
    metrics = Metrics(service, dropped_lines=lambda: getattr(log, "dropped", 0))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        scans = asyncio.create_task(_scan(service, scan_seconds))
        try:
            yield
        finally:
            scans.cancel()
            await asyncio.to_thread(service.batcher.close)  # Finishes the queued requests.

    app = FastAPI(title="warp_translate", lifespan=lifespan, docs_url=None, redoc_url=None)
    admission = Admission(memory=memory, most_requests=most_requests, seconds=read_seconds)
    rest.add_routes(app, service, admission)
    kserve.add_routes(app, service, admission)

    @app.get("/health/live")
    @app.get("/v2/health/live")
    def live() -> Response:
        """Return 200 while the process runs."""
        return JSONResponse({"live": True})

    @app.get("/health/ready")
    def ready() -> Response:
        """Return 200 if translations are answered, else 503."""
        generators = len(service.snapshot().engines)
        good = service.ready
        return JSONResponse({"ready": good, "generators": generators}, 200 if good else 503)

    @app.get("/metrics")
    def prometheus() -> Response:
        """Metrics in Prometheus's text format."""
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")

    for name, (file, media) in _PAGE.items():
        app.add_api_route(f"/{name}", _page(file, media), include_in_schema=False)
    for route in [each for each in app.routes if isinstance(each, APIRoute)]:
        if "GET" in (route.methods or ()):
            app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)
    _add_error_handlers(app, admission)

    app.add_middleware(AdmissionMiddleware, admission=admission)
    app.add_middleware(HostCheck, hosts=hosts, origins=origins)
    app.add_middleware(
        Access,
        metrics=metrics,
        open_paths=(*_HEALTH, *(f"/{name}" for name in _PAGE)),
        most_bytes=most_bytes,
        api_key=api_key,
        log=log,
    )
    app.add_middleware(Cors, origins=origins)
    return app


def _page(name: str, media: str) -> Callable[[], Response]:
    """Serves a file of the web page, which may load nothing from elsewhere."""
    text = (resources.files("warp_translate.serving") / "page" / name).read_text("utf-8")
    headers = {"Content-Security-Policy": _POLICY}
    return lambda: Response(text, media_type=f"{media}; charset=utf-8", headers=headers)


async def _scan(service: Service, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(service.registry.scan)
        except Exception as error:  # The folder may be temporarily unavailable.
            print(f"the bundles cannot be scanned: {reason(error)}", file=sys.stderr, flush=True)


def _add_error_handlers(app: FastAPI, admission: Admission) -> None:
    """Turns every exception into a JSON error."""

    def handle(kind: type[Exception], status: int, message: str | None = None) -> None:
        app.add_exception_handler(
            kind, lambda request, error: problem(status, message or str(error))
        )

    handle(UserError, 400)
    handle(ClientDisconnect, 400, "the connection was closed before the request was complete")
    handle(TimeoutError, 408, "the request was not received completely in time; send it again")
    handle(TooLarge, 413)
    handle(MemoryError, 413, "the image does not fit into memory; scale it down")

    @app.exception_handler(NoRoute)
    def no_route(request: Request, error: NoRoute) -> Response:
        choices = {"choices": rest.listed(error.pairs)} if error.pairs else {}
        return JSONResponse({"error": str(error), **choices}, 404)

    @app.exception_handler(Busy)
    def busy(request: Request, error: Busy) -> Response:
        return problem(503, f"{error}; try again", error.seconds)

    @app.exception_handler(TooLate)
    def late(request: Request, error: TooLate) -> Response:
        return problem(503, f"the request {error}; try again", admission.seconds())

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        answer = problem(error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})  # Such as Allow of a 405.
        return answer

    @app.exception_handler(Exception)
    def failure(request: Request, error: Exception) -> Response:
        answer = problem(500, "the server failed at this request; see its log")
        answer.headers["X-Content-Type-Options"] = "nosniff"  # It bypasses the middleware.
        return answer
