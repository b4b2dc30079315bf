"""The service of ``warp-translate serve`` as a Ray Serve application: replicas on many machines.

    serve run launch.ray.serve_app:app bundles=bundles replicas=2
    RAY_AUTH_MODE=token serve deploy launch/ray/serve.yaml

Every replica holds the registry, the batcher and the application of the package, and answers what
``warp-translate serve`` answers. Bundles that are added or replaced are picked up by each of them.
"""

import functools
import os
from typing import Any

import click
import pydantic
from fastapi import FastAPI
from ray import serve

from warp_translate.cli import status
from warp_translate.cli.serve import KEY_VARIABLE
from warp_translate.errors import UserError
from warp_translate.serving import footprint, server
from warp_translate.serving.batcher import Batcher
from warp_translate.serving.engine import Backend
from warp_translate.serving.registry import Registry, open_bundle
from warp_translate.serving.service import Service

# What a replica takes beyond its limit of translations, to answer with 503 and to say how it is.
_MORE_REQUESTS = 16


class ArgumentMistake(UserError, click.ClickException):
    """A mistake in the arguments; Ray's command line, too, makes one line and a status of it."""

    exit_code = status.USER_ERROR


class Options(pydantic.BaseModel, extra="forbid", frozen=True):
    """The arguments of the application; where they are flags of ``serve`` too, the defaults agree.

    Attributes:
      bundles: the folder of bundles. Every node sees it under this name.
      replicas: how many answer; the least of them where `most_replicas` is given.
      most_replicas: if given, replicas are added and removed as there are requests.
      ongoing: requests for each replica that are aimed at then.
      cpus: of a replica: what it reserves, and most threads of a translation in ONNX Runtime.
      gpus: of a replica. An engine runs on one, and jax takes its memory, so it is not shared.
      engine: what runs the bundles, see `open_bundle`.
      batch: most images that are translated at once.
      budget_ms: what a translation may take where the request names no factor.
      most_megabytes: largest request.
      most_megapixels: largest image.
      most_memory: gigabytes of memory that a replica may take, see ``serve --help``.
      most_requests: small requests in work and waiting in a replica, together, and as many
        large ones.
      most_seconds: what a request may take to come, and to wait.
    """

    bundles: str
    replicas: int = pydantic.Field(1, ge=1)
    most_replicas: int | None = pydantic.Field(None, ge=1)
    ongoing: float = pydantic.Field(2.0, gt=0)
    cpus: int = pydantic.Field(1, ge=1)
    gpus: int = pydantic.Field(0, ge=0, le=1)
    engine: Backend = "auto"
    batch: int = pydantic.Field(8, ge=1)
    budget_ms: float = pydantic.Field(200.0, gt=0)
    most_megabytes: float = pydantic.Field(32.0, gt=0)
    most_megapixels: float = pydantic.Field(16.0, gt=0)
    most_memory: float | None = pydantic.Field(None, gt=0)
    most_requests: int = pydantic.Field(64, ge=1)
    most_seconds: float = pydantic.Field(60.0, gt=0)


@serve.ingress()
class Translator:
    """A replica. Ray Serve gives it the requests, asks it how it is, and lets it finish."""

    def __init__(self, options: Options) -> None:
        """Loads the bundles.

        Args:
          options: what the application was built with.

        Raises:
          UserError: the folder cannot be read on this node.
        """
        self._options = options
        registry = Registry(
            options.bundles,
            functools.partial(open_bundle, backend=options.engine, threads=options.cpus),
        )
        registry.scan()
        self._service = Service(
            registry,
            Batcher(most_waiting=options.most_requests, batch=options.batch),
            budget_milliseconds=options.budget_ms,
            most_pixels=int(1e6 * options.most_megapixels),
            seconds=options.most_seconds,
            cores=options.cpus,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application. Its end, which waits for what was taken, is the replica's."""
        return server.build(
            self._service,
            most_bytes=int(1e6 * self._options.most_megabytes),
            most_requests=self._options.most_requests,
            memory=footprint.room(self._options.most_memory),
            read_seconds=self._options.most_seconds,
            api_key=os.environ.get(KEY_VARIABLE) or None,
        )

    def check_health(self) -> None:
        """Raises if nothing is translated any more: the replica is replaced then."""
        if not self._service.batcher.alive:
            raise RuntimeError("the thread that translates has ended")


def app(arguments: dict[str, Any]) -> serve.Application:
    """Builds the application.

    Args:
      arguments: see `Options`; text, as a command line gives it, is converted. The API key is that
        of the environment, as with ``warp-translate serve``, and is handed to the replicas.

    Raises:
      ArgumentMistake: an argument is unknown, missing or wrong.
    """
    options = _check(arguments)
    actor: dict[str, Any] = {"num_cpus": options.cpus, "num_gpus": options.gpus}
    if key := os.environ.get(KEY_VARIABLE):
        # Replicas have the environment of their node and not of whoever started the application:
        # they would be open to everybody.
        actor["runtime_env"] = {"env_vars": {KEY_VARIABLE: key}}
    many: dict[str, Any] = {"num_replicas": options.replicas}
    if options.most_replicas is not None:
        many = {
            "autoscaling_config": {
                "min_replicas": options.replicas,
                "max_replicas": options.most_replicas,
                "target_ongoing_requests": options.ongoing,
            }
        }
    deployment = serve.deployment(
        name="translator",
        ray_actor_options=actor,
        max_ongoing_requests=2 * options.most_requests + _MORE_REQUESTS,
        graceful_shutdown_timeout_s=options.most_seconds + 10,
        logging_config={"enable_access_log": False},  # The application has its own lines.
        **many,
    )(Translator)
    return deployment.bind(options)


def _check(arguments: dict[str, Any]) -> Options:
    try:
        options = Options.model_validate(arguments)
    except pydantic.ValidationError as error:
        raise ArgumentMistake("; ".join(map(_line, error.errors()))) from None
    if options.most_replicas is not None and options.most_replicas < options.replicas:
        raise ArgumentMistake(
            f"most_replicas={options.most_replicas} must be at least replicas={options.replicas}"
        )
    if options.gpus and options.engine != "jax":
        raise ArgumentMistake(
            f"gpus={options.gpus} needs engine=jax: ONNX Runtime translates on CPUs"
        )
    # The replicas run elsewhere.
    folder = os.path.abspath(options.bundles)
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise ArgumentMistake(
            f"bundles={folder} cannot be read ({error.strerror}): give a folder of bundles that "
            "every node sees"
        ) from error
    return options.model_copy(update={"bundles": folder})


def _line(error: Any) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{name} is missing: give {name}=..."
    if error["type"] == "extra_forbidden":
        return f"{name} is unknown: use {', '.join(Options.model_fields)}"
    return f"{name}={error['input']}: {error['msg'][:1].lower()}{error['msg'][1:]}"
