"""The one place that maps a step over devices."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from warp_translate.errors import UserError
from warp_translate.types import Array, PyTree

AXIS_NAME = "data"


def mean_over_devices(tree: PyTree, axis_name: str | None) -> PyTree:
    """Averages every leaf over the mapped axis; as it is where there is none."""
    return tree if axis_name is None else lax.pmean(tree, axis_name)


def device_index(axis_name: str | None) -> Array | int:
    """This device's place on the mapped axis; 0 where there is none."""
    return 0 if axis_name is None else lax.axis_index(axis_name)


def expand(state: PyTree, axes: PyTree, count: int) -> PyTree:
    """Gives every device a part of its own of what each is to have for itself.

    Args:
      state: the state as the step sees it on one device.
      axes: which part of the state each device has for itself: a prefix of the tree with 0 there
        and None where the devices share one value.
      count: number of devices.

    Returns:
      The state with ``[count, ...]`` copies of the leaves at 0, host arrays or on one device.
    """
    return _map_by_axes(
        lambda leaf: jnp.broadcast_to(leaf[None], (count, *leaf.shape)),
        lambda leaf: leaf,
        axes,
        state,
    )


def replicate(
    tree: PyTree, axes: PyTree = None, devices: Sequence[jax.Device] | None = None
) -> PyTree:
    """Places the tree on the devices: a copy on each, without a leading device axis.

    Args:
      tree: host arrays or arrays of one device.
      axes: see `expand`; what is 0 there has a leading device axis, and each device gets its part.
      devices: where to; all local devices by default.

    Returns:
      The same tree of arrays that lie on all the devices.
    """
    devices = jax.local_devices() if devices is None else devices
    mesh = Mesh(np.array(devices), (AXIS_NAME,))
    shared, parted = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), (AXIS_NAME,)))
    return _map_by_axes(
        lambda leaf: jax.device_put(leaf, parted),
        lambda leaf: jax.device_put(leaf, shared),
        axes,
        tree,
    )


def unreplicate(tree: PyTree) -> PyTree:
    """The first device's copy of what is shared, and all parts of what is not."""
    # Indexing a replicated array with [0] would run a computation for every leaf.
    return jax.tree.map(
        lambda leaf: (
            leaf.addressable_shards[0].data if leaf.is_fully_replicated else jax.device_get(leaf)
        ),
        tree,
    )


def _map_by_axes(
    parted: Callable[[Any], Any], shared: Callable[[Any], Any], axes: PyTree, tree: PyTree
) -> PyTree:
    return jax.tree.map(
        lambda axis, part: jax.tree.map(shared if axis is None else parted, part),
        axes,
        tree,
        is_leaf=lambda axis: axis is None,
    )


def shard_batch(batch: Mapping[str, Any], devices: int) -> dict[str, np.ndarray]:
    """Splits the examples of a batch over devices.

    Args:
      batch: arrays ``[B, ...]``.
      devices: number of devices; divides ``B``.

    Returns:
      Views ``[devices, B / devices, ...]``.

    Raises:
      UserError: the devices do not divide the batch.
    """
    for name, array in batch.items():
        if len(array) % devices:
            raise UserError(
                f"a batch of {len(array)} ({name}) cannot be split over {devices} devices: set "
                "config.training.batch_size to a multiple of the number of devices"
            )
    return {
        name: array.reshape(devices, len(array) // devices, *array.shape[1:])
        for name, array in batch.items()
    }


def pmap_step(
    step: Callable[..., tuple[PyTree, PyTree]],
    axes: PyTree = None,
    devices: Sequence[jax.Device] | None = None,
) -> Callable[[PyTree, Any, Array], tuple[PyTree, PyTree]]:
    """Maps ``step(state, batch, root, axis_name=...)`` over devices with ``jax.pmap``.

    The state goes in and out as `replicate` places it and is donated: the one that was handed in
    must not be used again. The step itself averages its gradients over ``axis_name``; replicas that
    it lets diverge are not noticed here.

    Args:
      step: returns ``(state, metrics)``.
      axes: which part of the state each device has for itself, see `expand`.
      devices: all local devices by default.

    Returns:
      A function of the placed state, of a batch ``[devices, B / devices, ...]`` and of the run's
      root key.
    """
    return jax.pmap(
        functools.partial(step, axis_name=AXIS_NAME),
        axis_name=AXIS_NAME,
        in_axes=(axes, 0, None),
        out_axes=(axes, None),
        donate_argnums=0,
        devices=devices,
    )
