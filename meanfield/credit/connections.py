"""The table of connections: one row for every random weight, as a CSV file."""

import os
from collections.abc import Iterator

import numpy as np
import pandas as pd

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.files import atomic_path

from .labels import ConnectionLabels, Label

# About 60 bytes a row: a chunk of the file is some 15 MB of text in memory.
CHUNK = 250_000


def connections(
    ensemble: Ensemble, labels: ConnectionLabels, *, chunk: int = CHUNK
) -> Iterator[pd.DataFrame]:
    """The connections in tables of bounded size, layer by layer.

    Args:
        ensemble: the ensemble.
        labels: its labels.
        chunk: most rows of one table.

    Yields:
        Tables with the columns `layer` (path name), `index_0`, `index_1`, … (position
        in the weight array; missing beyond its dimensions), `spike_prob`, `slab_mean`,
        `slab_var`, `label` (in words) and, if known, `never_learned`; with certified
        labels also `value` (the credit φ) and `rms`.

    Raises:
        ValueError: the labels belong to another ensemble.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> from meanfield.credit.connections import connections
        >>> net = eqx.nn.MLP(2, 2, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> table = next(connections(ensemble, mf.label_connections(ensemble)))
        >>> len(table), table.label[0]
        (16, 'variable')
    """
    weights = ensemble.weights()
    shapes = {name: weight.shape for name, weight in weights.items()}
    found = {name: array.shape for name, array in labels.labels.items()}
    require(
        shapes == found,
        f"`labels` must belong to the ensemble, whose weights are {shapes}; got labels "
        f"for {found}. Make them with label_connections(ensemble).",
    )
    words = np.array([label.name.lower() for label in Label])
    axes = max(weight.ndim for weight in weights.values())
    for name, weight in weights.items():
        columns = {
            "spike_prob": np.ravel(np.broadcast_to(weight.spike_prob, weight.shape)),
            "slab_mean": np.ravel(weight.slab_mean),
            "slab_var": np.ravel(weight.slab_var),
            "label": words[np.ravel(labels.labels[name])],
        }
        if labels.never_learned is not None:
            columns["never_learned"] = np.ravel(labels.never_learned[name])
        for column, credit in (("value", labels.values), ("rms", labels.rms)):
            if credit is not None:
                columns[column] = np.ravel(credit[name])
        for start in range(0, weight.size, chunk):
            rows = np.arange(start, min(start + chunk, weight.size))
            place = np.unravel_index(rows, weight.shape)
            index = {f"index_{axis}": pd.array(i) for axis, i in enumerate(place)}
            for axis in range(weight.ndim, axes):
                index[f"index_{axis}"] = pd.array([pd.NA] * len(rows), "Int64")
            part = {key: value[rows] for key, value in columns.items()}
            yield pd.DataFrame({"layer": name, **index, **part})


def write_connections(
    path: str | os.PathLike, ensemble: Ensemble, labels: ConnectionLabels
) -> None:
    """Write `connections` as one CSV file, whole or not at all.

    Numbers are written with the digits that give the same number back. Memory stays
    bounded; the file takes about 60 bytes per connection.

    Args:
        path: the file, such as ``connections.csv``.
        ensemble: the ensemble.
        labels: its labels.

    Raises:
        OSError: the disk is full or the folder not writable; the old file stays.
        ValueError: the labels belong to another ensemble.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        for number, table in enumerate(connections(ensemble, labels)):
            table.to_csv(file, index=False, header=number == 0)
