"""Errors about what a format lacks, with the formats that can hold the network."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from meanfield.deploy.graph.network import Network

from .stablehlo import exported


class LackingFormatError(ValueError):
    """A format has no operation, or no type of numbers, that a network needs.

    Attributes:
        convertible: whether another converter to ONNX may succeed.
    """

    def __init__(self, message: str, convertible: bool = False):
        super().__init__(message)
        self.convertible = convertible


@contextlib.contextmanager
def naming_other_formats(
    network: Network,
    kept: Mapping[int, np.ndarray],
    probe: Any,
    raw: bool = False,
    fallback: bool = False,
) -> Iterator[None]:
    """Add to a `LackingFormatError` the formats that can hold the network.

    Args:
        network: the network.
        kept: for each axis of one example, the indices the network reads.
        probe: a batch of whole inputs.
        raw: whether the file was to take raw inputs, which the other formats do not.
        fallback: whether another converter can still be asked for.

    Raises:
        ValueError: instead of a `LackingFormatError`.
    """
    try:
        yield
    except LackingFormatError as error:
        try:
            exported(network, probe, dict(kept))
            formats, possible = "'stablehlo' or 'safetensors'", True
        except Exception:  # JAX raises many types.
            formats, possible = "'safetensors', the arrays alone", False
        way_out = (
            f"Export as {formats}" + ", which take no raw inputs (raw=False)" * raw
        )
        if possible and fallback and error.convertible:
            way_out += (
                "; or try the package jax2onnx (fallback='jax2onnx' of "
                "meanfield.deploy.export)"
            )
        raise ValueError(f"{error} {way_out}.") from error
