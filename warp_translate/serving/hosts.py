"""Which web pages may use the server: names of hosts, origins, and what their browsers are told.

A page of any site can have its visitors' browsers send requests to servers that only they reach,
such as one on their own machine. It may not read the answers, unless its own name is made to lead
to that server (DNS rebinding); then the ``Host`` of the request is that name.
"""

import ipaddress
import urllib.parse
from collections.abc import Collection, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warp_translate.errors import UserError
from warp_translate.serving.middleware import problem

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_READS = ("GET", "HEAD", "OPTIONS")
_SENT = ("Authorization", "X-API-Key", "Inference-Header-Content-Length")
_READ = (
    *("X-Bundle", "X-Source", "X-Target", "X-Factor", "X-Recognised", "X-Width", "X-Height"),
    *("X-Milliseconds", "Retry-After", "Inference-Header-Content-Length"),
)


def origin(text: str) -> str:
    """An origin as browsers write it.

    Args:
      text: ``scheme://host``, with a port where it is not the scheme's own; ``*`` for any.

    Raises:
      UserError: it is none.
    """
    if text == "*":
        return text
    try:
        parts = urllib.parse.urlsplit(text.lower())
        port, host = parts.port, parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or text.count("/") != 2 or "@" in text:
        raise UserError(
            f"--allow_origin={text} must be an origin such as https://example.org or "
            "http://localhost:3000, without a path, or * for any page"
        )
    if port == {"http": 80, "https": 443}[parts.scheme]:
        port = None
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" + (f":{port}" if port is not None else "")


def allowed(address: str, host: str, more: Sequence[str]) -> list[str] | None:
    """What the ``Host`` of a request may be; None for anything.

    Only the machine itself reaches a server on a loopback address, and calls it by one of a few
    names. What others call a server, nobody but its user knows.

    Args:
      address: that is listened on.
      host: the name or address that was asked for.
      more: further names, ``*`` for any.

    Raises:
      UserError: one of them is no name.
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
    """The name in a ``Host`` header in lower case and without its port; None if it has none."""
    try:
        found = urllib.parse.urlsplit(f"//{text}").hostname
    except ValueError:
        return None
    if not found:
        return None
    return f"[{found}]" if ":" in found else found.removesuffix(".")


class Pages(CORSMiddleware):
    """What browsers are told: which other sites' pages may ask and read, and to guess no types."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        """Remembers the origins.

        Args:
          app: answers.
          origins: of the pages that may, as `origin` gives them.
        """
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=_SENT,
            expose_headers=_READ,
            allow_private_network=True,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Adds to every answer that its type is what it says."""

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await super().__call__(scope, receive, told)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answers a browser that asks whether a page may send a request.

        Args:
          request_headers: of its question.
        """
        asking = request_headers["origin"]
        if not self.is_allowed_origin(asking):
            return problem(403, _foreign(asking))
        return super().preflight_response(request_headers)


class Guard:
    """Refuses requests under foreign names, and those that pages of other sites send."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str] | None, origins: Collection[str]):
        """Remembers what may pass.

        Args:
          app: answers what may pass.
          hosts: names and addresses that a request's ``Host`` may have; None for any.
          origins: of the pages of other sites that may send requests.
        """
        self._app, self._hosts, self._origins = app, hosts, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        words = None
        if scope["type"] == "http":
            words = self._refusal(scope["method"], Headers(scope=scope))
        answer = self._app if words is None else problem(403, words)
        await answer(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> str | None:
        # What no browser sends, such as HTTP/1.0 without a Host, no page has sent.
        host = headers.get("host", "")
        if host and self._hosts is not None and _host_name(host) not in self._hosts:
            return (
                f"this server is not called {host[:100]!a}; ask it as one of "
                f"{', '.join(self._hosts)}, or start it with --allow_host and that name"
            )
        asking = headers.get("origin")
        if method in _READS or "*" in self._origins or asking in self._origins:
            return None
        site = headers.get("sec-fetch-site")
        if site is not None:
            foreign = site not in ("same-origin", "none")
        else:
            foreign = asking is not None and asking.partition("://")[2] != host.lower()
        return _foreign(asking or "of another site") if foreign else None


def _foreign(asking: str) -> str:
    return (
        f"the page {asking[:100]!a} may not use this server; start it with --allow_origin and the "
        "page's origin"
    )
