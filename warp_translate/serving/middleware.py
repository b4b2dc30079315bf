"""What lies around every request to the server: the key, the limit of bytes, figures and log."""

import hmac
import json
import time
from collections.abc import Callable, Collection
from typing import TextIO

from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warp_translate.serving.service import Service


def problem(status: int, message: str, seconds: int = 1) -> JSONResponse:
    """The answer to a request that fails: one line of JSON, ``{"error": message}``.

    Args:
      status: of HTTP; with 503 the client is told to try again.
      message: what is wrong.
      seconds: after which to try again.
    """
    headers = {"Retry-After": str(seconds)} if status == 503 else None
    return JSONResponse({"error": message}, status_code=status, headers=headers)


class TooLarge(Exception):
    """A body is larger than it may be."""


class Metrics:
    """What Prometheus is told."""

    def __init__(self, service: Service, *, dropped_lines: Callable[[], float]) -> None:
        """Begins to count.

        Args:
          service: whose queue and generators are told.
          dropped_lines: how many lines of the log were not written.
        """
        self._service = service
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "warp_translate_requests", "Requests.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "warp_translate_request_seconds",
            "Time of a request.",
            ["path"],
            registry=self._registry,
        )
        self._waiting = Gauge(
            "warp_translate_waiting", "Requests in the queue.", registry=self._registry
        )
        self._generators = Gauge(
            "warp_translate_generators", "Generators that are served.", registry=self._registry
        )
        self._problems = Gauge(
            "warp_translate_broken_bundles", "Bundles that cannot be.", registry=self._registry
        )
        Gauge(
            "warp_translate_dropped_log_lines",
            "Lines of the log that nobody took.",
            registry=self._registry,
        ).set_function(dropped_lines)

    def observe(self, path: str, status: int, seconds: float) -> None:
        """Counts a request.

        Args:
          path: the route, of which there are few.
          status: of the answer.
          seconds: what it took.
        """
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """All figures in Prometheus's format."""
        served = self._service.snapshot()
        self._waiting.set(self._service.batcher.waiting)
        self._generators.set(len(served.engines))
        self._problems.set(len(served.problems))
        return generate_latest(self._registry)


class Edge:
    """Around every request: the key, the limit of the body, the figures and the log."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        open_paths: Collection[str],
        most_bytes: int,
        api_key: str | None,
        log: TextIO | None,
    ) -> None:
        """Remembers what is asked of requests.

        Args:
          app: answers those that may pass.
          metrics: told of every request.
          open_paths: what is answered without a key.
          most_bytes: of a request's body.
          api_key: what ``X-API-Key`` or ``Authorization: Bearer`` must hold; None for anything.
          log: gets one JSON line for each request; None for none.
        """
        self._app = app
        self._metrics = metrics
        self._open = open_paths
        self._most = most_bytes
        self._key = api_key.encode() if api_key is not None else None
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it, and tells of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, watched)
        finally:
            self._tell(scope, status, time.perf_counter() - begin)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if self._key is not None and scope["path"] not in self._open:
            given = headers.get(b"x-api-key", b"")
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            if not given and scheme.lower() == b"bearer":
                given = token.strip()
            if not hmac.compare_digest(given, self._key):
                refusal = problem(401, "the API key is missing or wrong: send X-API-Key")
                await refusal(scope, receive, send)
                return
        words = f"the request has more than {self._most} bytes; send a smaller image"
        said = headers.get(b"content-length", b"0")
        if said.isdigit() and int(said) > self._most:
            await problem(413, words)(scope, receive, send)
            return
        got = 0

        async def counted() -> Message:
            # Whatever it says of its length.
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self._most:
                raise TooLarge(words)
            return message

        await self._app(scope, counted, send)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        # Not a label for whatever somebody tries.
        path = getattr(scope.get("route"), "path", "other")
        self._metrics.observe(path, status, seconds)
        if self._log is not None:
            client = scope.get("client")
            line = {
                "time": round(time.time(), 3),
                "client": client[0] if client else None,
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "request_milliseconds": round(1000 * seconds, 1),
                **scope.get("state", {}).get("told", {}),
            }
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()
