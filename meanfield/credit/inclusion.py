r"""Gradients of the payoff with respect to inclusion are probabilistic values.

If player i joins with probability q_i, all independently, the expected payoff is Owen's
multilinear extension f(q) = E v(S), and

    ∂f/∂q_i = E[v(S + i) − v(S − i)]

is i's expected marginal contribution when every other player j joins with probability
q_j: a probabilistic value. It is the Banzhaf value at q = ½, and its integral along
q = (t, …, t) is the Shapley value. The connections of an ensemble join with their
inclusion probabilities 1 − π, so one backward pass gives the values of all of them.

References:
    Owen 1972, Management Science 18:64 (multilinear extension). Weber 1988
    (probabilistic values).
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.games.evaluation import Evaluator, ValueFunction, check_game
from meanfield.games.exact import MAX_PLAYERS, all_coalitions
from meanfield.learning.batches import array_pair, check_batch
from meanfield.learning.likelihoods import Categorical
from meanfield.spikeslab import SpikeSlab

from .payoffs import choose_payoff, payoff_measure


def probabilistic_values(
    value_fn: ValueFunction, probs: Float[Any, " players"]
) -> Float[np.ndarray, " players"]:
    r"""Expected marginal contributions when the others join with given probabilities.

        ∂f/∂q_i = Σ_{S∌i} Π_{j∈S} q_j Π_{j∉S+i} (1 − q_j) [v(S + i) − v(S)]

    Args:
        value_fn: v, bool (coalitions, players) -> (coalitions,).
        probs: q in [0, 1], one for each of at most 20 players.

    Returns:
        The values, exact, by enumeration of all 2^n coalitions.

    Raises:
        ValueError: probabilities outside [0, 1], or too many players.

    Example:
        >>> import numpy as np, meanfield as mf
        >>> gloves = lambda s: (s[:, 0] & (s[:, 1] | s[:, 2])).astype(float)
        >>> mf.credit.probabilistic_values(gloves, np.full(3, 0.5)).tolist()
        [0.75, 0.25, 0.25]
    """
    q = np.asarray(probs, np.float64)
    n = check_game(value_fn, q.size)
    require(
        q.ndim == 1 and n <= MAX_PLAYERS and bool(((q >= 0) & (q <= 1)).all()),
        f"`probs` must be probabilities of at most {MAX_PLAYERS} players; got shape "
        f"{q.shape} and values from {q.min():g} to {q.max():g}.",
    )
    evaluate = Evaluator(value_fn, n, budget=2**n, chunk_size=4096, progress=None)
    payoffs = evaluate(all_coalitions(n))
    values = np.empty(n)
    for player in range(n):
        table = payoffs.reshape([2] * n)
        # Bit i of the row number is player i: the first axis is the last player.
        for other in range(n - 1, -1, -1):
            absent, present = np.take(table, 0, 0), np.take(table, 1, 0)
            if other == player:
                table = present - absent
            else:
                table = (1 - q[other]) * absent + q[other] * present
        values[player] = table
    return values


def inclusion_gradients(
    ensemble: Ensemble,
    data: tuple[Any, Any],
    *,
    key: PRNGKeyArray,
    likelihood: Any = Categorical(),  # noqa: B008  (frozen)
    payoff: str | None = None,
    temperature: float | int = 1.0,
    num_samples: int = 8,
) -> dict[str, Float[np.ndarray, "..."]]:
    r"""∂⟨payoff⟩/∂(1 − π) of every connection: its probabilistic value.

        E[payoff | connection present, w ~ N(m, Ξ)] − E[payoff | absent]

    where the other connections are present with their own probabilities. The ensemble
    treats pre-activations as Gaussian; this is exact for the squared error of a linear
    network of one layer, and approximate otherwise. Each sample takes one backward
    pass with independent noise.

    Args:
        ensemble: a trained ensemble.
        data: arrays (x, y).
        key: a `jax.random.key`.
        likelihood: as in `fit`.
        payoff: as in `NeuronGame`, except "accuracy", which has no gradient.
        temperature: temperature of the payoff "free_energy".
        num_samples: noise draws for each example.

    Returns:
        By path name, one value per connection (or per shared spike), in units of the
        payoff.

    Raises:
        ValueError: a payoff without gradient, or data that do not fit.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> data = jax.random.normal(jax.random.key(2), (8, 2)), jnp.arange(8) % 2
        >>> found = mf.credit.inclusion_gradients(ensemble, data, key=jax.random.key(3))
        >>> found["layers/0/weight"].shape
        (4, 2)
    """
    x, y = array_pair(data)
    check_batch(ensemble, likelihood, x, y)
    require(
        payoff != "accuracy",
        '`payoff` must have a gradient; got "accuracy", which has none. Use '
        '"probability".',
    )
    require(num_samples >= 1, f"`num_samples` must be at least 1; got {num_samples}.")
    outputs = eqx.filter_eval_shape(ensemble.apply_fn, ensemble.mean_params(), x)
    name = choose_payoff(payoff, likelihood, outputs)
    measure = payoff_measure(name, likelihood, temperature)
    found = _gradients(ensemble, x, y, measure, jax.random.split(key, num_samples))
    return {name: np.asarray(value, np.float64) for name, value in found.items()}


@eqx.filter_jit
def _gradients(ensemble, x, y, measure, keys) -> dict[str, Array]:
    network = ensemble.network
    weights = ensemble.weights()

    def earned(inclusion: dict[str, Array], key: Any) -> Array:
        changed = {
            name: SpikeSlab(1 - prob, weights[name].slab_mean, weights[name].slab_var)
            for name, prob in inclusion.items()
        }
        outputs = network(ensemble.with_weights(changed).params, x, key=key)
        return measure(outputs, y).mean()

    inclusion = {name: 1 - weight.spike_prob for name, weight in weights.items()}
    gradients = jax.lax.map(lambda key: jax.grad(earned)(inclusion, key), keys)
    return jax.tree.map(lambda values: values.mean(0), gradients)
