r"""Label the connections of an ensemble by one of three rules.

| rule        | needs                | what the labels mean                            |
|-------------|----------------------|-------------------------------------------------|
| `certified` | data with targets    | absent: removable at once at a loss ≤ ε;        |
|             |                      | important: the payoff depends on them           |
| `posterior` | nothing              | thresholds on π, m and Ξ, with a tolerance τ    |
| `published` | nothing              | the same with τ = 0, as in Li & Huang 2020      |
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray

from meanfield.checks import require, require_whole
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.likelihoods import Categorical
from meanfield.spikeslab import SpikeSlab

from .certificates import certify
from .labels import ConnectionLabels, Label, label
from .never_learned import silent_connections

# π ≤ 0.1 is the published threshold for important connections if no exact zeros occur
# (in the code of the paper on recurrent networks, Zou, Li & Huang, arXiv:2102.03740).
TOLERANCE = 0.1
RULES = ("certified", "posterior", "published")


def label_connections(
    ensemble: Ensemble,
    *,
    data: Any = None,
    key: PRNGKeyArray | None = None,
    rule: str | None = None,
    epsilon: float | None = None,
    alpha: float = 0.05,
    likelihood: Any = Categorical(),  # noqa: B008  (frozen)
    payoff: str | None = None,
    tolerance: float | int | None = None,
    num_samples: int | None = None,
    batch_size: int = 1024,
) -> ConnectionLabels:
    r"""Label every connection important, absent or variable.

    With examples and their targets the labels are certified. On examples that the
    ensemble has not learned from,

        absent     all can be removed at once: the payoff falls by at most ε
        important  their removal costs at least four fifths of v(N) − v(∅)
        variable   the rest

    where both statements hold at once with confidence 1 − α, and v(N) − v(∅) is the
    payoff with all connections less that with none. Half of the examples, at most
    2,000, rank the connections; the others are for the certificate (see
    `meanfield.credit.certificates`). If there are too few examples, or no connection
    can be removed, `.certificate.verdict` says so.

    Without targets the labels follow from the posterior:

        important  π ≤ τ and Φ(−|m|/√Ξ) ≤ τ      absent  π ≥ 1 − τ      else variable

    τ = 0 is the published, exact rule: important if π = 0 and Ξ = 0, absent if π = 1,
    else variable. By default τ = 0 if π = 0 or Ξ = 0 holds exactly for at least one
    connection of the ensemble, and τ = 0.1 otherwise. Exact zeros occur with the
    projected parametrization and before training, but not with logits, where logit π or
    ln √Ξ would have to fall below −100. With a prior, Ξ stays positive even if it is
    projected; pass `tolerance` in this case.

    The gradient of a connection is exactly zero on all the data if its input is always
    zero (a black pixel, a dead unit) or nothing depends on its output. Such a
    connection stays at its initial distribution, which says nothing about learning.
    With `data` these connections are found, and the certified rule labels them absent.
    Connections with a constant input other than zero do learn; they act as biases.

    Args:
        ensemble: a trained ensemble.
        data: inputs and targets (x, y) that were not used for training; or inputs x
            alone, such as the training inputs, to find connections that never learn.
            Optional.
        key: a `jax.random.key` for the noise; needed with `data`.
        rule: "certified" (default with targets), "posterior" (default without) or
            "published".
        epsilon: ε in (0, 1), the largest decrease of the payoff that is allowed. None
            means 0.005, or twice the smallest ε that the number of examples can
            certify, whichever is larger, at most 0.5.
        alpha: α in (0, 1).
        likelihood: likelihood of the targets; `Categorical()` by default.
        payoff: "accuracy" (default for classes), "probability", or "closeness"
            (default for real targets), each in [0, 1].
        tolerance: τ in [0, 0.5), a probability; if given, the posterior rule is used.
        num_samples: noise draws for each example; by default 4 for certified labels,
            else 1. A unit that is active in none of them counts as dead; certified
            labels use a single separate draw for this.
        batch_size: examples of `data` in memory at once.

    Returns:
        `ConnectionLabels`: labels, counts and fractions by layer and overall.

    Raises:
        ValueError: ε, α or τ is out of range, the rule is unknown, a certificate lacks
            targets, the payoff is not bounded, `data` is given without `key`, or the
            network does not accept the data.

    Example:
        >>> import jax, jax.numpy as jnp, meanfield as mf
        >>> weight = mf.SpikeSlab([[0.0, 1.0, 0.5]], [[2.0, 2.0, 2.0]], [[0.0] * 3])
        >>> network = lambda params, x: x @ params["w"]
        >>> ensemble = mf.Ensemble.from_model(
        ...     (network, {"w": jnp.ones((1, 3))}), initial=lambda *_: weight)
        >>> mf.label_connections(ensemble).labels["w"].tolist()
        [[0, 1, 2]]

    References:
        Li & Huang 2020, Learning credit assignment, arXiv:2001.03354.
    """
    pair = isinstance(data, tuple) and len(data) == 2
    rule = rule or ("certified" if pair and tolerance is None else "posterior")
    require(rule in RULES, f"`rule` must be one of {', '.join(RULES)}; got {rule!r}.")
    for name, count in (("num_samples", num_samples), ("batch_size", batch_size)):
        if count is not None:
            require_whole(name, count)
            require(count >= 1, f"`{name}` must be at least 1; got {count}.")
    require(
        data is None or key is not None,
        "`key` is needed with `data`, for the noise of the ensemble; pass "
        "key=jax.random.key(seed).",
    )
    if rule == "certified":
        require(
            tolerance is None,
            "`tolerance` must be left out with rule='certified'; got "
            f"{tolerance}. Pass `epsilon`, the loss that is allowed.",
        )
        require(
            pair,
            "`data` must be a pair (x, y) for certified labels: a certificate needs "
            "targets. Pass them, or rule='posterior'.",
        )
        return _certified(
            ensemble,
            data,
            likelihood=likelihood,
            key=key,
            epsilon=epsilon,
            alpha=alpha,
            payoff=payoff,
            num_samples=4 if num_samples is None else num_samples,
            batch_size=batch_size,
        )
    require(
        epsilon is None and payoff is None,
        f"`epsilon` and `payoff` must be left out with rule={rule!r}; got {epsilon} "
        f"and {payoff!r}. For certified labels pass data=(x, y) without `tolerance`.",
    )
    require(
        rule == "posterior" or not tolerance,
        f"`tolerance` must be left out with rule='published'; got {tolerance}.",
    )
    x = data[0] if isinstance(data, tuple) and pair else data
    tolerance = 0.0 if rule == "published" else tolerance
    draws = 1 if num_samples is None else num_samples
    return _by_posterior(ensemble, tolerance, x, key, draws, batch_size)


def _certified(ensemble: Ensemble, data: Any, **settings: Any) -> ConnectionLabels:
    sets = certify(ensemble, data, **settings)
    labels = {}
    for name, absent in sets.absent.items():
        rest = np.where(sets.important[name], Label.IMPORTANT, Label.VARIABLE)
        gone = absent | sets.never_learned[name]
        labels[name] = np.where(gone, Label.ABSENT, rest).astype(np.int8)
    return ConnectionLabels(
        labels,
        None,
        f"certified: {sets.certificate.verdict}",
        sets.never_learned,
        sets.certificate,
        sets.values,
        sets.rms,
        _inclusion_probs(ensemble),
    )


def _by_posterior(
    ensemble: Ensemble,
    tolerance: float | int | None,
    x: Any,
    key: Any,
    num_samples: int,
    batch_size: int,
) -> ConnectionLabels:
    require(
        tolerance is None or 0 <= tolerance < 0.5,
        f"`tolerance` must lie in [0, 0.5); got {tolerance}, with which a connection "
        "could be absent and important at once. 0 is the exact rule.",
    )
    weights, chosen = ensemble.weights(), "given"
    if tolerance is None:
        tolerance, chosen = _choose(weights)
    labels = {
        name: np.asarray(_label(weight, tolerance)) for name, weight in weights.items()
    }
    never_learned = None
    if x is not None:
        never_learned = silent_connections(
            ensemble, x, key=key, num_samples=num_samples, batch_size=batch_size
        )
    return ConnectionLabels(
        labels,
        tolerance,
        chosen,
        never_learned,
        inclusion_prob=_inclusion_probs(ensemble),
    )


def _inclusion_probs(ensemble: Ensemble) -> dict[str, np.ndarray]:
    weights = ensemble.weights().items()
    return {name: np.asarray(weight.inclusion_prob) for name, weight in weights}


# Compiled once for each shape, instead of once for each operation.
_label = eqx.filter_jit(label)


def _choose(weights: Mapping[str, SpikeSlab]) -> tuple[float, str]:
    exact = any(
        bool((np.asarray(part) == 0).any())
        for weight in weights.values()
        for part in (weight.spike_prob, weight.slab_var)
    )
    if exact:
        return 0.0, "exact: some connection has π = 0 or Ξ = 0"
    return TOLERANCE, "tolerance: no connection has π = 0 or Ξ = 0"
