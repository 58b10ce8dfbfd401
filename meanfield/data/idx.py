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

# Largest size of an unpacked file, in bytes.
MAX_BYTES = 2**32
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_payload(path: str | os.PathLike) -> bytes:
    """Contents of a file, unpacked if it is gzip (by its first bytes).

    Raises:
        ValueError: the gzip file is truncated or damaged, or unpacks to more than 4 GiB
            or more than its idx header states.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed:
        return Path(path).read_bytes()
    try:
        with gzip.open(path) as file:
            head = file.read(4 + 4 * 255)
            most = min(_announced(head), MAX_BYTES)
            content = head + file.read(max(most - len(head), 0) + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is a damaged or truncated gzip file ({error}). Copy or download "
            "it again."
        ) from error
    require(
        len(content) <= most,
        f"{path} must unpack to at most {most} bytes, by its header or by the limit of "
        f"{MAX_BYTES}; got more. Copy or download it again.",
    )
    return content


def _announced(head: bytes) -> int:
    """Size of an idx file as its header states; `MAX_BYTES` for other files."""
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES:
        return MAX_BYTES
    start = 4 + 4 * head[3]
    sizes = np.frombuffer(head[4 : min(start, len(head) // 4 * 4)], ">u4")
    return start + math.prod(map(int, sizes)) * np.dtype(_TYPES[head[2]]).itemsize


def parse_idx(payload: bytes, name: str = "the file") -> Shaped[np.ndarray, "..."]:
    """The array in the bytes of an idx file.

    Args:
        payload: the unpacked bytes.
        name: name of the file for messages.

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
        f"{name} must have a header of {start} bytes; got {len(payload)}. It is "
        "truncated: copy it again.",
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
    """The array in an idx file, gzip or plain.

    Args:
        path: the file.

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
