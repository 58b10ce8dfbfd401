r"""Shapley values of all connections, from a few backward passes.

Players are connections; in a coalition S the connections of S have their distributions
and the others are zero. f(q) = E v(S), where connection i joins S with probability q_i,
is Owen's multilinear extension of that game; `mean_field` computes it. Along the
diagonal

    φ_i = ∫₀¹ (1 − π_i) ∂f/∂q_i (t (1 − π)) dt,     Σ_i φ_i = f(1 − π) − f(0),

is the Shapley value of connection i in the game averaged over the posterior's
sub-networks. One backward pass gives the integrand at one t for all connections.

φ measures how much a connection raises the mean payoff. A connection that helps some
examples as much as it harms others has φ ≈ 0 and still matters: to choose connections
to remove, use the root mean square of their values over examples.

There are three sources of error: the noise, estimated by standard errors over the
draws; the quadrature, estimated by an embedded rule; and the Gaussian approximation of
pre-activations. The last is poor if a unit has few inputs, and is checked against drawn
sub-networks.

References:
    Owen 1972, Management Science 18:64 (multilinear extension). Dubey, Neyman & Weber
    1981 (semivalues). Li & Huang 2020, arXiv:2001.03354 (Gaussian pre-activations).
"""

import dataclasses
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.batches import check_batch
from meanfield.learning.likelihoods import Categorical

from .connection_gates import NOISES, Game, Where, open_gates
from .path_check import PathCheck
from .path_game import value_players
from .path_integral import cut
from .path_values import (
    PathValues,
    check_settings,
    checked_data,
    number_groups,
)
from .payoffs import choose_payoff
from .quadrature import Weighting, choose_rule


@dataclasses.dataclass(frozen=True, eq=False)
class ConnectionValues(PathValues):
    """Values of connections, from `connection_values`.

    Attributes:
        check: comparison of Gaussian pre-activations with drawn sub-networks; None if
            not asked for.
    """

    check: PathCheck | None = None


def connection_values(
    ensemble: Ensemble,
    data: Any,
    *,
    key: PRNGKeyArray,
    likelihood: Any = Categorical(),  # noqa: B008  (frozen)
    payoff: str | None = None,
    temperature: float | int = 1.0,
    path: str = "posterior",
    weighting: Weighting = None,
    num_nodes: int = 16,
    num_samples: int = 3,
    noise: str = "preactivations",
    groups: Any = None,
    where: Where | None = None,
    chunk_size: int | None = None,
    num_checks: int = 16,
) -> ConnectionValues:
    r"""Shapley values of all connections at once, in units of the payoff.

        φ_i = ∫₀¹ b(t) (1 − π_i) ∂f/∂q_i (t (1 − π)) dt,      f(q) = E v(S), S ~ q

    Args:
        ensemble: a trained ensemble, of any model that `mean_field` takes; or an
            ordinary network as `Ensemble.from_points`.
        data: arrays (x, y), the examples that the payoff averages over (at least one).
        key: a `jax.random.key`.
        likelihood: as in `fit`.
        payoff: as in `NeuronGame`, except "accuracy", which has no gradient.
        temperature: temperature of the payoff "free_energy".
        path: "posterior" (default) for the game averaged over the sub-networks of the
            posterior, in which connections of π = 1 have value 0; "full" for the game
            in which every slab can join.
        weighting: b. None for Shapley values, "banzhaf" (t = ½ alone), a pair (a, b)
            for a Beta density of t, or a function of t with mean 1.
        num_nodes: nodes of the Gauss quadrature over t.
        num_samples: draws of the noise for each example and node, at least 2.
        noise: what is drawn. "preactivations" (default): z = G + ε Δ with mean G and
            standard deviation Δ, and ε ~ N(0, 1) independent for each example and
            position. "weights": the weights, as Gaussians of the same mean and
            variance, once for a chunk of examples. If a weight is used more than once
            (a convolution, a recurrence, attention, tying), all its uses share a gate;
            "preactivations" treats them as independent, "weights" does not. A draw of
            "weights" costs half as much, but is less informative, because all examples
            of a chunk share it.
        groups: a label for each example, such as its class. The contribution of each
            label's examples to the values is then given too, at the same cost.
        where: ``where(path_name, leaf)``, whether a leaf has gates. Default: the random
            weights; in an ordinary network, the arrays of two or more dimensions.
        chunk_size: most examples in memory at once. Default: a 32nd of all examples,
            but from 8 to 256. More and smaller chunks make `rms` more precise.
        num_checks: number of drawn sub-networks for the check of the Gaussian
            pre-activations, on at most 256 of the examples; 0 for no check.

    Returns:
        `ConnectionValues`.

    Raises:
        ValueError: data without targets or that do not fit, a payoff without gradient,
            fewer than two connections, groups of another length, too few draws, or a
            payoff that is not finite.
        UnsupportedPrimitiveError: `mean_field` does not support the model.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> data = jax.random.normal(jax.random.key(2), (64, 2)), jnp.arange(64) % 2
        >>> credit = mf.connection_values(ensemble, data, key=jax.random.key(3))
        >>> credit.values["layers/0/weight"].shape
        (4, 2)
        >>> total = sum(value.sum() for value in credit.values.values())
        >>> bool(abs(total - (credit.payoff - credit.empty_payoff)) < 0.05)
        True
    """
    x, y = checked_data(data)
    outputs = check_batch(ensemble, likelihood, x, y)
    check_settings(payoff, num_samples, chunk_size, num_checks)
    require(
        noise in NOISES,
        f"`noise` must be 'preactivations' or 'weights'; got {noise!r}.",
    )
    rule = choose_rule(weighting, num_nodes)
    labels, numbers = number_groups(groups, len(jax.tree.leaves(x)[0]))
    opened, names = open_gates(ensemble, path, where)
    game = Game(
        network=opened,
        likelihood=likelihood,
        names=names,
        payoff=choose_payoff(payoff, likelihood, outputs),
        temperature=float(temperature),
        noise=noise,
    )
    order_key, path_key = jax.random.split(key)
    chunks = cut(numbers, chunk_size, order_key)
    found, check = value_players(
        game, (x, y), chunks, rule, labels, num_samples, num_checks, path_key
    )
    return ConnectionValues(**vars(found), check=check)
