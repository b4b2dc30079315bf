"""The inference protocol of KServe, version 2 (Open Inference Protocol), by REST.

The models are the bundles, by their names; `kserve_messages` reads and writes what travels.
"""

from collections.abc import Awaitable, Callable, Sequence
from importlib import metadata
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from warp_translate.errors import UserError
from warp_translate.serving import known_names, signature
from warp_translate.serving import kserve_messages as messages
from warp_translate.serving.admission import Part
from warp_translate.serving.engine import Engine, OnnxEngine
from warp_translate.serving.footprint import Need
from warp_translate.serving.kserve_messages import Inference
from warp_translate.serving.routing import NoRoute
from warp_translate.serving.service import Service
from warp_translate.serving.signature import Tensor

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready")
"""What is answered without a key."""


class Limited(Protocol):
    """Reads a request and does its work, part by part, within the server's limits."""

    def __call__(
        self, request: Request, read: Callable[[Request], Awaitable[bytes]], *parts: Part
    ) -> Awaitable[Response]:
        """Answers the request."""


_MODEL = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")


def add_routes(app: FastAPI, service: Service, limited: Limited) -> None:
    """Adds the protocol to the application, which answers errors with JSON ``{"error": ...}``.

    Args:
      app: the application.
      service: answers.
      limited: reads a request and does its work in a thread.
    """
    version = metadata.version("warp-translate")

    def server(request: Request) -> Response:
        """What the server is."""
        return JSONResponse(
            {
                "name": "warp_translate",
                "version": version,
                "extensions": ["binary_tensor_data"],
            }
        )

    def live(request: Request) -> Response:
        """Whether the process answers."""
        return JSONResponse({"live": True})

    def ready(request: Request) -> Response:
        """Whether translations are answered."""
        good = bool(service.snapshot().engines) and service.batcher.alive
        return JSONResponse({"ready": good}, 200 if good else 503)

    def model(request: Request) -> Response:
        """What a model takes and gives."""
        return JSONResponse(_describe(_find(service, request)))

    def model_ready(request: Request) -> Response:
        """Whether a model answers."""
        name, good = _find(service, request).bundle.name, service.batcher.alive
        return JSONResponse({"name": name, "ready": good}, 200 if good else 503)

    async def infer(request: Request) -> Response:
        """Translates images."""
        engine = _find(service, request)
        known_names.check(request.query_params, (), "field")
        if request.headers.get("content-encoding", "identity") != "identity":
            raise UserError("the body is compressed; send it as it is")

        length = request.headers.get(messages.HEADER_LENGTH)

        def weigh(asked: Inference) -> Need:
            factor = asked.factor
            if factor is not None:
                factor = engine.bundle.check_factor(factor)
            need = service.need_of_stack(engine, asked.image.shape, factor, asked.with_maps)
            return need.and_also(messages.answer_bytes(asked))

        def work(asked: Inference) -> Response:
            found = service.translate(engine, asked.image, asked.factor, with_maps=asked.with_maps)
            request.state.told = {
                "bundle": engine.bundle.name,
                "factor": found.factor,
                "images": asked.image.shape[0],
                "width": asked.image.shape[2],
                "height": asked.image.shape[1],
                "milliseconds": found.milliseconds,
            }
            return messages.answer(engine.bundle.name, asked, found)

        return await limited(
            request,
            _body,
            (
                lambda body: messages.weigh(body, length),
                lambda body: messages.parse(body, length),
            ),
            (weigh, work),
        )

    async def index(request: Request) -> Response:
        """All models, those that are broken too."""
        known_names.check(request.query_params, (), "field")

        def work(body: bytes) -> Response:
            return JSONResponse(_index(service, messages.only_ready(body)))

        return await limited(request, _body, (lambda body: messages.weigh(body, None), work))

    app.add_api_route("/v2", server, methods=["GET"])
    for path, endpoint in zip(OPEN_PATHS, (live, ready), strict=True):
        app.add_api_route(path, endpoint, methods=["GET"])
    for path in _MODEL:
        app.add_api_route(path, model, methods=["GET"])
        app.add_api_route(f"{path}/ready", model_ready, methods=["GET"])
        app.add_api_route(f"{path}/infer", infer, methods=["POST"])
    app.add_api_route("/v2/repository/index", index, methods=["POST"])


def _find(service: Service, request: Request) -> Engine:
    name = request.path_params["name"]
    engines = service.snapshot().engines.values()
    found = [engine for engine in engines if engine.bundle.name == name]
    if not found:
        known = ", ".join(sorted({engine.bundle.name for engine in engines})) or "none"
        raise NoRoute(f"there is no model {messages.told(name)}; there are: {known}")
    if len(found) > 1:
        raise UserError(
            f"{len(found)} bundles are called {name}; export one with another --bundle_name"
        )
    version = request.path_params.get("version", signature.VERSION)
    if version != signature.VERSION:
        raise NoRoute(
            f"the model {name} has no version {messages.told(version)}; "
            f"there is {signature.VERSION}"
        )
    return found[0]


def _describe(engine: Engine) -> dict[str, Any]:
    def tensors(known: Sequence[Tensor]) -> list[dict[str, Any]]:
        return [
            {"name": each.name, "datatype": each.datatype, "shape": list(each.shape)}
            for each in known
        ]

    return {
        "name": engine.bundle.name,
        "versions": [signature.VERSION],
        "platform": "onnxruntime_onnx" if isinstance(engine, OnnxEngine) else "jax_export",
        "inputs": tensors(signature.INPUTS),
        "outputs": tensors(signature.OUTPUTS),
    }


def _index(service: Service, only_ready: bool) -> list[dict[str, str]]:
    served = service.snapshot()
    names = sorted({engine.bundle.name for engine in served.engines.values()})
    listed = [
        {
            "name": name,
            "version": signature.VERSION,
            "state": "READY",
            "reason": served.problems.get(name, ""),
        }
        for name in names
    ]
    if not only_ready:
        listed += [
            {"name": name, "version": signature.VERSION, "state": "UNAVAILABLE", "reason": reason}
            for name, reason in sorted(served.problems.items())
            if name not in names
        ]
    return listed


async def _body(request: Request) -> bytes:
    return await request.body()
