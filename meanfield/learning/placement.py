"""Where arrays live on a mesh of devices: JAX's sharding does the rest."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from meanfield.checks import require

from .training import Recipe, TrainState

WIDE = 1024


def place(
    state: TrainState, arrays: Any, recipe: Recipe, mesh: Mesh | None, batch_size: int
) -> tuple[TrainState, Any, Recipe]:
    """Put state and data onto a mesh, and have each batch split over its data axis.

    Axis "data" splits every batch; axis "model", if there is one, splits the last axis
    of weights at least `WIDE` wide. Everything else is on every device.

    Raises:
        ValueError: the mesh has no axis "data", or its size does not divide the batch.
    """
    if mesh is None:
        return state, arrays, recipe
    require(
        "data" in mesh.axis_names and set(mesh.axis_names) <= {"data", "model"},
        "`mesh` must have an axis 'data' and may have one 'model'; got "
        f"{mesh.axis_names}. Make it with jax.make_mesh((devices,), ('data',)).",
    )
    parts = mesh.shape["data"]
    require(
        batch_size % parts == 0,
        f"`batch_size` must be a multiple of the {parts} devices along the mesh's axis "
        f"'data'; got {batch_size}. Use {-(-batch_size // parts) * parts}.",
    )

    def put(array: Any) -> Any:
        spec = [None] * array.ndim
        width = mesh.shape.get("model", 1)
        if array.ndim >= 2 and array.shape[-1] >= WIDE and array.shape[-1] % width == 0:
            spec[-1] = "model" if "model" in mesh.axis_names else None
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))

    replicated = NamedSharding(mesh, PartitionSpec())
    state = jax.tree.map(put, state)
    if arrays is not None:
        arrays = jax.device_put(arrays, replicated)
    split = NamedSharding(mesh, PartitionSpec("data"))
    return state, arrays, dataclasses.replace(recipe, shard_batch=split)
