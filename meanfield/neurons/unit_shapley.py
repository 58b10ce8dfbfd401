r"""Shapley values of all neurons at once, from a few backward passes.

Players are the units of one layer, or of all layers; a unit outside the coalition is
held at its mean activation, or at zero, as in `NeuronGame`. In the values

    φ_j = ∫₀¹ ∂f/∂s_j (t, …, t) dt,    f(s) = E v(S), unit j in S with probability s_j,

a backward pass gives the integrand for all units. The gate of a unit is a Gaussian with
the mean and variance of the Bernoulli variable it approximates, and every reader of the
unit is given the same gate, so that the pre-activations of the next layer are
correlated as they are in the game. The approximation is poor for sums over few
Bernoulli variables, which are not Gaussian; `check` measures its error.

In a game of all layers, values add up from units to layers to the payoff, so the sum
over a layer is the layer's part of the payoff.

References:
    Owen 1972, Management Science 18:64. Ghorbani & Zou 2020, arXiv:2002.09815 (neuron
    Shapley). Ancona, Öztireli & Gross 2019, arXiv:1903.10992 (Shapley values of inputs
    by propagating the moments of a random coalition).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from meanfield.checks import require
from meanfield.credit.path_check import PathCheck
from meanfield.credit.path_game import value_players
from meanfield.credit.path_integral import cut
from meanfield.credit.path_values import (
    PathValues,
    check_settings,
    checked_data,
    number_groups,
)
from meanfield.credit.payoffs import choose_payoff
from meanfield.credit.quadrature import Weighting, choose_rule
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.batches import check_batch
from meanfield.learning.likelihoods import Categorical
from meanfield.program.named_layers import attention_names, layer_names
from meanfield.program.steps import Program, trace
from meanfield.program.units import Units, find_units, units_or_none

from .unit_gates import UnitGame, with_rests

REPLACEMENTS = ("mean", "zero")


@dataclasses.dataclass(frozen=True, eq=False)
class UnitValues(PathValues):
    """Values of the units of some layers, from `unit_values`.

    Attributes:
        check: comparison of the Gaussian gates with drawn coalitions; None if
            `num_checks` is 0.
    """

    check: PathCheck | None = None


def unit_values(
    ensemble: Ensemble,
    data: Any,
    *,
    key: PRNGKeyArray,
    layer: str | Sequence[str] | None = None,
    likelihood: Any = Categorical(),  # noqa: B008  (frozen)
    payoff: str | None = None,
    temperature: float | int = 1.0,
    replacement: str = "mean",
    weighting: Weighting = None,
    num_nodes: int = 8,
    num_samples: int = 8,
    groups: Any = None,
    chunk_size: int | None = None,
    num_checks: int = 0,
) -> UnitValues:
    r"""Shapley values of the units of a layer, or of all layers in one game.

        φ_j = ∫₀¹ b(t) ∂f/∂s_j (t, …, t) dt

    Args:
        ensemble: a trained ensemble, whose network of posterior means is evaluated; or
            an ordinary network as `Ensemble.from_points`, such as a drawn one.
        data: arrays (x, y), over which payoffs and mean activations are averaged.
        key: a `jax.random.key`.
        layer: a layer, as for `NeuronGame` (units of a dense layer, channels of a
            convolution, units of a recurrent cell, heads of an attention), or several,
            whose units are then the players of one game. Default: every layer with
            units except those that compute the outputs; the heads of an attention are
            used instead of the layers that feed them.
        likelihood: as in `fit`.
        payoff: as in `NeuronGame`, except "accuracy", which has no gradient.
        temperature: temperature of the payoff "free_energy".
        replacement: "mean" activation (default) or "zero" for units outside. With
            several layers the means are those of the whole network.
        weighting: b, as for `connection_values`.
        num_nodes: nodes of the Gauss quadrature over t.
        num_samples: draws of the gates for each example and node, at least 2.
        groups: a label for each example; the values are split into the contributions of
            the groups.
        chunk_size: largest number of examples in memory at once.
        num_checks: orders of the units drawn for the check of the Gaussian gates, on at
            most 256 of the examples.

    Returns:
        `UnitValues`, by layer.

    Raises:
        ValueError: a layer does not exist or its units cannot be gated, there are fewer
            than two units, or as for `connection_values`.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(2, 2, 4, 2, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> data = jax.random.normal(jax.random.key(2), (32, 2)), jnp.arange(32) % 2
        >>> found = mf.unit_values(ensemble, data, key=jax.random.key(3))
        >>> {layer: value.shape for layer, value in found.values.items()}
        {'layers/0': (4,), 'layers/1': (4,)}
    """
    x, y = checked_data(data)
    outputs = check_batch(ensemble, likelihood, x, y)
    check_settings(payoff, num_samples, chunk_size, num_checks)
    require(
        replacement in REPLACEMENTS,
        f"`replacement` must be 'mean' or 'zero'; got {replacement!r}.",
    )
    rule = choose_rule(weighting, num_nodes)
    labels, numbers = number_groups(groups, len(jax.tree.leaves(x)[0]))
    params = ensemble.mean_params()
    one = jax.tree.map(lambda leaf: leaf[:1], x)
    units = _choose_layers(trace(ensemble.apply_fn, params, one), layer)
    order_key, path_key = jax.random.split(key)
    chunks = cut(numbers, chunk_size, order_key)
    game = UnitGame(
        params=params,
        likelihood=likelihood,
        rests=None,
        apply_fn=ensemble.apply_fn,
        names=tuple(units),
        sizes=tuple(own.size for own in units.values()),
        payoff=choose_payoff(payoff, likelihood, outputs),
        temperature=float(temperature),
        replacement=replacement,
    )
    game = with_rests(game, x, chunks)
    found, check = value_players(
        game, (x, y), chunks, rule, labels, num_samples, num_checks, path_key
    )
    return UnitValues(**vars(found), check=check)


def _choose_layers(
    program: Program, layer: str | Sequence[str] | None
) -> dict[str, Units]:
    """The units of the layers that are in the game."""
    if layer is not None:
        names = [layer] if isinstance(layer, str) else list(layer)
        units = {name: find_units(program, name) for name in names}
    else:
        units = all_layers(program)
    count = sum(own.size for own in units.values())
    require(
        count >= 2,
        f"`layer` must name layers with at least two units in total; got {count} in "
        f"{sorted(units)}. Choose among the layers {layer_names(program)}.",
    )
    return units


def all_layers(program: Program) -> dict[str, Units]:
    """Every layer with units of its own, except those that compute the outputs.

    Look-ups, and layers whose results mix units, have no units of their own. Layers
    that drive the same state, such as the gates of a recurrent cell, count once. The
    heads of an attention are used instead of the layers that feed them.
    """
    found: dict[str, Units] = {}
    heads = {name: find_units(program, name) for name in attention_names(program)}
    seen = set()
    for name in sorted({*layer_names(program), *heads}):
        own = units_or_none(program, name)
        if own is None or _feeds_heads(own, heads.get(name.rpartition("/")[0])):
            continue
        places = frozenset((read.place, read.loop) for read in own.reads)
        last = any(p in program.outputs and loop is None for p, loop in places)
        if places and not last and places not in seen:
            seen.add(places)
            found[name] = own
    return found


def _feeds_heads(own: Units, heads: Units | None) -> bool:
    """Whether a layer is read before the heads of its attention are computed."""
    if heads is None or heads.place is None:
        return False
    return all(read.place < heads.place for read in own.reads)
