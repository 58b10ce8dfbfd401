"""Remove the units and inputs that a masked network does not use.

Exact zeros are absent connections. A unit on which no output depends is removed; a unit
that depends on no input is constant, and is folded into the biases that it feeds; an
input that no unit reads is left out. This is repeated until nothing changes, and the
result, an ordinary network, is compared with the original network.
"""

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.deploy.graph.execute import evaluate, outputs_of
from meanfield.deploy.graph.graph import Graph, Value
from meanfield.deploy.graph.inputs import as_batch, is_one_array, take_examples
from meanfield.deploy.graph.network import Network, as_network
from meanfield.deploy.graph.tracing import trace_symbolic
from meanfield.ensemble.frameworks import Call

from .coalition import CoalitionFold, coalition_fold
from .fold import fold_constants
from .liveness import find_liveness, is_constant
from .origin import outgoing_entries
from .positions import FIXED, TiedUnits
from .unit_rules import tie_units


@dataclasses.dataclass(frozen=True)
class Shrunk:
    """A smaller network that computes the same function.

    Args:
        model: the smaller network, of the same type as the original.
        kept_inputs: for each axis of one example from which entries were removed, the
            indices of the entries that the smaller network reads.
        kept: for each array, the indices kept along each of its axes.
        largest_difference: largest difference from the original on the probe.
        network: the model, split into arrays and a function.
    """

    model: Any
    kept_inputs: dict[int, np.ndarray]
    kept: dict[str, tuple[np.ndarray, ...]]
    largest_difference: float
    network: Network

    def select_inputs(self, x: Any) -> Any:
        """The part of a batch x that the smaller network reads."""
        for axis, indices in self.kept_inputs.items():
            x = x.take(indices, axis=axis + 1)
        return x

    def slice_like(self, name: str, array: Any) -> np.ndarray:
        """The entries of an array at the positions that were kept of array `name`."""
        return np.asarray(np.asarray(array)[np.ix_(*self.kept[name])])


_INPUT = "<input>"


class _CodeFixesSizes(Exception):
    """The network's own code fails or gives other outputs with the smaller arrays."""


def shrink(
    model: Any,
    probe: Any,
    *,
    coalition: Mapping[str, Any] | None = None,
    data: Any = None,
    allow_constant: bool = False,
    tolerance: float = 1e-5,
    call: Call | None = None,
) -> Shrunk:
    """Remove every unit and input that a masked network does not use.

    Args:
        model: an Equinox module, a Flax NNX module, or a pair (apply_fn, params), with
            exact zeros where connections are absent. A Keras model, whose layers take
            no smaller arrays, is returned whole.
        probe: a batch of inputs on which the result is compared with the original; if
            it has several arrays (a dictionary, a tuple), all their entries are kept.
        coalition: by layer (a parameter path without its last name), a boolean mask of
            the output units in the coalition. The others are replaced by their mean
            over `data`. This changes the function, so the result is compared with the
            network in which these units are held at their means.
        data: a batch for those means; `probe` by default.
        allow_constant: whether to return a network without a path from input to output
            (with one unit in each layer) instead of raising an error.
        tolerance: largest difference allowed, relative to max(1, the largest output).
        call: how the module is called, as in `Ensemble.from_model`.

    Returns:
        The smaller network, the indices of the inputs it reads, the kept indices of
        each array, and the largest difference found.

    Raises:
        ValueError: the network is constant; the comparison fails; `coalition` names an
            unknown layer, or no bias can absorb the mean of a unit outside.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
        >>> silent = model.layers[0].weight.at[1].set(0)     # unit 1 has no inputs
        >>> masked = eqx.tree_at(lambda m: m.layers[0].weight, model, silent)
        >>> mf.deploy.shrink(masked, jnp.ones((5, 3))).model.layers[0].out_features
        3
    """
    network = as_network(model, call)
    probe = as_batch(probe)
    if network.fixed_sizes:
        require(
            not coalition,
            "`coalition` needs a network whose layers take smaller arrays; those of "
            "Keras do not. Write the network in Equinox or Flax, or as a function.",
        )
        return Shrunk(
            network.rebuild(network.arrays), {}, _whole(network), 0.0, network
        )
    with contextlib.suppress(_CodeFixesSizes):
        return _shrink(
            network, probe, coalition, data, allow_constant, tolerance, rigid=False
        )
    # Try again, and keep the units whose number may be fixed in the code.
    try:
        return _shrink(
            network, probe, coalition, data, allow_constant, tolerance, rigid=True
        )
    except _CodeFixesSizes as error:
        raise ValueError(
            "`model` does not run with smaller arrays: its code fixes their sizes. "
            "Read sizes from the arrays (x.shape, weight.shape) instead of writing "
            f"numbers in the code. ({error})"
        ) from error


def _shrink(
    network: Network,
    probe: Any,
    coalition: Mapping[str, Any] | None,
    data: Any,
    allow_constant: bool,
    tolerance: float,
    rigid: bool,
) -> Shrunk:
    kept = _whole(network)
    whole = probe.shape[1:] if is_one_array(probe) else ()
    inputs = list(map(np.arange, whole))
    graph = trace_symbolic(network, probe)
    expected, model, first = None, network.rebuild(network.arrays), True
    while True:
        one = take_examples(probe, slice(1))
        values = evaluate(graph, _select(one, inputs))
        shapes = {value: array.shape for value, array in values.items()}
        units = tie_units(graph, _without_steps(shapes), rigid)
        if not is_one_array(probe):
            units.pin_inputs()
        fold = None
        if coalition and first:
            fold = coalition_fold(units, coalition, probe if data is None else data)
        if expected is None:
            patches = fold.patches if fold else None
            expected = outputs_of(graph, evaluate(graph, probe, patches))
            require(
                not any(np.isnan(output).any() for output in expected),
                "`model` must give numbers for the probe; got NaN. Look for NaN in its "
                "weights and inputs.",
            )
        step = _step(units, network.arrays, values, fold, allow_constant)
        if step is None:
            break
        arrays, keep, keep_inputs = step
        kept = {
            name: tuple(
                old[new] for old, new in zip(kept[name], keep[name], strict=True)
            )
            for name in kept
        }
        inputs = [old[new] for old, new in zip(inputs, keep_inputs, strict=True)]
        model, first = network.rebuild(arrays), False
        network = as_network(model, network.call)
        graph = _trace_again(network, _select(probe, inputs))
    actual = outputs_of(graph, evaluate(graph, _select(probe, inputs)))
    difference = _compare(expected, actual, tolerance)
    short = {i: kept for i, kept in enumerate(inputs) if len(kept) < whole[i]}
    return Shrunk(model, short, kept, difference, network)


def _whole(network: Network) -> dict[str, tuple[np.ndarray, ...]]:
    """All indices along each axis of each array."""
    return {
        name: tuple(map(np.arange, np.shape(array)))
        for name, array in network.arrays.items()
    }


def _without_steps(
    shapes: dict[Value, tuple[int, ...]],
) -> dict[Value, tuple[int, ...]]:
    """Sizes of all values; those inside loops lose the axis of the steps."""
    return {
        value: shape[len(shape) - len(value.shape) :] for value, shape in shapes.items()
    }


def _select(x: Any, inputs: list[np.ndarray]) -> Any:
    for axis, indices in enumerate(inputs):
        if len(indices) < x.shape[axis + 1]:
            x = np.take(x, indices, axis + 1)
    return x


def _trace_again(network: Network, x: Any) -> Graph:
    try:
        return trace_symbolic(network, x)
    except Exception as error:  # whatever the network's own code raises
        raise _CodeFixesSizes(str(error).splitlines()[0]) from error


def _compare(
    expected: list[np.ndarray], actual: list[np.ndarray], tolerance: float
) -> float:
    """Largest difference; `tolerance` is relative to max(1, the largest output)."""
    largest = 0.0
    for one, other in zip(expected, actual, strict=True):
        if one.shape != other.shape:
            raise _CodeFixesSizes(f"outputs {one.shape} became {other.shape}")
        difference = np.abs(one.astype(np.float64) - other).max(initial=0)
        scale = max(1.0, np.abs(one).max(initial=0))
        if not difference <= tolerance * scale:
            raise _CodeFixesSizes(f"outputs differ by {difference:.2g}")
        largest = max(largest, float(difference))
    return largest


def _step(
    units: TiedUnits,
    arrays: Mapping[str, Any],
    values: Mapping[Any, np.ndarray],
    fold: CoalitionFold | None,
    allow_constant: bool,
) -> tuple[dict[str, Any], dict[str, list[np.ndarray]], list[np.ndarray]] | None:
    """One step of removal: smaller arrays and kept indices; None if nothing changes."""
    graph = units.graph
    live = find_liveness(units, None if fold is None else fold.labels)
    require(
        allow_constant or not is_constant(units, live),
        "`model` is shrunk to nothing: no path of connections leads from its input to "
        "an output. Draw another sub-network, or pass allow_constant=True for a "
        "network with constant outputs.",
    )
    count = len(live.root)
    forced, held = np.zeros(count, bool), np.zeros(count, bool)
    if fold is not None:
        forced[live.root[fold.labels]] = True
        require(
            not (forced & live.pinned).any(),
            "`coalition` must not leave out outputs of the network, or units that are "
            "normalised or reshaped together; got such units. Leave that layer out.",
        )
    means = {} if fold is None else fold.means
    axes = {name: units.of(value) for name, value in graph.arrays.items()}
    axes[_INPUT] = () if units.all_inputs else units.of(graph.input)[1:]
    while True:
        folds = fold_constants(units, live, values, forced, means, held)
        removed = (~live.alive | folds.gone) & ~live.pinned & ~held
        removed[FIXED] = False
        empty = [
            live.root[labels]
            for labels in (one for many in axes.values() for one in many)
            if len(labels) and removed[live.root[labels]].all()
        ]
        if not empty:
            break
        # At least one unit of an axis is kept, if possible a dead one.
        for roots in empty:
            if removed[roots].all():
                held[roots[np.argmin(folds.gone[roots])]] = True
    keep = {
        name: [np.flatnonzero(~removed[live.root[one]]) for one in labels]
        for name, labels in axes.items()
    }
    if not any(
        removed[live.root[one]].any() for labels in axes.values() for one in labels
    ):
        return None
    changed = {name: np.array(array) for name, array in arrays.items()}
    for name, index, number in folds.additions:
        changed[name].flat[index] += number
    # A folded unit that is kept as the last of its axis must not be counted twice.
    for name, index in outgoing_entries(units, live.root, forced & held):
        changed[name].flat[index] = 0
    inputs = keep.pop(_INPUT)
    smaller = {name: jnp.asarray(changed[name][np.ix_(*keep[name])]) for name in arrays}
    return smaller, keep, inputs
