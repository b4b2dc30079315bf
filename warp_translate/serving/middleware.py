"""ASGI middleware: CORS, host and origin checks, API key, body limit, metrics and access log.

A web page of any site can make its visitors' browsers send requests to servers that only they can
reach, such as one on their machine. It cannot read the responses unless its own host name resolves
to that server (DNS rebinding); the request's ``Host`` is then that name.
"""

import hmac
import ipaddress
import json
import re
import time
import urllib.parse
from collections.abc import Callable, Collection, Sequence
from typing import Any, TextIO

from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warp_translate.errors import UserError
from warp_translate.serving.service import Service

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_ORIGIN = re.compile(r"(https?)://([^\s/?#@:\[\]]+|\[[0-9a-f:.]+\])(:[0-9]+)?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_REQUEST_HEADERS = ("Authorization", "X-API-Key", "Inference-Header-Content-Length")
_RESPONSE_HEADERS = (
    *("X-Bundle", "X-Source", "X-Target", "X-Factor", "X-Recognised", "X-Width", "X-Height"),
    *("X-Milliseconds", "Retry-After", "Inference-Header-Content-Length"),
)


def problem(status: int, message: str, seconds: int = 1) -> JSONResponse:
    """An error response, ``{"error": message}``; 503 gets ``Retry-After: seconds``."""
    headers = {"Retry-After": str(seconds)} if status == 503 else None
    return JSONResponse({"error": message}, status_code=status, headers=headers)


class TooLarge(Exception):
    """A request is larger than allowed."""


def parse_origin(text: str) -> str:
    """Normalizes an origin to the form that browsers send.

    Args:
      text: ``scheme://host``, with a port unless it is the scheme's default; ``*`` for any.

    Raises:
      UserError: it is malformed.
    """
    if text == "*":
        return text
    parts = _ORIGIN.fullmatch(text.lower())
    if parts is None:
        raise UserError(
            f"--allow_origin={text} must be an origin such as https://example.org or "
            "http://localhost:3000, without a path, or * for any page"
        )
    scheme, host, port = parts.groups(default="")
    return f"{scheme}://{host}{'' if port == _DEFAULT_PORTS[scheme] else port}"


def allowed_hosts(address: str, host: str, more: Sequence[str]) -> list[str] | None:
    """The accepted values of ``Host``; None for any.

    A server on a loopback address is reached from this machine only, under a few names. The names
    of any other server are known to its user alone.

    Args:
      address: the address listened on.
      host: the value of --host.
      more: further names, ``*`` for any.

    Raises:
      UserError: a name is malformed.
    """
    if "*" in more or not (more or ipaddress.ip_address(address).is_loopback):
        return None
    found = list(_LOOPBACK)
    for text in (host, *more):
        name = _host_name(f"[{text}]" if text.count(":") > 1 and text[0] != "[" else text)
        if name is None:
            raise UserError(f"--allow_host={text} must be a name or an address, or * for any")
        found.append(name)
    return list(dict.fromkeys(found))


def _host_name(text: str) -> str | None:
    """The lower-case name in a ``Host`` header without its port; None if malformed."""
    try:
        found = urllib.parse.urlsplit(f"//{text}").hostname
    except ValueError:
        return None
    if not found:
        return None
    return f"[{found}]" if ":" in found else found.removesuffix(".")


class Cors(CORSMiddleware):
    """CORS for the allowed origins, and ``X-Content-Type-Options: nosniff`` on every response."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_RESPONSE_HEADERS,
            allow_private_network=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Adds the headers."""

        async def nosniff(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await super().__call__(scope, receive, nosniff)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answers a preflight request; 403 for other origins."""
        origin = request_headers["origin"]
        if not self.is_allowed_origin(origin):
            return problem(403, _foreign(origin))
        return super().preflight_response(request_headers)


class HostCheck:
    """Rejects unknown ``Host`` names and requests sent by pages of other sites."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None, origins: Collection[str]):
        self._app, self._hosts, self._origins = app, hosts, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or rejects it with 403."""
        refusal = None
        if scope["type"] == "http":
            refusal = self._refusal(scope["method"], Headers(scope=scope))
        app = self._app if refusal is None else problem(403, refusal)
        await app(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> str | None:
        # Every browser sends Host; HTTP/1.0 clients may not.
        host = headers.get("host", "")
        if host and self._hosts is not None and _host_name(host) not in self._hosts:
            return (
                f"{host[:100]!a} is not a name of this server; use one of "
                f"{', '.join(self._hosts)}, or start it with --allow_host and that name"
            )
        origin = headers.get("origin")
        if method in _SAFE_METHODS or "*" in self._origins or origin in self._origins:
            return None
        site = headers.get("sec-fetch-site")
        if site is not None:
            foreign = site not in ("same-origin", "none")
        else:
            foreign = origin is not None and origin.partition("://")[2] != host.lower()
        return _foreign(origin or "of another site") if foreign else None


def _foreign(origin: str) -> str:
    return (
        f"the page {origin[:100]!a} may not use this server; start it with --allow_origin and the "
        "page's origin"
    )


class Metrics:
    """Prometheus metrics of the server."""

    def __init__(self, service: Service, *, dropped_lines: Callable[[], float]) -> None:
        """Registers the metrics; ``dropped_lines`` counts log lines that were not written."""
        self._registry = CollectorRegistry()
        options: dict[str, Any] = {"namespace": "warp_translate", "registry": self._registry}
        self._requests = Counter(
            "requests", "Requests by route and status.", ["path", "status"], **options
        )
        self._seconds = Histogram(
            "request_seconds", "Duration of requests by route.", ["path"], **options
        )

        def gauge(name: str, text: str, value: Callable[[], float]) -> None:
            Gauge(name, text, **options).set_function(value)

        gauge("waiting", "Requests in the queue.", lambda: service.batcher.waiting)
        gauge("generators", "Served generators.", lambda: len(service.snapshot().engines))
        gauge("broken_bundles", "Unusable bundles.", lambda: len(service.snapshot().problems))
        gauge("dropped_log_lines", "Log lines that were not written.", dropped_lines)

    def observe(self, path: str, status: int, seconds: float) -> None:
        """Counts a request by its route, status and duration."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class Access:
    """Checks the API key, limits the body, and measures and logs every request."""

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
        """Takes the options of `server.build`; ``open_paths`` need no key."""
        self._app = app
        self._metrics = metrics
        self._open = open_paths
        self._most = most_bytes
        self._key = api_key.encode() if api_key is not None else None
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or rejects it, and logs it."""
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
            self._record(scope, status, time.perf_counter() - begin)

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
        message = f"the request has more than {self._most} bytes; send a smaller image"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most:
            await problem(413, message)(scope, receive, send)
            return
        got = 0

        async def counted() -> Message:
            # Content-Length may be missing or wrong.
            nonlocal got
            part = await receive()
            got += len(part.get("body", b""))
            if got > self._most:
                raise TooLarge(message)
            return part

        await self._app(scope, counted, send)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # The route, not the path: labels must be few.
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
                **scope.get("state", {}).get("log", {}),
            }
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()
