r"""Which rule labels the connections of an ensemble.

| rule        | needs                | what the labels mean                            |
|-------------|----------------------|-------------------------------------------------|
| `certified` | data with targets    | absent: removable at once at a loss ≤ ε;        |
|             |                      | important: what the payoff rests on             |
| `posterior` | nothing              | what π, m and Ξ say, up to a tolerance τ        |
| `published` | nothing              | the same with τ = 0, as Li & Huang 2020         |
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.likelihoods import Categorical
from meanfield.spikeslab import SpikeSlab

from .certificates import certify
from .labels import ConnectionLabels, Label, label
from .never_learned import silent_connections

# π ≤ 0.1 is the published threshold for important connections where no exact zeros
# occur (the recurrent follow-up, Zou, Li & Huang, arXiv:2102.03740, its code).
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

    hold both with confidence 1 − α: one half of the examples orders the connections,
    the other certifies (see `meanfield.credit.certificates`). Where the examples are
    too few, or nothing can go, `.certificate.verdict` says so.

    Without targets the posterior decides:

        important  π ≤ τ and Φ(−|m|/√Ξ) ≤ τ      absent  π ≥ 1 − τ      else variable

    τ = 0 is the published, exact rule: π = 0 and Ξ = 0, π = 1, the rest. Without
    `tolerance` the ensemble as a whole chooses: if π = 0 or Ξ = 0 holds exactly
    anywhere, τ = 0; else τ = 0.1. The projected parametrization (and an untrained
    start) has such zeros; logit π and ln √Ξ would have to pass −100 for one. A run with
    a prior keeps Ξ above a floor even when projected: pass `tolerance` there.

    A connection whose gradient is exactly zero on all the data, because its input is
    always zero (a black pixel, a dead unit) or its output never matters, stays
    where it started and says nothing about learning: with `data` these are told apart,
    and the certified rule calls them absent. A constant input other than zero does
    teach its connections; they act as biases.

    Args:
        ensemble: a trained ensemble.
        data: inputs and targets (x, y), not those learned from; or inputs x alone,
            such as those trained on, for connections that never learn. Optional.
        key: a `jax.random.key` for the noise; needed with `data`.
        rule: "certified" (default with targets), "posterior" (default without) or
            "published".
        epsilon: ε in (0, 1), the fall of the payoff that is allowed. None: 0.005, or
            twice the least that so many examples can certify where that is more.
        alpha: α in (0, 1).
        likelihood: of the targets; `Categorical()` by default.
        payoff: "accuracy" (default for classes), "probability", or "closeness"
            (default for real targets), each in [0, 1].
        tolerance: τ in [0, 0.5), a probability; given, the posterior rule holds.
        num_samples: noise draws for each example; 4 for certified labels, else 1. A
            unit that fires in none of them counts as dead.
        batch_size: examples of `data` in memory at once.

    Returns:
        `ConnectionLabels`: labels, counts and fractions by layer and overall.

    Raises:
        ValueError: ε, α or τ out of range, an unknown rule, targets missing where a
            certificate needs them, a payoff that is not bounded, `data` without `key`,
            or data that the network cannot take.

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
    require(
        data is None or key is not None,
        "`key` is needed with `data`, for the noise of the ensemble; pass "
        "key=jax.random.key(seed).",
    )
    if rule == "certified":
        require(
            tolerance is None,
            f"`tolerance` belongs to the posterior rule; got {tolerance} with "
            "rule='certified'. Pass `epsilon`, the loss that is allowed.",
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
        f"`epsilon` and `payoff` belong to certified labels; got {epsilon} and "
        f"{payoff!r} with rule={rule!r}. Pass data=(x, y) and leave `tolerance` out.",
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
        "`tolerance` must lie in [0, 0.5), beyond it a connection could be absent and "
        f"important at once; got {tolerance}. 0 is the exact rule.",
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


# One program for each shape, instead of one for each operation.
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
