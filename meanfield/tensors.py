"""Trees of arrays in one safetensors file: whole or absent, checked when read.

Every array is stored under its path name; typed random keys are stored as their data.
The file's metadata hold a JSON text and the sha256 of all contents. No pickle.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from .checks import require
from .files import write_bytes
from .trees import map_named, named_leaves

FORMAT = "1"


def save_tree(
    path: str | os.PathLike, tree: Any, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the arrays of a tree, and JSON-ready metadata, atomically.

    Raises:
        OSError: the disk is full or the folder not writable; the old file stays.
    """
    arrays = {
        name: np.ascontiguousarray(_data(leaf))
        for name, leaf in named_leaves(tree).items()
        if eqx.is_array(leaf)
    }
    text = json.dumps(dict(metadata or {}), sort_keys=True)
    header = {"format": FORMAT, "metadata": text, "sha256": _digest(arrays, text)}
    write_bytes(path, safetensors.numpy.save(arrays, metadata=header))


def load_arrays(
    path: str | os.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays by path name, and the metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, was changed, or has a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}). It was truncated or "
            "overwritten; restore it from a copy or make it again."
        ) from error
    require(
        header.get("format", FORMAT) == FORMAT,
        f"{path} has format version {header.get('format')}; this version of meanfield "
        f"reads {FORMAT}. Update meanfield.",
    )
    text = header.get("metadata", "{}")
    require(
        header.get("sha256") == _digest(arrays, text),
        f"{path} does not match its own checksum: it was changed after it was written. "
        "Restore it from a copy or make it again.",
    )
    return arrays, json.loads(text)


def load_tree(path: str | os.PathLike, like: Any) -> tuple[Any, dict[str, Any]]:
    """Read arrays into a tree of the same structure.

    Args:
        path: a file that `save_tree` wrote.
        like: a tree with the names, shapes and types to expect.

    Returns:
        The tree with the stored arrays, and the metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or belongs to another structure; the first
            difference is named.
    """
    arrays, metadata = load_arrays(path)
    wanted = {n: leaf for n, leaf in named_leaves(like).items() if eqx.is_array(leaf)}
    for name in sorted(wanted.keys() ^ arrays.keys()):
        place = "misses" if name in wanted else "has the unknown"
        raise ValueError(
            f"{path} {place} array `{name}`: it was written by another architecture or "
            "another optimizer."
        )
    for name, leaf in wanted.items():
        need, got = _data(leaf), arrays[name]
        require(
            need.shape == got.shape and need.dtype == got.dtype,
            f"{path} holds `{name}` as {got.dtype}{list(got.shape)}; needed "
            f"{need.dtype}{list(need.shape)}. It belongs to another architecture.",
        )

    def fill(name: str, leaf: Any) -> Any:
        if name not in wanted:
            return leaf
        if _is_key(leaf):
            impl = jax.random.key_impl(leaf)
            return jax.random.wrap_key_data(jnp.asarray(arrays[name]), impl=impl)
        return jnp.asarray(arrays[name])

    return map_named(fill, like), metadata


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _data(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _digest(arrays: Mapping[str, np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}|{array.dtype}|{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
