"""Placement of arrays on a mesh of devices, for JAX's sharding."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from meanfield.checks import require

from .state import TrainState
from .training import Recipe

WIDE = 1024


def device_mesh(data: int, model: int = 1) -> Mesh:
    """The first data × model devices as a mesh for `fit`, `evaluate` and `predict`.

    Args:
        data: number of devices over which every batch is split.
        model: number of devices over which wide weights are split.

    Returns:
        A `jax.sharding.Mesh` with the axes "data" and "model".

    Raises:
        ValueError: there are fewer devices.

    Example:
        >>> import meanfield as mf
        >>> mf.learning.device_mesh(1).shape["data"]
        1
    """
    require(
        data >= 1 and model >= 1,
        f"`data` and `model` must be at least 1; got {data} and {model}.",
    )
    devices = jax.devices()
    require(
        data * model <= len(devices),
        f"`data` × `model` must not exceed the number of devices; got {data} × {model} "
        f"and {len(devices)} {jax.default_backend()} devices. For a trial on one CPU "
        f"set XLA_FLAGS=--xla_force_host_platform_device_count={data * model}.",
    )
    grid = np.asarray(devices[: data * model]).reshape(data, model)
    return Mesh(grid, ("data", "model"))


class Layout:
    """Placement of state, data and batches; without a mesh nothing is moved.

    Every batch is split over the axis "data" of the mesh. If there is an axis "model",
    arrays of the state that have two or more axes are split over it along their last
    axis, if this has at least `WIDE` entries and a multiple of the size of "model".
    Everything else is on every device. With several processes, each passes
    the same whole arrays.

    Args:
        mesh: a `jax.sharding.Mesh`, or None.
        batch_size: size of the batches to split; None if batches differ in size.
        accumulate: number of parts into which each batch is first divided.

    Raises:
        ValueError: the mesh has no axis "data", or `batch_size` is not a multiple of
            the size of this axis times `accumulate`.
    """

    def __init__(self, mesh: Mesh | None, batch_size: int | None, accumulate: int = 1):
        self.mesh, self.accumulate = None, accumulate
        if batch_size is not None and mesh is None:
            self._require_divisible(batch_size, "`batch_size`")
        if mesh is None:
            return
        require(
            isinstance(mesh, Mesh)
            and "data" in mesh.axis_names
            and set(mesh.axis_names) <= {"data", "model"},
            "`mesh` must have an axis 'data' and may have one 'model'; got "
            f"{getattr(mesh, 'axis_names', mesh)}. Make it with "
            "jax.make_mesh((devices,), ('data',)).",
        )
        # Axes of type Auto, whose shardings the compiler completes.
        self.mesh = Mesh(mesh.devices, mesh.axis_names)
        if batch_size is not None:
            self._require_divisible(batch_size, "`batch_size`")

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with its arrays on every device, and batches split."""
        if self.mesh is None:
            return recipe
        split = NamedSharding(self.mesh, PartitionSpec("data"))
        return dataclasses.replace(self.everywhere(recipe), shard_batch=split)

    def weights(self, state: TrainState) -> TrainState:
        """The state with its wide weights split."""
        return self._put(state, self._weight_spec)

    def everywhere(self, tree: Any) -> Any:
        """A tree with its arrays on every device."""
        return self._put(tree, lambda array: PartitionSpec())

    def split(self, batch: Any) -> Any:
        """A batch of the user's iterable, split over the devices."""
        for leaf in jax.tree.leaves(batch):
            self._require_divisible(leaf.shape[0], "a batch of `data`")
        return self._put(batch, lambda array: PartitionSpec("data"))

    def whole(self, size: int) -> int:
        """The smallest number of examples ≥ `size` that can be split."""
        parts = 1 if self.mesh is None else self.mesh.shape["data"]
        return -(-size // parts) * parts

    def _put(self, tree: Any, spec: Any) -> Any:
        mesh = self.mesh
        if mesh is None:
            return tree
        return jax.tree.map(
            lambda leaf: (
                _place(leaf, NamedSharding(mesh, spec(leaf)))
                if eqx.is_array(leaf)
                else leaf
            ),
            tree,
        )

    def _weight_spec(self, array: Any) -> PartitionSpec:
        assert self.mesh is not None
        parts = self.mesh.shape.get("model", 1)
        if array.ndim < 2 or array.shape[-1] < WIDE or array.shape[-1] % parts:
            return PartitionSpec()
        last = "model" if "model" in self.mesh.axis_names else None
        return PartitionSpec(*[None] * (array.ndim - 1), last)

    def _require_divisible(self, size: int, what: str) -> None:
        devices = 1 if self.mesh is None else self.mesh.shape["data"]
        parts = devices * self.accumulate
        require(
            size % parts == 0,
            f"{what} must be a multiple of {parts}: {devices} devices along the mesh's "
            f"axis 'data' times `accumulate` = {self.accumulate}; got {size}. Use "
            f"{-(-size // parts) * parts}.",
        )


def _place(array: Any, sharding: NamedSharding) -> Any:
    """Place an array that every process has, or that is already spread over them."""
    if sharding.is_fully_addressable or not array.is_fully_addressable:
        return jax.device_put(array, sharding)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        numbers = _place(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(array))
    whole = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, whole.__getitem__)


def gathered(tree: Any) -> Any:
    """A tree in which arrays on devices of several processes are copied to this one.

    Every process must call it. Arrays that are completely in this process are
    unchanged.
    """

    def bring(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if leaf.is_fully_replicated:
            return jnp.asarray(np.asarray(leaf))
        return jnp.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(bring, tree)
