"""``warp-translate serve FOLDER``: answers translations over HTTP with the bundles of a folder."""

import contextlib
import functools
import logging
import math
import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TextIO, cast

from absl import flags
from absl import logging as absl_logging

from warp_translate import storage
from warp_translate.cli import bundle_flags, program
from warp_translate.errors import UserError
from warp_translate.serving import footprint
from warp_translate.serving.batcher import Batcher
from warp_translate.serving.log_stream import LogStream
from warp_translate.serving.registry import Registry, open_bundle
from warp_translate.serving.service import Service

KEY_VARIABLE = "WARP_TRANSLATE_API_KEY"

_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 for everybody.")
_ALLOW_HOST = flags.DEFINE_list(
    "allow_host",
    None,
    "Further names that requests may ask for in their Host header, such as that of a proxy; * for "
    "any. On 127.0.0.1 these, localhost and --host are allowed; elsewhere any, without this flag.",
)
_ALLOW_ORIGIN = flags.DEFINE_list(
    "allow_origin",
    None,
    "Origins of web pages elsewhere that may use the server, such as https://example.org; * for "
    "any page.",
)
_PORT = flags.DEFINE_integer("port", 8000, "Port to listen on; 0 for any that is free.")
_MEGABYTES = flags.DEFINE_float("most_megabytes", 32.0, "Largest request.")
_MEGAPIXELS = flags.DEFINE_float("most_megapixels", 16.0, "Largest image.")
_MEMORY = flags.DEFINE_float(
    "most_memory",
    None,
    "Gigabytes of memory that the server may take; by default half of the machine's, or three "
    "quarters of the container's if that is less.",
)
_QUEUE = flags.DEFINE_integer(
    "most_requests", 64, "Small requests in work and waiting, together, and as many large ones."
)
_SECONDS = flags.DEFINE_float("most_seconds", 60.0, "What a request may take to come, and to wait.")


def main(argv: Sequence[str]) -> None:
    """Serves until it is told to stop, and then finishes what it took."""
    if len(argv) != 2:
        raise UserError("serve needs one folder of bundles: warp-translate serve bundles")
    for flag in (_MEGABYTES, _MEGAPIXELS, _MEMORY, _QUEUE, _SECONDS):
        if flag.value is not None and not 0 < flag.value < math.inf:
            raise UserError(f"--{flag.name}={flag.value} must be a number above 0")
    if not 0 <= _PORT.value < 65536:
        raise UserError(f"--port={_PORT.value} must be within 0 and 65535")
    import uvicorn

    from warp_translate.serving import middleware, server
    from warp_translate.serving.connection import Connection

    origins = [middleware.parse_origin(each) for each in _ALLOW_ORIGIN.value or ()]

    # Lines that whoever sends a malformed picture or form could fill the log with.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("python_multipart").setLevel(logging.ERROR)

    folder = storage.disk_path(argv[1], "FOLDER")
    registry = Registry(folder, functools.partial(open_bundle, backend=bundle_flags.backend()))
    served = registry.scan()
    for (source, target), engine in sorted(served.engines.items()):
        print(f"{source} to {target}: {engine.bundle.folder}", file=sys.stderr)
    if served.classifier is not None:
        told = served.classifier.bundle
        print(f"{' or '.join(told.domains)}: {told.folder}", file=sys.stderr)
    if not served.engines:
        print(f"{argv[1]} holds no bundle yet; what comes is picked up", file=sys.stderr)
    service = Service(
        registry,
        Batcher(most_waiting=_QUEUE.value, batch=bundle_flags.batch()),
        budget_milliseconds=bundle_flags.budget_milliseconds(),
        most_pixels=int(1e6 * _MEGAPIXELS.value),
        seconds=_SECONDS.value,
    )
    with _listen(_HOST.value, _PORT.value) as listener, _log() as log:
        address, port = listener.getsockname()[:2]
        app = server.build(
            service,
            most_bytes=int(1e6 * _MEGABYTES.value),
            most_requests=_QUEUE.value,
            memory=footprint.room(_MEMORY.value),
            read_seconds=_SECONDS.value,
            api_key=os.environ.get(KEY_VARIABLE) or None,
            hosts=middleware.allowed_hosts(address, _HOST.value, _ALLOW_HOST.value or ()),
            origins=origins,
            log=log,
        )
        host = f"[{address}]" if ":" in address else address
        print(f"listening on http://{host}:{port}, stop with Ctrl-C", file=log)
        # uvicorn stops on SIGTERM and SIGINT when what runs is done, and then raises the signal
        # again, which is to do nothing more.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        settings = uvicorn.Config(
            app,
            http=functools.partial(Connection, seconds=_SECONDS.value),  # type: ignore[arg-type]
            ws="none",
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=int(_SECONDS.value) + 10,
        )
        uvicorn.Server(settings).run(sockets=[listener])
        print("stopped", file=log)


@contextlib.contextmanager
def _log() -> Iterator[TextIO]:
    """Has everything that Python writes to stderr written by a thread, which alone may wait."""
    log = LogStream(None if sys.stderr is None else sys.stderr.fileno())
    handler = absl_logging.get_absl_handler().python_handler  # Of all loggers that have no other.
    before = handler.setStream(log)
    try:
        with contextlib.redirect_stderr(log):
            yield cast(TextIO, log)
    finally:
        handler.setStream(before)
        log.end()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise UserError(
            f"--host={host} --port={port} cannot be listened on ({error.strerror or error}): "
            "choose others"
        ) from error


def run() -> None:
    """Entry point of the command."""
    program.run(main, takes=(bundle_flags.ENGINE, bundle_flags.BATCH, bundle_flags.BUDGET))


if __name__ == "__main__":
    run()
