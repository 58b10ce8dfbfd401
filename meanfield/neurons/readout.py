r"""Shapley values in closed form for a squared error and a linear output layer.

Units h_j feed outputs ŷ = b + Σ_j w_j h_j with independent random weights w_jc (mean w̄,
variance V); a unit outside the coalition is held at μ_j. The payoff −⟨‖y − ŷ‖²⟩ / C,
with C outputs, is then a quadratic function of the coalition, so its Shapley values are
exact for any number of units. With D_j = h_j − μ_j, R = y − b and averages ⟨⟩ over
examples,

    G = ⟨D Dᵀ⟩        K_jk = w̄_j · w̄_k + δ_jk Σ_c V_jc
    a_j = 2⟨(R · w̄_j) D_j⟩ − 2⟨D_j⟩(K μ)_j − G_jj K_jj
    J_jk = −2 G_jk K_jk (j ≠ k)          φ_j = (a_j + ½ Σ_{k≠j} J_jk) / C

The values are those of E_q[v], the mean over the posterior of the output layer; by
linearity they are also the posterior mean of the values. The layers below have their
mean weights.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.batches import array_pair
from meanfield.program.primitives import MOVES
from meanfield.program.products import weight_axis
from meanfield.program.reads import UnitRead
from meanfield.program.steps import Program, trace
from meanfield.program.units import find_units
from meanfield.spikeslab import SpikeSlab

_AFTER = frozenset(
    "add add_any sub transpose reshape squeeze broadcast_in_dim convert_element_type "
    "copy".split()
)


def readout_values(
    ensemble: Ensemble,
    layer: str,
    data: tuple[Any, Any],
    *,
    replacement: str = "mean",
) -> Float[np.ndarray, " players"]:
    r"""Exact Shapley values of the units below a linear output layer, for −MSE.

        φ_j = (a_j + ½ Σ_{k≠j} J_jk) / C,    payoff −⟨‖y − ŷ‖²⟩ / C, C outputs

    Args:
        ensemble: an ensemble whose last layer is dense, with no activation after it.
        layer: the layer below, as for `NeuronGame`.
        data: arrays (x, y), y of shape (examples,) or (examples, outputs).
        replacement: "mean" activation or "zero" for units outside.

    Returns:
        φ under the posterior of the output weights, without sampling. If these weights
        are certain, φ are the values of ``NeuronGame(..., payoff="mse")``.

    Raises:
        ValueError: the layer is followed by anything but one dense output layer.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> x = jax.random.normal(jax.random.key(2), (8, 2))
        >>> mf.neurons.readout_values(ensemble, "layers/0", (x, x[:, 0])).shape
        (4,)

    References:
        The closed form is this project's; it follows from the values of a quadratic
        game.
    """
    x, y = array_pair(data)
    require(
        replacement in ("mean", "zero"),
        f"`replacement` must be 'mean' or 'zero'; got {replacement!r}.",
    )
    points = ensemble.mean_params()
    program = trace(ensemble.apply_fn, points, x)
    read, number, side = _readout(program, layer)
    values = program.advance(program.start(points, x))
    acts = np.asarray(jnp.moveaxis(values[read.place], read.axis, -1), np.float64)
    outputs = np.asarray(program.results(values), np.float64)
    mean, var = _weights(program, ensemble, values, number, side, read)
    targets = np.asarray(y, np.float64).reshape(outputs.shape)
    acts = acts.reshape(-1, acts.shape[-1])
    outputs, targets = (a.reshape(len(acts), -1) for a in (outputs, targets))
    bias = outputs - acts @ mean
    held = acts.mean(0) if replacement == "mean" else np.zeros(acts.shape[1])
    return _quadratic(acts - held, held, mean, var, targets - bias) / outputs.shape[1]


def _quadratic(moved, held, mean, var, rest) -> Float[np.ndarray, " players"]:
    """φ of −⟨‖rest − Σ_j w_j (μ_j + z_j D_j)‖²⟩ in expectation over the weights.

    z_j is 1 inside the coalition and 0 outside.
    """
    gram = moved.T @ moved / len(moved)
    inner = mean @ mean.T + np.diag(var.sum(1))
    linear = (
        2 * ((rest @ mean.T) * moved).mean(0)
        - 2 * moved.mean(0) * (inner @ held)
        - np.diag(gram) * np.diag(inner)
    )
    pairs = -2 * gram * inner
    np.fill_diagonal(pairs, 0.0)
    return linear + pairs.sum(1) / 2


def _readout(program: Program, layer: str) -> tuple[UnitRead, int, int]:
    units = find_units(program, layer)
    reads = units.reads
    plain = (
        len(reads) == 1
        and not reads[0].others
        and reads[0].loop is None
        and len(reads[0].products) == 1
        and reads[0].kept == (reads[0].axis,)
        and len(reads[0].owner) == units.size
    )
    if plain:
        (number, side) = reads[0].products[0]
        behind = program.readers(program.steps[number].outputs)
        plain = program.steps[number].eqn.primitive.name == "dot_general" and all(
            program.steps[n].eqn.primitive.name in _AFTER for n in behind
        )
    require(
        plain,
        f"`layer` must feed one dense output layer followed by nothing but a bias; got "
        f"{layer!r}, which does not. Use NeuronGame with shapley_values.",
    )
    return reads[0], *reads[0].products[0]


def _weights(program, ensemble, values, number, side, read) -> tuple[Any, Any]:
    """Mean and variance of the output weights, (units, outputs)."""
    step = program.steps[number]
    axis = weight_axis(step, side, read.axis)
    item = step.inputs[1 - side]
    mean = np.asarray(program.read(values, item), np.float64)
    var = np.zeros_like(mean)
    names = {place: name for name, place in program.leaves.items()}
    moves, place = [], item
    while place not in names:
        made = [s for s in program.steps if place in s.outputs]
        if not made or made[0].eqn.primitive.name not in MOVES:
            break
        moves.append(made[0])
        place = made[0].inputs[0]
    weight = ensemble.weights().get(names.get(place, ""))
    if isinstance(weight, SpikeSlab):
        moved = dict(values) | {place: weight.var}
        for move in reversed(moves):
            numbers = [program.steps.index(move)]
            program.advance(moved, numbers)
        var = np.asarray(moved[item], np.float64)
    units_first = lambda a: np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1)
    return units_first(mean), units_first(var)
