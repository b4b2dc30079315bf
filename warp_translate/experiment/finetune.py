"""Fine-tuning: initial parameters from another run or a bundle.

Parameters do not depend on size, factor or domains, so these may differ. Taken over are the moving
averages of the trained networks and, from a run of the same kind, discriminators of equal shape.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import traverse_util

from warp_translate import storage
from warp_translate.errors import UserError
from warp_translate.experiment import restore
from warp_translate.serving import bundle
from warp_translate.serving.engine import load_parameters
from warp_translate.storage import split_folders
from warp_translate.training.base import Training
from warp_translate.training.checkpoint import Checkpointer
from warp_translate.training.state import DiscriminatorState
from warp_translate.types import PyTree

_FIELD = "config.finetune.source"
_DIRECTIONS = ("a_to_b", "b_to_a")


def begin(
    state: PyTree, training: Training, config: ml_collections.ConfigDict, say: Callable[[str], None]
) -> PyTree:
    """Replaces parameters of an initial state according to ``config.finetune``.

    Args:
      state: the initial state.
      training: its training.
      config: the configuration.
      say: called with one line about the source.

    Raises:
      UserError: the source holds no parameters, or they do not fit.
    """
    settings = config.finetune
    if not settings.source:
        return state
    places = split_folders(settings.source.split(","))
    if len(places) not in (1, len(training.results)):
        raise UserError(
            f"{_FIELD}={settings.source} names {len(places)} folders: give one for each of "
            f"{', '.join(training.results)}, or one run that has trained them"
        )
    if len(places) == 1 and not _is_bundle(places[0]) and not _direction(places[0])[1]:
        return _from_run(state, training, config, places[0], say)
    if len(places) < len(training.results):
        raise UserError(
            f"{_FIELD}={settings.source} is one generator, and {len(training.results)} are "
            f"trained: name one for each of {', '.join(training.results)}, with a comma between"
        )
    networks = {}
    for name, place in zip(training.results, places, strict=True):
        found = _from_bundle(place) if _is_bundle(place) else _one_of_run(place, settings.step)
        networks[name] = _placed(getattr(state, name), found, name, place)
    say(f"beginning with {' and '.join(places)}")
    return state.replace(**networks)


def check(config: ml_collections.ConfigDict) -> None:
    """Checks that the sources exist.

    Raises:
      UserError: one does not.
    """
    for place in split_folders(config.finetune.source.split(",")):
        folder = _direction(place)[0]
        if not storage.to_path(folder).is_dir():
            raise UserError(
                f"{_FIELD}={folder} does not exist: give the --workdir of a run, or a bundle"
            )


def _is_bundle(place: str) -> bool:
    return (storage.to_path(place) / bundle.PARAMETERS).is_file()


def _direction(place: str) -> tuple[str, str]:
    """Splits ``FOLDER:DIRECTION``; the direction may be ""."""
    folder, colon, direction = place.rpartition(":")
    return (folder, direction) if colon and direction in _DIRECTIONS else (place, "")


def _from_run(
    state: PyTree,
    training: Training,
    config: ml_collections.ConfigDict,
    workdir: str,
    say: Callable[[str], None],
) -> PyTree:
    """Takes all networks from a run of the same kind."""
    with restore.open_run_in(workdir) as run:
        kind, its_kind = config.method.training, run.config.method.training
        if its_kind != kind:
            raise UserError(
                f"{_FIELD}={workdir} has trained {its_kind}, not {kind}: give "
                f"{', '.join(training.results)} as {workdir}:DIRECTION, or bundles, with commas "
                "between"
            )
        step = run.step(_which(config.finetune.step))
        taken = run.restore(step).params
        networks = {
            name: _placed(getattr(state, name), taken[name], name, workdir)
            for name in training.results
        }
        judges, others = _discriminators(state, run.checkpoints, step)
    line = f"beginning with step {step} of {workdir}"
    if others:
        line += f"; {', '.join(others)} start at random, as their shapes differ"
    say(line)
    return state.replace(**networks, **judges)


def _discriminators(
    state: PyTree, checkpoints: Checkpointer, step: int
) -> tuple[dict[str, DiscriminatorState], list[str]]:
    """Restores the discriminators of equal shape; returns them and the names of the others."""
    found, others = {}, []
    for field in dataclasses.fields(state):
        own: Any = getattr(state, field.name)
        if not isinstance(own, DiscriminatorState):
            continue
        wanted = {"params": own.params, "spectral": own.spectral}
        wanted = {name: tree for name, tree in wanted.items() if jax.tree.leaves(tree)}
        try:
            part = checkpoints.restore_part(step, {field.name: wanted})
        except UserError:  # Of other shapes.
            others.append(field.name)
            continue
        found[field.name] = dataclasses.replace(own, **jax.tree.map(jnp.asarray, part[field.name]))
    return found, others


def _one_of_run(place: str, which: str) -> PyTree:
    """The parameters of one network of a run, ``FOLDER`` or ``FOLDER:a_to_b``."""
    folder, direction = _direction(place)
    with restore.open_run_in(folder) as run:
        results = run.training.results
        name = direction or results[0]
        if name not in results or (len(results) > 1 and not direction):
            raise UserError(
                f"{_FIELD}: {folder} has trained {', '.join(results)}; "
                + (f"name one, {folder}:{results[0]}" if len(results) > 1 else f"give {folder}")
            )
        return run.restore(run.step(_which(which))).params[name]


def _from_bundle(folder: str) -> PyTree:
    flat = load_parameters(bundle.read_any(storage.local_copy(folder)))
    return traverse_util.unflatten_dict(flat, sep="/")


def _which(text: str) -> Any:
    return int(text) if text.isdigit() else text


def _placed(state: Any, params: PyTree, name: str, place: str) -> Any:
    """Replaces the parameters of a network; keeps its dtypes."""
    own, other = (
        {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()}
        for tree in (state.params, params)
    )
    for path in sorted(own.keys() | other.keys()):
        if own.get(path) != other.get(path):
            raise UserError(
                f"{_FIELD}={place} does not fit {name}: {path} is {other.get(path, 'missing')} "
                f"there and {own.get(path, 'missing')} here; use the same width, blocks and head"
            )
    placed = jax.tree.map(
        lambda leaf, own_leaf: jnp.asarray(np.asarray(leaf), own_leaf.dtype), params, state.params
    )
    # The average is a copy: the state is donated, and no buffer can be donated twice.
    return state.replace(params=placed, ema=jax.tree.map(jnp.array, placed))
