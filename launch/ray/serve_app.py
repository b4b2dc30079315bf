"""``warp-translate serve`` as a Ray Serve application with replicas on many machines.

    serve run launch.ray.serve_app:app bundles=bundles replicas=2
    RAY_AUTH_MODE=token serve deploy launch/ray/serve.yaml

Every replica holds the registry, the batcher and the HTTP application, and answers like
``warp-translate serve``. Each picks up added and replaced bundles.
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

# Requests that a replica accepts beyond its limit, to answer them with 503 and health checks.
_MORE_REQUESTS = 16


class ArgumentMistake(UserError, click.ClickException):
    """An error in the arguments; Ray's command line prints one line and exits with status 2."""

    exit_code = status.USER_ERROR


class Options(pydantic.BaseModel, extra="forbid", frozen=True):
    """Arguments of the application; those that are flags of ``serve`` have the same defaults."""

    bundles: str  # Folder of bundles, under the same path on every node.
    replicas: int = pydantic.Field(1, ge=1)  # The minimum if most_replicas is given.
    most_replicas: int | None = pydantic.Field(None, ge=1)  # Enables autoscaling.
    ongoing: float = pydantic.Field(2.0, gt=0)  # Target of requests per replica then.
    cpus: int = pydantic.Field(1, ge=1)  # Per replica, reserved and used by ONNX Runtime.
    gpus: int = pydantic.Field(0, ge=0, le=1)  # Per replica. jax takes all of its memory.
    engine: Backend = "auto"
    batch: int = pydantic.Field(8, ge=1)
    budget_ms: float = pydantic.Field(200.0, gt=0)
    most_megabytes: float = pydantic.Field(32.0, gt=0)
    most_megapixels: float = pydantic.Field(16.0, gt=0)
    most_memory: float | None = pydantic.Field(None, gt=0)  # Per replica.
    most_requests: int = pydantic.Field(64, ge=1)  # Per replica.
    most_seconds: float = pydantic.Field(60.0, gt=0)


@serve.ingress()
class Translator:
    """A replica."""

    def __init__(self, options: Options) -> None:
        """Loads the bundles.

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
        """Builds the application; Ray Serve shuts it down with the replica."""
        return server.build(
            self._service,
            most_bytes=int(1e6 * self._options.most_megabytes),
            most_requests=self._options.most_requests,
            memory=footprint.room(self._options.most_memory),
            read_seconds=self._options.most_seconds,
            api_key=os.environ.get(KEY_VARIABLE) or None,
        )

    def check_health(self) -> None:
        """Raises if the batcher is dead, so that Ray Serve replaces the replica."""
        if not self._service.batcher.alive:
            raise RuntimeError("the batcher's thread has ended")


def app(arguments: dict[str, Any]) -> serve.Application:
    """Builds the application.

    Args:
      arguments: see `Options`; strings, as from a command line, are converted. The replicas get the
        API key from this process's environment.

    Raises:
      ArgumentMistake: an argument is unknown, missing or invalid.
    """
    options = _check(arguments)
    actor: dict[str, Any] = {"num_cpus": options.cpus, "num_gpus": options.gpus}
    if key := os.environ.get(KEY_VARIABLE):
        # Replicas inherit their node's environment, and would run without a key.
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
        logging_config={"enable_access_log": False},  # The application logs its requests.
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
    # An absolute path, since the replicas run in other folders.
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
