"""StableHLO through `jax.export`: nearly any JAX function, any length of batch.

JAX exports no calls back to Python, and nothing that it cannot compile for each of
CPU, CUDA and TPU.

Such a file is not for storage: a version of JAX reads files of versions up to about six
months older (0.12 refuses those of 0.8), and none of newer versions. Keep the
safetensors archive, and export this file again when JAX is updated.

A file with several inputs takes a dictionary of them by name, see `graph.inputs`.
"""

import os
from typing import Any

import jax
import jax.export  # Older versions of JAX do not import it themselves.
import jax.numpy as jnp
import numpy as np

from meanfield.deploy.graph.inputs import from_file, taken_by_file
from meanfield.deploy.graph.network import Network
from meanfield.deploy.graph.tracing import NEEDS_LENGTH, symbolic_batch
from meanfield.files import write_bytes

PLATFORMS = ("cpu", "cuda", "tpu")


def save_stablehlo(
    path: str | os.PathLike,
    network: Network,
    example: Any,
    kept_inputs: dict[int, np.ndarray] | None = None,
) -> None:
    """Write a network, including its arrays, for CPU, CUDA and TPU.

    Args:
        path: the file.
        network: the network.
        example: a batch of whole inputs, for their shape and type.
        kept_inputs: for each axis of one example, the indices the network reads.

    Raises:
        ValueError: the network needs to know the length of its batch, or JAX cannot
            export it.
    """
    write_bytes(path, bytes(exported(network, example, kept_inputs).serialize()))


def exported(
    network: Network, example: Any, kept_inputs: dict[int, np.ndarray] | None = None
) -> Any:
    """The network in the form of `jax.export`; arguments as for `save_stablehlo`.

    Raises:
        ValueError: as for `save_stablehlo`.
    """
    arrays = {name: jnp.asarray(array) for name, array in network.arrays.items()}

    def function(x: Any) -> Any:
        x = from_file(x, example)
        for axis, indices in (kept_inputs or {}).items():
            x = jnp.take(x, indices, axis=axis + 1)
        return network.apply(arrays, x)

    taken = taken_by_file(example)
    # The function closes over the arrays, so that the file contains them.
    export = jax.export.export(jax.jit(function), platforms=PLATFORMS)
    try:
        return export(symbolic_batch(taken))
    except Exception as error:  # JAX raises half a dozen types here.
        jax.eval_shape(function, taken)  # raises the network's own error, if it has one
        try:
            export(taken)
        except Exception as same:
            reason = (str(same).splitlines() or [type(same).__name__])[0]
            raise ValueError(
                f"JAX cannot export `model` for {', '.join(PLATFORMS)}: {reason}. "
                "Export as 'safetensors', the arrays alone."
            ) from same
        raise ValueError(NEEDS_LENGTH) from error


def load_stablehlo(path: str | os.PathLike) -> Any:
    """Read a network: returns a function from a batch to its outputs.

    Raises:
        ValueError: the running JAX cannot read the file, because it was written by a
            newer or by a much older JAX.
    """
    with open(path, "rb") as file:
        content = bytearray(file.read())
    try:
        exported = jax.export.deserialize(content)
    except Exception as error:  # JAX raises different types in different versions.
        raise ValueError(
            f"{path} cannot be read by JAX {jax.__version__}: {error}. Files of this "
            "format are readable for about six months; export again from the "
            "safetensors archive."
        ) from error
    return exported.call
