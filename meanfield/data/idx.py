"""The idx format of MNIST: a magic number, the shape, then the numbers.

0 0 type rank | size₁ … size_rank (4 bytes each) | values, all big-endian
"""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from meanfield.checks import require

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_payload(path: str | os.PathLike) -> bytes:
    """Contents of a file, unpacked if it is gzip (told by its first bytes).

    Raises:
        ValueError: the gzip file is cut short or damaged.
    """
    content = Path(path).read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is a damaged or truncated gzip file ({error}). Copy or download "
            "it again."
        ) from error


def parse_idx(payload: bytes, name: str = "the file") -> Shaped[np.ndarray, "..."]:
    """Array held by the bytes of an idx file.

    Args:
        payload: the unpacked bytes.
        name: what to call them in a message.

    Raises:
        ValueError: the magic number is wrong, or bytes are missing or left over.
    """
    require(
        len(payload) >= 4 and payload[:2] == b"\0\0" and payload[2] in _TYPES,
        f"{name} must be an idx file, which begins with the bytes 00 00, a type and a "
        f"number of dimensions; got {payload[:4].hex(' ') or 'an empty file'}.",
    )
    dtype, rank = np.dtype(_TYPES[payload[2]]), payload[3]
    start = 4 + 4 * rank
    require(
        rank > 0 and len(payload) >= start,
        f"{name} is cut short: its header needs {start} bytes; got {len(payload)}.",
    )
    shape = tuple(int(size) for size in np.frombuffer(payload[4:start], ">u4"))
    needed = math.prod(shape) * dtype.itemsize
    require(
        len(payload) - start == needed,
        f"{name} must hold {needed} bytes of values for its shape {shape}; got "
        f"{len(payload) - start}. It is truncated or not an idx file: copy it again.",
    )
    values = np.frombuffer(payload, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def read_idx(path: str | os.PathLike) -> Shaped[np.ndarray, "..."]:
    """Array held by an idx file, gzip or plain.

    Args:
        path: of the file.

    Returns:
        The array in native byte order, of the shape and type in the header.

    Raises:
        ValueError: the file is not idx, or truncated, or damaged.

    Example:
        >>> import pathlib, tempfile
        >>> from meanfield.data import read_idx
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "labels").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 3]))
        >>> read_idx(folder / "labels").tolist()
        [7, 3]
    """
    return parse_idx(read_payload(path), str(path))
