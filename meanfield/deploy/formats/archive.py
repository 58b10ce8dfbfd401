"""The archive of a sub-network: one safetensors file that depends on no runtime.

An array with enough zeros is stored as a packed bit mask and its nonzero values in
order; other arrays are stored whole. The file can be read without meanfield by

    import json, numpy as np
    from safetensors import safe_open
    with safe_open("subnetwork-0.safetensors", "numpy") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}
        about = json.loads(file.metadata()["metadata"])
    arrays = {name: stored.get(f"array:{name}") for name in about["shapes"]}
    for name, shape in about["shapes"].items():
        if arrays[name] is None:
            bits = np.unpackbits(stored[f"mask:{name}"], count=int(np.prod(shape)))
            arrays[name] = np.zeros(shape, np.float32)
            arrays[name].flat[bits.astype(bool)] = stored[f"values:{name}"]

`inputs:A` lists the entries that the network reads along axis A of one example, if not
all. The file contains its own sha256, and a changed file raises an error. Shapes are
compared with the stored data before anything is unpacked, so an archive needs at most
32 times its size in memory.
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.deploy.graph.network import as_network
from meanfield.tensors import load_arrays, save_tree

VERSION = 1
DTYPES = ("float32", "float16")


@dataclasses.dataclass(frozen=True)
class Archive:
    """The contents of an archive.

    Attributes:
        arrays: the network's arrays by path, including zeros.
        kept_inputs: for each axis of one example, the indices that the network reads,
            if not all.
        labels: small integers for each weight by path, if they were stored.
        about: all other stored information, as JSON values.
    """

    arrays: dict[str, np.ndarray]
    kept_inputs: dict[int, np.ndarray]
    labels: dict[str, np.ndarray]
    about: dict[str, Any]


def save_archive(
    path: str | os.PathLike,
    arrays: Mapping[str, Any],
    *,
    kept_inputs: Mapping[int, np.ndarray] | None = None,
    labels: Mapping[str, np.ndarray] | None = None,
    about: Mapping[str, Any] | None = None,
    dtype: str = "float32",
) -> None:
    """Write an archive atomically.

    Args:
        path: the file.
        arrays: the network's arrays by path.
        kept_inputs: for each axis of one example, the indices the network reads.
        labels: for a weight, a label from 0 to 3 for each entry.
        about: anything JSON can hold.
        dtype: "float32" or "float16", in which floating-point arrays are stored.

    Raises:
        ValueError: an unknown dtype, or labels that do not fit.
    """
    require(
        dtype in DTYPES,
        f"`dtype` must be one of {', '.join(DTYPES)}; got {dtype!r}.",
    )
    stored: dict[str, np.ndarray] = {}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        # bfloat16 is a floating-point type to JAX, but not to NumPy.
        if not jnp.issubdtype(array.dtype, jnp.floating):
            stored[f"array:{name}"] = array
            continue
        values = array.astype(dtype)
        present = values != 0
        packed = np.packbits(present, axis=None)
        # A scalar, or an array with few zeros, takes fewer bytes when stored whole.
        if packed.nbytes + int(present.sum()) * values.itemsize < values.nbytes:
            stored[f"mask:{name}"] = packed
            stored[f"values:{name}"] = values[present]
        else:
            stored[f"array:{name}"] = values
    for axis, indices in (kept_inputs or {}).items():
        indices = np.asarray(indices, np.int32)
        few = indices.max(initial=0) < 2**16
        stored[f"inputs:{axis}"] = indices.astype(np.uint16) if few else indices
    for name, codes in (labels or {}).items():
        codes = np.asarray(codes)
        require(
            name in arrays and codes.shape == arrays[name].shape,
            f"`labels` must have the names and shapes of the network's arrays; got "
            f"{name!r} of shape {codes.shape}.",
        )
        require(
            bool(((codes >= 0) & (codes < 4)).all()),
            f"`labels` of {name!r} must be integers from 0 to 3; got others.",
        )
        codes = codes.astype(np.uint8)
        bits = np.stack([codes.ravel() & 1, codes.ravel() >> 1])
        stored[f"labels:{name}"] = np.packbits(bits, axis=None)
    metadata = {
        **(about or {}),
        "archive": VERSION,
        "dtype": dtype,
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
    }
    save_tree(path, {name: jnp.asarray(one) for name, one in stored.items()}, metadata)


def load_archive(path: str | os.PathLike) -> Archive:
    """Read an archive.

    Args:
        path: the file.

    Returns:
        An `Archive`: the arrays and all other contents of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was changed or truncated, has a newer version than this
            meanfield reads, or is not an archive.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> drawn = mf.deploy.sample_subnetworks(ensemble, 1, key=jax.random.key(2))
        >>> data = jax.random.normal(jax.random.key(3), (8, 4)), jax.numpy.arange(8) % 3
        >>> _ = mf.deploy.ship(drawn, "archived", data=data, measure=False)
        >>> archive = mf.deploy.load_archive("archived/subnetwork-0.safetensors")
        >>> sorted(archive.arrays)[0]
        'layers/0/bias'
    """
    stored, about = load_arrays(path)
    require(
        isinstance(about.get("archive"), int),
        f"{path} is not an archive of a sub-network. Pass one that `ship` wrote.",
    )
    require(
        about["archive"] <= VERSION,
        f"{path} has archive version {about['archive']}; this version of meanfield "
        f"reads up to {VERSION}. Update meanfield.",
    )
    try:
        shapes = {name: tuple(map(int, s)) for name, s in about["shapes"].items()}
        arrays = {name: _array(stored, name, shape) for name, shape in shapes.items()}
        labels = {
            name: _labels(stored[f"labels:{name}"], shape)
            for name, shape in shapes.items()
            if f"labels:{name}" in stored
        }
        inputs = {
            int(name.removeprefix("inputs:")): indices.astype(np.int32)
            for name, indices in stored.items()
            if name.startswith("inputs:")
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} does not have the contents that its header states ({error}). "
            "Restore it from a copy, or ship again."
        ) from error
    return Archive(arrays, inputs, labels, about)


def load_subnetwork(path: str | os.PathLike, like: Any) -> tuple[Any, Archive]:
    """Read an archive into an ordinary model.

    Args:
        path: the archive.
        like: a model of the same structure, such as the one the ensemble was made
            from; its sizes may differ.

    Returns:
        The model, and the archive (with `kept_inputs`, the inputs the model reads).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as for `load_archive`, or the file belongs to another structure.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> drawn = mf.deploy.sample_subnetworks(ensemble, 1, key=jax.random.key(2))
        >>> data = jax.random.normal(jax.random.key(3), (8, 4)), jax.numpy.arange(8) % 3
        >>> _ = mf.deploy.ship(drawn, "loaded", data=data, measure=False)
        >>> model, archive = mf.deploy.load_subnetwork(
        ...     "loaded/subnetwork-0.safetensors", like=net)
        >>> type(model).__name__
        'MLP'
    """
    archive = load_archive(path)
    network = as_network(like)
    differing = sorted(archive.arrays.keys() ^ network.arrays.keys())
    require(
        not differing,
        f"{path} belongs to another structure than `like`: they do not share the "
        f"arrays {differing[:5]}. Pass the model the ensemble was made from.",
    )
    for name, array in archive.arrays.items():
        require(
            array.ndim == np.ndim(network.arrays[name]),
            f"{path} holds {name!r} with {array.ndim} axes; `like` has "
            f"{np.ndim(network.arrays[name])}.",
        )
    arrays = {
        name: jnp.asarray(array, network.arrays[name].dtype)
        for name, array in archive.arrays.items()
    }
    return network.rebuild(arrays), archive


def _array(
    stored: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]
) -> np.ndarray:
    """An array, unpacked if it was packed."""
    if f"array:{name}" in stored:
        array = _widened(stored[f"array:{name}"])
        require(array.shape == shape, f"{name!r} is {array.shape}, not {shape}")
        return array
    values = stored[f"values:{name}"]
    bits = _unpacked(stored[f"mask:{name}"], math.prod(shape))
    require(
        int(bits.sum()) == len(values),
        f"the mask of {name!r} leaves {int(bits.sum())} values; got {len(values)}",
    )
    whole = np.zeros(len(bits), np.float32)
    whole[bits] = values
    return whole.reshape(shape)


def _labels(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    low, high = _unpacked(packed, 2 * math.prod(shape)).astype(np.int8).reshape(2, -1)
    return (low + 2 * high).reshape(shape)


def _unpacked(packed: np.ndarray, count: int) -> np.ndarray:
    """The first `count` bits of an array, which must have no more bytes than needed."""
    require(
        packed.dtype == np.uint8 and packed.shape == (-(-count // 8),) and count >= 0,
        f"{packed.size:,} bytes are not the bits of {count:,} numbers",
    )
    return np.unpackbits(packed, count=count).astype(bool)


def _widened(array: np.ndarray) -> np.ndarray:
    half = array.dtype == np.float16
    return array.astype(np.float32) if half else array
