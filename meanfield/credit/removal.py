r"""The payoff of a network without some connections, and two orders of removal.

The payoff of an example lies in [0, 1]:

| name          | of an example                                                     |
|---------------|-------------------------------------------------------------------|
| `accuracy`    | 1 if the most probable class is the true one, else 0              |
| `probability` | P(y \| x), the probability of the true class                      |
| `closeness`   | exp(−mean_k (y_k − ŷ_k)² / 2σ²) for real targets; σ² is the mean  |
|               | squared error of the whole network                                |

The network is that of the posterior means μ = (1 − π) m, with the removed connections
set to 0. With gates q_i on the inclusion probabilities, π_i(q) = 1 − q_i (1 − π_i), two
quantities that order the connections are computed at q = ½, where each connection is
kept with probability ½:

    value  φ_i = ⟨∂P/∂q_i⟩              positive if removal lowers the payoff
    rms    r_i = √⟨(∂ ln P/∂q_i)²⟩      small if removal changes no example

with P the probability of the true class or, for real targets, the closeness. A
connection that helps some examples as much as it harms others has φ ≈ 0 and a large r.

References:
    Owen 1972, Management Science 18:64. Banzhaf 1965, Rutgers Law Review 19:317.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.distributions import base_of, has_labels, is_categorical
from meanfield.learning.targets import align_targets, output_distribution
from meanfield.spikeslab import SpikeSlab

PAYOFFS = ("accuracy", "probability", "closeness")
# Most entries of a chunk's gradients in memory at once.
MEMORY = 2**25


def choose_payoff(payoff: str | None, likelihood: Any, outputs: Any) -> str:
    """The payoff to use, after a check that it fits the likelihood.

    Args:
        payoff: a name, or None: "accuracy" for classes, "closeness" for real targets.
        likelihood: map from outputs to a distribution.
        outputs: shapes or arrays of the network's outputs.

    Raises:
        ValueError: a payoff that is not bounded, or does not fit the targets.
    """
    require(
        payoff is None or payoff in PAYOFFS,
        "`payoff` must be bounded by [0, 1], as the certificate requires: one of "
        f"{', '.join(PAYOFFS)}; got {payoff!r}.",
    )
    kinds = []

    def look(outputs: Any) -> Array:
        kinds.append(has_labels(output_distribution(likelihood, outputs)))
        return jnp.zeros(())

    jax.eval_shape(look, outputs)
    (classes,) = kinds
    payoff = payoff or ("accuracy" if classes else "closeness")
    require(
        classes != (payoff == "closeness"),
        f"`payoff` {payoff!r} does not fit the targets of this `likelihood`; use "
        + ('"accuracy" or "probability".' if classes else '"closeness".'),
    )
    return payoff


def earned(
    payoff: str, likelihood: Any, outputs: Any, y: Any, scale: Any
) -> Float[Array, " examples"]:
    """The payoff of every example; the mean over several targets of one example.

    Args:
        payoff: a name of the table at the top of the module.
        likelihood: map from outputs to a distribution.
        outputs: outputs for a batch.
        y: targets.
        scale: σ² of "closeness".
    """
    distribution = output_distribution(likelihood, outputs)
    targets = align_targets(distribution, y)
    if payoff == "closeness":
        return jnp.exp(_log_closeness(distribution, targets, scale))
    if payoff == "probability":
        values = jnp.exp(_log_prob(distribution, targets))
    elif is_categorical(distribution):
        logits: Any = base_of(distribution).logits
        values = (logits.argmax(-1) == targets).astype(jnp.float32)
    else:
        logits = base_of(distribution).logits
        values = ((logits > 0) == (targets > 0)).astype(jnp.float32)
    return values.reshape(values.shape[0], -1).mean(1)


def _log_prob(distribution: Any, targets: Array) -> Array:
    return base_of(distribution).log_prob(targets)


def _log_closeness(distribution: Any, targets: Array, scale: Any) -> Array:
    error = jnp.square(distribution.mean - targets)
    return -error.reshape(error.shape[0], -1).mean(1) / (2 * scale)


def squared_error(ensemble: Ensemble, likelihood: Any, data: tuple[Any, Any]) -> float:
    """Mean squared error of the network of posterior means, per target."""
    x, y = data
    distribution = output_distribution(likelihood, _mean_outputs(ensemble, x))
    error = jnp.square(distribution.mean - align_targets(distribution, y))
    return float(error.mean())


@eqx.filter_jit
def _mean_outputs(ensemble: Ensemble, x: Any) -> Any:
    means = {name: weight.mean for name, weight in ensemble.weights().items()}
    return ensemble.apply_fn(ensemble.with_weights(means).params, x)


Ranks = dict[str, Int[np.ndarray, "..."]]


def payoffs_without(
    ensemble: Ensemble,
    likelihood: Any,
    payoff: str,
    scale: float,
    data: tuple[Any, Any],
    *,
    batch_size: int = 1024,
) -> Callable[[Ranks, int], Float[np.ndarray, " examples"]]:
    """A function that gives the payoffs without the first connections of an order.

    Args:
        ensemble: the ensemble.
        likelihood: map from outputs to a distribution.
        payoff: a name of the table at the top of the module.
        scale: σ² of "closeness".
        data: inputs and targets.
        batch_size: examples in memory at once.

    Returns:
        A function of ranks by path name (rank 0 is removed first) and the number of
        connections to remove. All sizes use one compiled program.
    """
    examples = jax.tree.leaves(data[0])[0].shape[0]

    def without(ranks: Ranks, size: int) -> Float[np.ndarray, " examples"]:
        places = {name: jnp.asarray(rank) for name, rank in ranks.items()}
        found = []
        for start in range(0, examples, batch_size):
            rows = slice(start, min(start + batch_size, examples))
            x, y = jax.tree.map(lambda leaf, r=rows: jnp.asarray(leaf[r]), data)
            number = jnp.asarray(size)
            part = _payoffs_without(
                ensemble, likelihood, payoff, scale, x, y, places, number
            )
            found.append(np.asarray(part, np.float64))
        return np.concatenate(found)

    return without


@eqx.filter_jit
def _payoffs_without(
    ensemble: Ensemble,
    likelihood: Any,
    payoff: str,
    scale: Any,
    x: Any,
    y: Any,
    ranks: dict[str, Array],
    size: Array,
) -> Float[Array, " examples"]:
    kept = {
        name: jnp.where(ranks[name] >= size, weight.mean, 0)
        for name, weight in ensemble.weights().items()
    }
    outputs = ensemble.apply_fn(ensemble.with_weights(kept).params, x)
    return earned(payoff, likelihood, outputs, y, scale)


def two_orders(
    ensemble: Ensemble,
    likelihood: Any,
    scale: float,
    data: tuple[Any, Any],
    *,
    key: PRNGKeyArray,
    num_samples: int = 4,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Value φ and root mean square r of every connection, at q = ½.

    Args:
        ensemble: the ensemble.
        likelihood: map from outputs to a distribution.
        scale: σ² of "closeness".
        data: inputs and targets, at least one example.
        key: a `jax.random.key`.
        num_samples: noise draws, over which the gradients of each example are averaged.

    Returns:
        φ in units of the payoff and r in nats, by path name.
    """
    x, y = data
    examples = jax.tree.leaves(x)[0].shape[0]
    chunk = int(
        np.clip(MEMORY // (ensemble.num_weights * num_samples), 1, min(256, examples))
    )
    totals: Any = None
    for start in range(0, examples, chunk):
        # The last chunk is padded with rows of weight 0, so all use one program.
        rows = np.minimum(np.arange(start, start + chunk), examples - 1)
        real = jnp.asarray(np.arange(start, start + chunk) < examples, jnp.float32)
        a, b = jax.tree.map(lambda leaf, r=rows: jnp.asarray(leaf[r]), (x, y))
        keys = jax.random.split(jax.random.fold_in(key, start), (chunk, num_samples))
        sums = _gradient_sums(ensemble, likelihood, scale, a, b, real, keys)
        totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
    values, squares = jax.device_get(totals)
    return (
        {name: total / examples for name, total in values.items()},
        {name: np.sqrt(total / examples) for name, total in squares.items()},
    )


@eqx.filter_jit
def _gradient_sums(
    ensemble: Ensemble,
    likelihood: Any,
    scale: Any,
    x: Any,
    y: Any,
    real: Float[Array, " chunk"],
    keys: Key[Array, "chunk draws"],
) -> tuple[dict[str, Array], dict[str, Array]]:
    network = ensemble.network
    weights = ensemble.weights()

    def log_payoff(gates: dict[str, Array], x: Any, y: Any, key: Any) -> Array:
        joined = {
            name: SpikeSlab(
                1 - gates[name] * weight.inclusion_prob,
                weight.slab_mean,
                weight.slab_var,
            )
            for name, weight in weights.items()
        }
        one_x, one_y = jax.tree.map(lambda leaf: leaf[None], (x, y))
        outputs = network(ensemble.with_weights(joined).params, one_x, key=key)
        distribution = output_distribution(likelihood, outputs)
        targets = align_targets(distribution, one_y)
        if has_labels(distribution):
            return _log_prob(distribution, targets).mean()
        return _log_closeness(distribution, targets, scale).mean()

    half = {name: jnp.full(weight.shape, 0.5) for name, weight in weights.items()}

    def of_example(x: Any, y: Any, keys: Any) -> Any:
        def drawn(key: Any) -> Any:
            log, gradient = jax.value_and_grad(log_payoff)(half, x, y, key)
            return jax.tree.map(lambda g: jnp.exp(log) * g, gradient), gradient

        signed, logs = jax.tree.map(lambda g: g.mean(0), jax.vmap(drawn)(keys))
        return signed, logs

    signed, logs = jax.vmap(of_example)(x, y, keys)
    return (
        jax.tree.map(lambda g: jnp.tensordot(real, g, 1), signed),
        jax.tree.map(lambda g: jnp.tensordot(real, jnp.square(g), 1), logs),
    )
