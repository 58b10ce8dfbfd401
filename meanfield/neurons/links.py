r"""Numbers of connections of every neuron by label, and a test of strong coalitions.

For each unit of a layer: the numbers of incoming and outgoing important, absent and
variable connections, and its expected degree Σ(1 − π). A permutation test tells whether
strong neurons have more important connections than the others: with c_i connections of
unit i and S the strong coalition,

    T = mean_{i∈S} c_i − mean_{i∉S} c_i        p = (1 + #{T* ≥ T}) / (1 + shuffles)

The effect size is Cliff's δ = P(c_i > c_j) − P(c_i < c_j), i in S, j outside: 0 for no
association, 1 if every strong unit has more than every other unit.

References:
    Cliff 1993, Psychological Bulletin 114:494. Phipson & Smyth 2010, arXiv:1603.05766
    (the 1 + in the p-value).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from meanfield.checks import require
from meanfield.credit.labels import ConnectionLabels, Label
from meanfield.ensemble.ensemble import Ensemble
from meanfield.program.jaxprs import bind
from meanfield.program.primitives import MOVES
from meanfield.program.products import weight_axis
from meanfield.program.steps import Program, Step, trace
from meanfield.program.units import find_units

_CASTS = frozenset("convert_element_type copy".split())


@dataclasses.dataclass(frozen=True)
class NeuronLinks:
    """Numbers of connections of the units of a layer.

    Attributes:
        incoming: by label in words, number of incoming connections, (units,).
        outgoing: the same for outgoing connections, to the next weights.
        expected_in: Σ(1 − π) over incoming connections.
        expected_out: Σ(1 − π) over outgoing connections.
        value_in: Σφ over incoming connections; None without `values`. Every connection
            comes into one unit, so these sum to the value of the layer's connections.
        value_out: the same for those that go out, which come into the next layer.
    """

    incoming: dict[str, Int[np.ndarray, " units"]]
    outgoing: dict[str, Int[np.ndarray, " units"]]
    expected_in: Float[np.ndarray, " units"]
    expected_out: Float[np.ndarray, " units"]
    value_in: Float[np.ndarray, " units"] | None = None
    value_out: Float[np.ndarray, " units"] | None = None

    def total(self, label: str) -> Int[np.ndarray, " units"]:
        """Number of incoming and outgoing connections of a label."""
        return self.incoming[label] + self.outgoing[label]


@dataclasses.dataclass(frozen=True)
class LinkTest:
    """Whether members of a coalition have more connections than the other units.

    Attributes:
        difference: T, mean inside − mean outside.
        effect: Cliff's δ in [−1, 1].
        p_value: one-sided p-value of T, by shuffling.
        inside, outside: the two means.
    """

    difference: float
    effect: float
    p_value: float
    inside: float
    outside: float


def neuron_links(
    ensemble: Ensemble,
    labels: ConnectionLabels,
    layer: str,
    x: Any,
    values: Mapping[str, Any] | None = None,
) -> NeuronLinks:
    """Numbers of important, absent and variable connections of every unit.

    Connections that never learned (known for labels made with ``data=``) are not
    counted, because their labels are those before training.

    Args:
        ensemble: a trained ensemble.
        labels: its labels.
        layer: a dense layer or a convolution, as for `NeuronGame`.
        x: a batch of inputs (one example is enough), to trace the network with.

    Returns:
        `NeuronLinks`: by label, numbers of incoming and outgoing connections per unit.

    Raises:
        ValueError: there is no such layer, or it is recurrent, so that a connection
            belongs to a gate and not to a unit.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> links = mf.neurons.neuron_links(ensemble, mf.label_connections(ensemble),
        ...                         "layers/0", jax.numpy.ones((1, 2)))
        >>> links.incoming["variable"].tolist(), links.outgoing["variable"].tolist()
        ([2, 2, 2, 2], [3, 3, 3, 3])
    """
    points = ensemble.mean_params()
    program = trace(ensemble.apply_fn, points, x)
    units = find_units(program, layer)
    require(
        not units.bodies,
        f"`layer` must be a dense layer or a convolution; got {layer!r}, which is "
        "recurrent: its connections belong to gates, not to units.",
    )
    require(
        units.product is not None,
        f"`layer` {layer!r} is an attention: its heads have no connections of their "
        "own. Count those of a dense layer or a convolution.",
    )
    assert units.product is not None
    number, side, axis = units.product
    first = (program.steps[number].inputs[side], axis, np.arange(units.size))
    later = []
    for read in units.reads:
        for at, operand in read.products:
            step = program.steps[at]
            along = weight_axis(step, operand, read.axis)
            later.append((step.inputs[1 - operand], along, read.owner))
    incoming, expected_in = _count(ensemble, labels, program, [first], units.size)
    outgoing, expected_out = _count(ensemble, labels, program, later, units.size)
    value_in = value_out = None
    if values is not None:
        value_in = _sum_values(values, program, [first], units.size)
        value_out = _sum_values(values, program, later, units.size)
    return NeuronLinks(
        incoming, outgoing, expected_in, expected_out, value_in, value_out
    )


def link_test(
    mask: Bool[Any, " units"],
    counts: Any,
    *,
    key: PRNGKeyArray,
    num_shuffles: int = 9_999,
) -> LinkTest:
    """Test whether units of a coalition have more connections than the others.

    Args:
        mask: mask of the units in the coalition.
        counts: a number for every unit: connections, such as
            ``links.total("important")``, or their credit, ``links.value_in``.
        key: a `jax.random.key`.
        num_shuffles: shuffles of the coalition.

    Returns:
        A `LinkTest`: effect size, p-value and the compared means.

    Raises:
        ValueError: shapes differ, or no unit or every unit is in the coalition.

    Example:
        >>> import jax, numpy as np, meanfield as mf
        >>> mask = np.array([True] * 5 + [False] * 5)
        >>> counts = np.arange(10)[::-1]
        >>> found = mf.neurons.link_test(mask, counts, key=jax.random.key(0))
        >>> found.effect, found.p_value < 0.05
        (1.0, True)
    """
    inside, c = np.asarray(mask, bool), np.asarray(counts, np.float64)
    require(
        inside.ndim == 1 and inside.shape == c.shape,
        f"`counts` must have one number for each of the {inside.size} units; got shape "
        f"{c.shape}.",
    )
    require(
        bool(inside.any() and not inside.all()),
        "`mask` must have units inside and outside the coalition; got "
        f"{int(inside.sum())} of {inside.size} units inside.",
    )
    require(
        num_shuffles >= 1, f"`num_shuffles` must be at least 1; got {num_shuffles}."
    )
    count = int(inside.sum())
    seen = c[inside].mean() - c[~inside].mean()
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    shuffled = rng.permuted(np.tile(c, (num_shuffles, 1)), axis=1)
    sums = shuffled[:, :count].sum(1)
    drawn = sums / count - (c.sum() - sums) / (c.size - count)
    # Sums of the same numbers in another order may differ in the last digit.
    reached = int((drawn >= seen - 1e-9 * max(1.0, abs(seen))).sum())
    sign = np.sign(c[inside][:, None] - c[~inside])
    return LinkTest(
        float(seen),
        float(sign.mean()),
        (1 + reached) / (1 + num_shuffles),
        float(c[inside].mean()),
        float(c[~inside].mean()),
    )


def _count(ensemble, labels, program, parts, size) -> tuple[dict[str, Any], Any]:
    """Connections by label and expected degree of every unit."""
    counts = {label.name.lower(): np.zeros(size, int) for label in Label}
    expected = np.zeros(size)
    for place, axis, owner in parts:
        name, ids = _origin(program, place)
        if name not in labels.labels:
            continue
        moved = np.moveaxis(ids, axis, 0).reshape(len(owner), -1)
        own = np.asarray(labels.labels[name]).ravel()[moved]
        learned = np.ones(own.shape, bool)
        if labels.never_learned is not None:
            learned = ~np.asarray(labels.never_learned[name]).ravel()[moved]
        for label in Label:
            hits = ((own == label) & learned).sum(1)
            np.add.at(counts[label.name.lower()], owner, hits)
        weight = ensemble.weights()[name]
        # If connections share a spike, π is broadcast along these axes.
        present = 1 - np.asarray(weight.spike_prob, np.float64)
        present = np.broadcast_to(present, weight.shape)
        np.add.at(expected, owner, present.ravel()[moved].sum(1))
    return counts, expected


def _sum_values(
    values: Mapping[str, Any], program: Program, parts: Any, size: int
) -> Float[np.ndarray, " units"]:
    """Credit of the connections of every unit."""
    found = np.zeros(size)
    for place, axis, owner in parts:
        name, ids = _origin(program, place)
        if name in values:
            moved = np.moveaxis(ids, axis, 0).reshape(len(owner), -1)
            credit = np.asarray(values[name], np.float64).ravel()
            np.add.at(found, owner, credit[moved].sum(1))
    return found


def _origin(program: Program, place: Any) -> tuple[str, Any]:
    """The parameter from which an operand is made, and the entry at every position."""
    names = {own: name for name, own in program.leaves.items()}
    moves: list[Step] = []
    while place not in names:
        made = [step for step in program.steps if place in step.outputs]
        if not made or made[0].eqn.primitive.name not in MOVES:
            return "", np.zeros(program.shapes[place], int)
        moves.append(made[0])
        place = made[0].inputs[0]
    shape = program.shapes[place]
    ids: Any = np.arange(int(np.prod(shape))).reshape(shape)
    for step in reversed(moves):
        if step.eqn.primitive.name not in _CASTS:
            (ids,) = bind(step.eqn, ids)
    return names[place], np.asarray(ids)
