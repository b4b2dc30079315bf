"""Maps a training step over the devices of one or several processes."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from warp_translate.errors import UserError
from warp_translate.settings import check, setting
from warp_translate.types import Array, PyTree

AXIS_NAME = "data"

MappingKind = Literal["pmap", "shard_map"]
"""How a step is mapped over the devices; both give the same bits."""

Step = Callable[..., tuple[PyTree, PyTree]]
"""``step(state, batch, root, axis_name=...)`` returns the next state and metrics."""

_SHARED, _OWN = PartitionSpec(), PartitionSpec(AXIS_NAME)


def mean_over_devices(tree: PyTree, axis_name: str | None) -> PyTree:
    """Averages every leaf over the mapped axis, if there is one."""
    return tree if axis_name is None else lax.pmean(tree, axis_name)


def device_index(axis_name: str | None) -> Array | int:
    """This device's index on the mapped axis, 0 if there is none."""
    return 0 if axis_name is None else lax.axis_index(axis_name)


def all_devices() -> list[jax.Device]:
    """The devices of all processes, ordered by process.

    Device ``d`` of process ``p`` with ``n`` local devices holds part ``p * n + d`` of a batch.
    """
    return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))


@dataclasses.dataclass(frozen=True)
class Replicas:
    """The devices that train together, and the layout of a training state on them.

    A step sees the state of one device. Most of it is shared: every device holds a copy, and the
    step keeps the copies equal by averaging gradients over the axis. A part may be a device's own,
    such as its image pool.

    A placed state is a tree of `jax.Array`. With "shard_map" the arrays span the devices of all
    processes, and a device's own part has a leading axis over them. With "pmap" they span those of
    this process. `to_global` and `from_global` convert between the two without copying.

    Attributes:
      axes: which part of the state each device has for itself: a prefix of the state with 0 there
        and None where the devices share one value.
      devices: all of them, in the order of `all_devices`.
    """

    axes: PyTree
    devices: tuple[jax.Device, ...] = dataclasses.field(
        default_factory=lambda: tuple(all_devices())
    )
    mapping: MappingKind = setting(
        "pmap",
        "how a step is mapped over devices; both give the same bits",
        choices=MappingKind,
        name="training.parallel",
    )

    def __post_init__(self) -> None:
        check(self, "training")

    @property
    def count(self) -> int:
        """Number of devices of all processes."""
        return len(self.devices)

    @property
    def local_count(self) -> int:
        """Number of devices of this process."""
        return len(self._local_devices)

    def initial(self, state: PyTree) -> PyTree:
        """Places a state of one device on all devices; all processes must pass equal values."""

        def place(leaf: Any, spec: PartitionSpec) -> Array:
            value = np.asarray(leaf)
            shape = (self.count, *value.shape) if spec == _OWN else value.shape
            return jax.make_array_from_callback(
                shape,
                self._sharding(spec),
                lambda index: value[None] if spec == _OWN else value[index],
            )

        return self.from_global(self._map(place, state))

    def abstract(self, state: PyTree) -> PyTree:
        """Placed state over all processes, as ``jax.ShapeDtypeStruct`` with shardings.

        Args:
          state: of one device, arrays or shapes.
        """

        def shape(leaf: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
            lead = (self.count,) if spec == _OWN else ()
            return jax.ShapeDtypeStruct(
                (*lead, *leaf.shape), leaf.dtype, sharding=self._sharding(spec)
            )

        return self._map(shape, state)

    def from_global(self, state: PyTree) -> PyTree:
        """Converts arrays that span all processes to a placed state."""
        return self._respan(state, self._local_mesh) if self.mapping == "pmap" else state

    def to_global(self, state: PyTree) -> PyTree:
        """Converts a placed state to arrays that span all processes, for a checkpoint."""
        return self._respan(state, self._mesh) if self.mapping == "pmap" else state

    def place_batches(self, batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Splits the examples of one batch per step of a call over the devices.

        Args:
          batches: this process's parts, arrays ``[B, ...]`` by name, of equal shapes.

        Returns:
          The batch for the mapped step.

        Raises:
          UserError: the number of devices does not divide ``B``.
        """
        local = self.local_count
        placed = {}
        for name, first in batches[0].items():
            if len(first) % local:
                raise UserError(
                    f"a batch of {len(first)} ({name}) cannot be split over {local} devices: set "
                    "config.training.global_batch to a multiple of the number of devices"
                )
            several = len(batches) > 1
            array = np.stack([batch[name] for batch in batches]) if several else np.asarray(first)
            lead, rest = array.shape[:several], array.shape[1 + several :]
            array = array.reshape(*lead, local, len(first) // local, *rest)
            array = array.swapaxes(0, 1) if several else array
            if self.mapping == "shard_map":
                array = jax.make_array_from_process_local_data(self._sharding(_OWN), array)
            placed[name] = array
        return placed

    def abstract_batches(
        self, batch: Mapping[str, Any], count: int
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """Result of `place_batches` for "shard_map", as shapes, types and shardings.

        Args:
          batch: shapes ``[B, ...]`` of the batch of all processes.
          count: number of batches.
        """
        lead = (count,) if count > 1 else ()
        return {
            name: jax.ShapeDtypeStruct(
                (self.count, *lead, leaf.shape[0] // self.count, *leaf.shape[1:]),
                leaf.dtype,
                sharding=self._sharding(_OWN),
            )
            for name, leaf in batch.items()
        }

    def map(self, step: Step, *, steps_per_call: int = 1) -> "MappedStep":
        """Maps a step over the devices; the state is donated.

        Args:
          step: see `Step`; averages its gradients over ``axis_name`` itself.
          steps_per_call: steps of one call, scanned on the device; the metrics are the last step's.

        Returns:
          A function of the placed state, of the result of `place_batches` and of the root key.
        """
        return MappedStep(self, step, steps_per_call)

    def first_replica(self, tree: PyTree) -> PyTree:
        """This process's first copy of a shared part of a placed state, on one device."""
        # Indexing with [0] would run a computation for every leaf.
        return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, tree)

    def disagreements(self, state: PyTree) -> list[str]:
        """Paths of the shared leaves whose bits differ between devices, which jax does not check.

        Costs one pass over the shared part and a collective of one number a leaf.

        Args:
          state: a placed state.
        """
        (shared, _) = _split(jax.tree_util.tree_leaves_with_path(state), self._specs(state))
        differ = jax.device_get(self._differ(tuple(leaf for _, leaf in shared)))
        return [
            jax.tree_util.keystr(path, simple=True, separator="/")
            for (path, _), found in zip(shared, differ, strict=True)
            if found
        ]

    @functools.cached_property
    def _differ(self) -> Callable[[tuple[Array, ...]], Array]:
        def differ(shared: tuple[Array, ...]) -> Array:
            digests = jnp.stack([_digest(leaf) for leaf in shared])
            return lax.pmax(digests, AXIS_NAME) != lax.pmin(digests, AXIS_NAME)

        if self.mapping == "pmap":
            mapped = self._pmap(lambda shared, _: differ(shared), in_axes=(None, 0), out_axes=None)
            # pmap needs an argument that is mapped.
            return lambda shared: mapped(shared, np.zeros(self.local_count))
        return jax.jit(self._shard_map(differ, in_specs=(_SHARED,), out_specs=_SHARED))

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS_NAME,))

    @functools.cached_property
    def _local_devices(self) -> tuple[jax.Device, ...]:
        mine = jax.process_index()
        return tuple(device for device in self.devices if device.process_index == mine)

    @functools.cached_property
    def _local_mesh(self) -> Mesh:
        return Mesh(np.array(self._local_devices), (AXIS_NAME,))

    def _sharding(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self._mesh, spec)

    def _pmap(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        everything = list(self.devices) == jax.devices()
        return jax.pmap(
            function,
            axis_name=AXIS_NAME,
            devices=None if everything else list(self.devices),
            **options,
        )

    def _shard_map(
        self, function: Callable[..., Any], in_specs: Any, out_specs: Any
    ) -> Callable[..., Any]:
        # With check_vma the gradients of replicated parameters would be summed already, and the
        # step's own average too large by the number of devices.
        return jax.shard_map(
            function, mesh=self._mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def _specs(self, state: PyTree) -> list[PartitionSpec]:
        """The layout of each leaf of a state."""
        specs: list[PartitionSpec] = []
        jax.tree.map(
            lambda axis, part: specs.extend(
                [_SHARED if axis is None else _OWN] * len(jax.tree.leaves(part))
            ),
            self.axes,
            state,
            is_leaf=lambda axis: axis is None,
        )
        return specs

    def _map(self, function: Callable[[Any, PartitionSpec], Any], state: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(state)
        return jax.tree.unflatten(structure, map(function, leaves, self._specs(state)))

    def _respan(self, state: PyTree, mesh: Mesh) -> PyTree:
        """The same buffers as arrays over another mesh."""
        if jax.process_count() == 1:
            return state

        def respan(leaf: Array, spec: PartitionSpec) -> Array:
            shape = (mesh.size, *leaf.shape[1:]) if spec == _OWN else leaf.shape
            return jax.make_array_from_single_device_arrays(
                shape, NamedSharding(mesh, spec), [shard.data for shard in leaf.addressable_shards]
            )

        return self._map(respan, state)


class MappedStep:
    """A step on the devices, created by `Replicas.map`."""

    # The state is passed as leaves: pmap of several processes does not support axes by name.

    def __init__(self, replicas: Replicas, step: Step, steps_per_call: int) -> None:
        self._replicas = replicas
        self._step = _repeated(functools.partial(step, axis_name=AXIS_NAME), steps_per_call)
        self._structure: Any = None
        self._specs: list[PartitionSpec] = []
        self._mapped: Any = None

    def __call__(self, state: PyTree, batch: Any, root: Array) -> tuple[PyTree, PyTree]:
        """Runs the steps of one call."""
        shared, own, metrics = self._prepared(state)(*self._parted(state), batch, root)
        return self._joined(shared, own), metrics

    def compile(self, state: PyTree, batch: Any, root: Array) -> None:
        """Compiles for such arguments without running; a call then starts at once."""
        self._prepared(state).lower(*self._parted(state), batch, root).compile()

    def trace(self, state: PyTree, batch: Any, root: Any) -> Any:
        """Traces the call for abstract arguments of `Replicas`; "shard_map" only."""
        return self._prepared(state).trace(*self._parted(state), batch, root)

    def _prepared(self, state: PyTree) -> Any:
        if self._mapped is None:
            self._structure = jax.tree.structure(state)
            self._specs = self._replicas._specs(state)
            self._mapped = self._map()
        return self._mapped

    def _map(self) -> Any:
        replicas = self._replicas
        if replicas.mapping == "pmap":
            return replicas._pmap(
                self._on_leaves,
                in_axes=(None, 0, 0, None),
                out_axes=(None, 0, None),
                donate_argnums=(0, 1),
            )

        def on_parts(
            shared: tuple[Array, ...], own: tuple[Array, ...], batch: Any, root: Array
        ) -> tuple[tuple[Array, ...], tuple[Array, ...], PyTree]:
            # The leading axis of one, which pmap removes by itself.
            own, batch = jax.tree.map(lambda leaf: leaf[0], (own, batch))
            next_shared, next_own, metrics = self._on_leaves(shared, own, batch, root)
            return next_shared, tuple(leaf[None] for leaf in next_own), metrics

        return jax.jit(
            replicas._shard_map(
                on_parts,
                in_specs=(_SHARED, _OWN, _OWN, _SHARED),
                out_specs=(_SHARED, _OWN, _SHARED),
            ),
            donate_argnums=(0, 1),
        )

    def _on_leaves(
        self, shared: tuple[Array, ...], own: tuple[Array, ...], batch: Any, root: Array
    ) -> tuple[tuple[Array, ...], tuple[Array, ...], PyTree]:
        state, metrics = self._step(self._joined(shared, own), batch, root)
        return *self._parted(state), metrics

    def _parted(self, state: PyTree) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return _split(self._structure.flatten_up_to(state), self._specs)

    def _joined(self, shared: Sequence[Any], own: Sequence[Any]) -> PyTree:
        parts = {_SHARED: iter(shared), _OWN: iter(own)}
        return jax.tree.unflatten(self._structure, [next(parts[spec]) for spec in self._specs])


def _split(
    leaves: Sequence[Any], specs: Sequence[PartitionSpec]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Shared leaves and the devices' own ones."""
    pairs = list(zip(leaves, specs, strict=True))
    shared, own = (
        tuple(leaf for leaf, spec in pairs if spec == wanted) for wanted in (_SHARED, _OWN)
    )
    return shared, own


def _repeated(step: Step, count: int) -> Step:
    """``count`` steps on stacked batches, with the last step's metrics."""
    if count == 1:
        return step

    def several(state: PyTree, batches: Any, root: Array) -> tuple[PyTree, PyTree]:
        state, metrics = lax.scan(lambda state, batch: step(state, batch, root), state, batches)
        return state, jax.tree.map(lambda values: values[-1], metrics)

    return several


def _digest(leaf: Array) -> Array:
    """A uint32 that depends on every bit of the array and on the order of its elements."""
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    width = jnp.dtype(leaf.dtype).itemsize * 8
    bits = lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{min(width, 32)}"))
    bits = bits.astype(jnp.uint32).reshape(-1)
    # Odd weights are invertible modulo 2**32, so a change of one element always shows.
    weights = 2 * lax.iota(jnp.uint32, bits.size) + 1
    return (bits * weights).sum(dtype=jnp.uint32)
