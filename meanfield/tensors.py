"""Trees of arrays in one safetensors file, written atomically and checked when read.

Every array is stored under its path name; typed random keys are stored as their data.
The file's metadata are one JSON text, with a "seal": the format version and the sha256
of all contents. Equal trees give equal files. No pickle is used.
"""

import hashlib
import json
import math
import os
import zipfile
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

FORMAT = 1
SEAL = "seal"
# Largest size of one array in an npz file, in bytes.
MAX_ARRAY = 2**34


def save_tree(
    path: str | os.PathLike, tree: Any, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write the arrays of a tree, and JSON-ready metadata, atomically.

    Raises:
        ValueError: two arrays of the tree have the same path name.
        OSError: the disk is full or the folder not writable; the old file stays.
    """
    arrays = {name: _data(leaf) for name, leaf in _array_leaves(tree).items()}
    about = dict(metadata or {})
    seal = {"format": FORMAT, "sha256": _digest(arrays, about)}
    # One text, because the order of several metadata entries is not fixed.
    text = json.dumps(about | {SEAL: seal}, sort_keys=True)
    write_bytes(path, safetensors.numpy.save(arrays, metadata={"metadata": text}))


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
        raise FileNotFoundError(f"there is no file {path}.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}). It was truncated or "
            "overwritten; restore it from a copy or make it again."
        ) from error
    try:
        about = json.loads(header["metadata"])
        seal = about.pop(SEAL)
        written, digest = seal["format"], seal["sha256"]
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} was not written by meanfield, or was changed since: its metadata "
            "have no seal. Restore it from a copy or make it again."
        ) from error
    require(
        written == FORMAT,
        f"{path} has format version {written}; this version of meanfield reads "
        f"{FORMAT}. Update meanfield.",
    )
    require(
        digest == _digest(arrays, about),
        f"{path} does not match its own checksum: it was changed after it was written. "
        "Restore it from a copy or make it again.",
    )
    return arrays, about


def read_seal(path: str | os.PathLike) -> str:
    """The sha256 of all contents that is stored in a file; `load_arrays` checks it."""
    with safetensors.safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["metadata"])[SEAL]["sha256"]


def load_tree(path: str | os.PathLike, like: Any) -> tuple[Any, dict[str, Any]]:
    """Read arrays into a tree of the same structure.

    Args:
        path: a file that `save_tree` wrote.
        like: a tree with the names, shapes and types to expect.

    Returns:
        The tree with the stored arrays, and the metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or belongs to another structure.
    """
    arrays, metadata = load_arrays(path)
    return fill_tree(arrays, like, path), metadata


def fill_tree(
    arrays: Mapping[str, np.ndarray], like: Any, path: str | os.PathLike
) -> Any:
    """Put arrays that `load_arrays` read into a tree of the same structure.

    Args:
        arrays: the arrays by path name.
        like: a tree with the names, shapes and types to expect.
        path: where the arrays come from, for the message.

    Raises:
        ValueError: the arrays belong to another structure.
    """
    wanted = _array_leaves(like)
    for name in sorted(wanted.keys() ^ arrays.keys()):
        fault = "lacks the" if name in wanted else "has the unknown"
        raise ValueError(
            f"{path} {fault} array `{name}`: it belongs to another architecture or to "
            "another optimizer."
        )
    for name, leaf in wanted.items():
        need, got = _data(leaf), arrays[name]
        require(
            need.shape == got.shape and need.dtype == got.dtype,
            f"{path} must hold `{name}` as {need.dtype}{list(need.shape)}; got "
            f"{got.dtype}{list(got.shape)}. It belongs to another architecture.",
        )

    def fill(name: str, leaf: Any) -> Any:
        if name not in wanted:
            return leaf
        if _is_key(leaf):
            impl = jax.random.key_impl(leaf)
            return jax.random.wrap_key_data(jnp.asarray(arrays[name]), impl=impl)
        return jnp.asarray(arrays[name])

    return map_named(fill, like)


def _array_leaves(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by path name."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)]
    named = {n: leaf for n, leaf in named_leaves(tree).items() if eqx.is_array(leaf)}
    require(
        len(arrays) == len(named),
        "`tree` must have different path names for all arrays; got "
        f"{len(arrays)} arrays but {len(named)} names. Rename keys that give the same "
        "path, such as 1 and '1', or 'a/b' and 'b' inside 'a'.",
    )
    return named


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _data(leaf: Any) -> np.ndarray:
    # Not np.ascontiguousarray, which makes a scalar one-dimensional.
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C")


def _digest(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        digest.update(f"{name}|{array.dtype}|{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def check_npz(path: str | os.PathLike) -> None:
    """Raise, before reading, if an npz file states arrays larger than its contents.

    Raises:
        ValueError: a header states more bytes than the file has, or than `MAX_ARRAY`.
        zipfile.BadZipFile: the file is not a zip archive.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                major, _ = np.lib.format.read_magic(file)
                read = getattr(np.lib.format, f"read_array_header_{min(major, 2)}_0")
                shape, _, dtype = read(file)
            size = math.prod(shape) * dtype.itemsize
            require(
                dtype.hasobject or size <= min(member.file_size, MAX_ARRAY),
                f"`{member.filename}` states the shape {shape}, {size:,} bytes; the "
                f"file holds {member.file_size:,}, and {MAX_ARRAY:,} are read at most",
            )
