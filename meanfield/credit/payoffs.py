r"""Payoffs: how good the outputs of a network are on one example.

| name             | payoff of an example                                          |
|------------------|---------------------------------------------------------------|
| `probability`    | p(y \| x), the probability of the true class                  |
| `accuracy`       | 1 if the most probable class is the true one, else 0          |
| `brier`          | −Σ_c (p_c − 1[c = y])²                                        |
| `log_likelihood` | ln p(y \| x), in nats                                         |
| `mse`            | −mean_k (ŷ_k − y_k)²                                          |
| `free_energy`    | −E(x, y) − T ln Σ_y' exp(−E(x, y')/T), E = −logit: T times    |
|                  | the log of the Gibbs probability of y at temperature T. For   |
|                  | real targets −E with E = ½‖y − ŷ‖²                            |

The payoff of an example with several targets (a sequence) is their mean payoff.

Source: Bouchaffra et al. 2024, arXiv:2410.12264 (Gibbs distribution over outputs); its
formula is not public, and E = −logit is this project's interpretation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from meanfield.checks import require
from meanfield.learning.distributions import (
    base_of,
    has_labels,
    is_binary,
    is_categorical,
)
from meanfield.learning.targets import align_targets, output_distribution

from .energy import excess_energy

PAYOFFS = ("probability", "accuracy", "brier", "log_likelihood", "mse", "free_energy")
OF_CLASSES = ("accuracy", "brier")
Measure = Callable[[Any, Any], Float[Array, " examples"]]


def choose_payoff(payoff: str | None, likelihood: Any, outputs: Any) -> str:
    """The payoff to use, after a check that it fits the likelihood.

    Args:
        payoff: a name, or None: "probability" for classes, "mse" for real targets.
        likelihood: map from outputs to a distribution.
        outputs: shapes or arrays of the network's outputs.

    Raises:
        ValueError: an unknown name, or a payoff that needs classes without them.
    """
    require(
        payoff is None or payoff in PAYOFFS,
        f"`payoff` must be one of {', '.join(PAYOFFS)}; got {payoff!r}.",
    )
    kinds = []

    def look(outputs: Any) -> Array:
        distribution = output_distribution(likelihood, outputs)
        kinds.append(has_labels(distribution))
        return jnp.zeros(())

    jax.eval_shape(look, outputs)
    (classes,) = kinds
    if payoff is None:
        return "probability" if classes else "mse"
    require(
        classes or payoff not in OF_CLASSES,
        f"`payoff` {payoff!r} needs classes; got a `likelihood` of real targets. Use "
        '"mse", "log_likelihood" or "free_energy".',
    )
    require(
        not classes or payoff != "mse",
        '`payoff` "mse" needs real targets; got a `likelihood` of classes. Use '
        '"probability" or "brier".',
    )
    return payoff


def payoff_measure(payoff: str, likelihood: Any, temperature: float = 1.0) -> Measure:
    """The payoff of every example as a function of outputs and targets.

    Args:
        payoff: a name of the table at the top of the module.
        likelihood: map from outputs to a distribution.
        temperature: T > 0 of the free energy.
    """

    def measure(outputs: Any, y: Any) -> Array:
        distribution = output_distribution(likelihood, outputs)
        targets = align_targets(distribution, y)
        earned = _earned(payoff, distribution, targets, temperature)
        return earned.reshape(earned.shape[0], -1).mean(1)

    return measure


def _earned(payoff: str, distribution: Any, targets: Array, temperature: float) -> Any:
    base = base_of(distribution)
    if payoff == "mse":
        return -jnp.square(distribution.mean - targets)
    if is_categorical(distribution):
        return _of_classes(payoff, base.logits, targets, temperature)
    if is_binary(distribution):
        # Binary answers are two classes, and class 0 has the logit 0.
        logits = jnp.stack([jnp.zeros_like(base.logits), base.logits], -1)
        return _of_classes(payoff, logits, targets.astype(int), temperature)
    if payoff == "free_energy":
        error = jnp.square(distribution.mean - targets)
        return -0.5 * error.reshape(error.shape[0], -1).sum(1)
    log_prob = distribution.log_prob(targets)
    return jnp.exp(log_prob) if payoff == "probability" else log_prob


def _of_classes(payoff: str, logits: Array, targets: Array, temperature: float) -> Any:
    if payoff == "accuracy":
        return (logits.argmax(-1) == targets).astype(logits.dtype)
    if payoff == "brier":
        probs = jax.nn.softmax(logits)
        return -jnp.square(probs - jax.nn.one_hot(targets, probs.shape[-1])).sum(-1)
    if payoff == "free_energy":
        return -excess_energy(-logits, targets, temperature)
    log_prob = _log_prob(logits, targets)
    return jnp.exp(log_prob) if payoff == "probability" else log_prob


def _log_prob(logits: Array, targets: Array) -> Array:
    # XLA fuses this sum with a one-hot vector, but would copy logits for a look-up.
    hot = jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
    return (logits * hot).sum(-1) - jax.nn.logsumexp(logits, -1)
