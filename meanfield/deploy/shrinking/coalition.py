"""Replace units outside the strong coalitions by their mean activation.

The activation is the value that the next layer reads, after the nonlinearity and any
pooling. The mean is over examples, and also over time and space if the next layer does
not sum over these.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from meanfield.checks import require
from meanfield.deploy.graph.execute import evaluate
from meanfield.deploy.graph.graph import Node
from meanfield.deploy.graph.inputs import as_batch, batch_size, take_examples

from .fold import contracted_means
from .liveness import source_axes
from .origin import links_from
from .positions import Link, TiedUnits

_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class CoalitionFold:
    """The units outside the coalitions and their mean activations.

    Args:
        labels: the numbers that the units outside have in `TiedUnits`.
        means: for each link, the mean of its signal at each contracted index.
        patches: the units outside and the means, as the argument `patches` of
            `evaluate`.
    """

    labels: np.ndarray
    means: dict[Link, np.ndarray]
    patches: dict[Node, tuple[int, np.ndarray, np.ndarray]]


def coalition_fold(
    units: TiedUnits, coalition: Mapping[str, Any], data: Any
) -> CoalitionFold:
    """Find the units outside the coalitions and their mean activations.

    Args:
        units: the units of a graph.
        coalition: by layer, a boolean mask of the output units in the coalition.
        data: a batch to average the activations over.

    Raises:
        ValueError: a name is not that of a layer with output units, or a mask has the
            wrong length.
    """
    labels = [_outside(units, layer, mask) for layer, mask in coalition.items()]
    outside = np.concatenate(labels)
    root = units.roots(np.arange(len(units.parent)))
    chosen = np.zeros(len(root), bool)
    chosen[root[outside]] = True
    reading = {}
    for link in units.links:
        weight = units.of(link.node.inputs[link.weight])
        for pair in source_axes(units, link, root):
            mask = chosen[root[weight[pair[0]]]]
            if mask.any():
                reading[link] = (link.contracted.index(pair), mask)
    means = _means(units, list(reading), as_batch(data, "data"))
    patches = {
        link.node: _patch(units, link, place, mask, means[link])
        for link, (place, mask) in reading.items()
    }
    return CoalitionFold(outside, means, patches)


def _outside(units: TiedUnits, layer: str, mask: Any) -> np.ndarray:
    """Numbers in `TiedUnits` of a layer's output units outside the coalition."""
    links = links_from(units, layer)
    require(
        bool(links),
        f"`coalition` must name layers with weights of this network; got {layer!r}. "
        "Use a parameter path without its last name, such as 'layers/0'.",
    )
    labels = np.concatenate(
        [
            units.of(link.node.inputs[link.weight])[axis]
            for link in links
            for axis in link.free
        ]
    )
    _, first = np.unique(units.roots(labels), return_index=True)
    players = labels[np.sort(first)]
    mask = np.asarray(mask)
    require(
        mask.dtype == bool and mask.shape == players.shape,
        f"`coalition` of {layer!r} must be {len(players)} booleans, one for each "
        f"output unit; got {mask.dtype} of shape {mask.shape}.",
    )
    return players[~mask]


def _means(units: TiedUnits, links: list[Link], data: Any) -> dict[Link, np.ndarray]:
    sums: dict[Link, Any] = dict.fromkeys(links, 0.0)
    for start in range(0, batch_size(data), _CHUNK):
        part = take_examples(data, slice(start, start + _CHUNK))
        values = evaluate(units.graph, part)
        for link in links:
            value = link.node.inputs[link.signal]
            mean, _ = contracted_means(link, values[value], len(units.shapes[value]))
            sums[link] = sums[link] + mean * batch_size(part)
    return {link: total / batch_size(data) for link, total in sums.items()}


def _patch(
    units: TiedUnits, link: Link, place: int, mask: np.ndarray, mean: np.ndarray
) -> tuple[int, np.ndarray, np.ndarray]:
    """Mask and means in the layout of the link's signal."""
    rank = len(units.shapes[link.node.inputs[link.signal]])
    axes = [axis for _, axis in link.contracted]
    order = np.argsort(axes)
    shape = [1] * rank
    for axis, size in zip(axes, mean.shape, strict=True):
        shape[axis] = size
    means = np.transpose(mean, order).reshape(shape)
    only = [1] * rank
    only[axes[place]] = -1
    return link.signal, mask.reshape(only), means
