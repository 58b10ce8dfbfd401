r"""Certified labels: connections that can be removed, and connections that matter.

| label     | the set                                  | guarantee on its removal   |
|-----------|------------------------------------------|----------------------------|
| absent    | the largest set, in increasing order of  | the payoff falls by at     |
|           | r, that is certified                     | most ε                     |
| important | the smallest set, in decreasing order of | the payoff falls by at     |
|           | φ among the rest, that is certified      | least ⅘ of v(N) − v(∅)     |

Here v(N) and v(∅) are the payoffs of the whole and of the empty network, and
connections that never learn come first in the order of r. Half of the examples, at most
2,000, choose the orders and the sizes to test; the others certify. Each kind is tested
at level α/2, so that both guarantees hold at once with confidence 1 − α.

See `meanfield.credit.removal` for φ, r and the payoffs, `meanfield.credit.nested_sets`
for the tests.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.batches import array_data, check_batch

from . import bounds, removal
from .nested_sets import NestedSets, ranks_of
from .never_learned import silent_connections

EPSILON = 0.005
CHOOSERS = 2000


@dataclasses.dataclass(frozen=True)
class Certificate:
    """The guarantees of certified labels, with the measured payoffs.

    Attributes:
        payoff: name of the payoff, which lies in [0, 1].
        full: mean payoff of the whole network of posterior means.
        empty: mean payoff without any connection.
        without: by kind ("absent", "important" or "variable"), mean payoff when all
            connections of this kind are removed.
        epsilon: ε, the largest decrease of the payoff that is allowed.
        loss_bound: upper bound, at `level`, on the decrease if all absent connections
            are removed.
        cost_bound: lower bound, at `level`, on the decrease if all important
            connections are removed; NaN if there are none.
        level: 1 − α, the confidence that both bounds hold at once.
        num_examples: number of certifying examples.
        chosen_on: rows of the data by which the orders were chosen.
        certified_on: rows of the certifying examples.
        verdict: in words, what is certified and what is not, with reasons.
    """

    payoff: str
    full: float
    empty: float
    without: Mapping[str, float]
    epsilon: float
    loss_bound: float
    cost_bound: float
    level: float
    num_examples: int
    chosen_on: Int[np.ndarray, " chosen"]
    certified_on: Int[np.ndarray, " certified"]
    verdict: str

    @property
    def costs(self) -> dict[str, float]:
        """Decrease of the payoff if all connections of a kind are removed at once."""
        return {kind: self.full - after for kind, after in self.without.items()}


@dataclasses.dataclass(frozen=True)
class CertifiedSets:
    """The two sets and their certificate.

    Attributes:
        absent: masks by path name of the connections that can be removed at once.
        important: masks by path name of the important connections.
        never_learned: masks by path name of the connections whose gradient is zero on
            all choosing examples.
        values: φ of every connection, in units of the payoff.
        rms: r of every connection, in nats.
        certificate: the guarantees.
    """

    absent: dict[str, Bool[np.ndarray, "..."]]
    important: dict[str, Bool[np.ndarray, "..."]]
    never_learned: dict[str, Bool[np.ndarray, "..."]]
    values: dict[str, Float[np.ndarray, "..."]]
    rms: dict[str, Float[np.ndarray, "..."]]
    certificate: Certificate


def certify(
    ensemble: Ensemble,
    data: tuple[Any, Any],
    *,
    likelihood: Any,
    key: PRNGKeyArray,
    epsilon: float | None = None,
    alpha: float = 0.05,
    payoff: str | None = None,
    num_samples: int = 4,
    batch_size: int = 1024,
) -> CertifiedSets:
    """Find the connections that can be removed and those that matter; certify both.

    Args:
        ensemble: a trained ensemble.
        data: inputs and targets that were not used for training.
        likelihood: map from outputs to a distribution.
        key: a `jax.random.key`, for the split of the data and the noise.
        epsilon: ε in (0, 1). None means 0.005, or twice the smallest ε that the number
            of examples can certify, whichever is larger, at most 0.5.
        alpha: α in (0, 1).
        payoff: "accuracy" (classes, default), "probability" or "closeness" (real
            targets, default); see `meanfield.credit.removal`.
        num_samples: noise draws for each choosing example.
        batch_size: examples in memory at once.

    Returns:
        `CertifiedSets`. The verdict says if there are too few examples, or if none or
        all of the connections can be removed.

    Raises:
        ValueError: an argument out of its range, a payoff that is not bounded, or data
            that do not fit.
    """
    given = (
        {"alpha": alpha} if epsilon is None else {"alpha": alpha, "epsilon": epsilon}
    )
    for name, value in given.items():
        number = np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf"
        require(
            number and 0 < value < 1,
            f"`{name}` must lie strictly between 0 and 1; got {value!r}.",
        )
    require(
        bool(ensemble.weights()),
        "`ensemble` must have random weights, which are labelled; it has none. Make it "
        "by Ensemble.from_model.",
    )
    arrays = array_data(data)
    assert arrays is not None
    outputs = check_batch(ensemble, likelihood, *arrays)
    payoff = removal.choose_payoff(payoff, likelihood, outputs)
    total = jax.tree.leaves(arrays[0])[0].shape[0]
    require(
        total >= 4,
        f"`data` must have at least 4 examples, half of which certify; got {total}.",
    )
    split_key, order_key, silent_key = jax.random.split(key, 3)
    order = np.asarray(jax.random.permutation(split_key, total))
    choosers = min(total // 2, CHOOSERS)
    chosen_on, certified_on = np.sort(order[:choosers]), np.sort(order[choosers:])
    exact = payoff == "accuracy" and np.ndim(arrays[1]) == 1
    if epsilon is None:
        least = bounds.smallest_epsilon(len(certified_on), alpha / 2, exact=exact)
        epsilon = min(max(EPSILON, 2 * least), 0.5)
    choosing, certifying = (
        jax.tree.map(lambda a, rows=rows: a[rows], arrays)
        for rows in (chosen_on, certified_on)
    )
    scale = 1.0
    if payoff == "closeness":
        scale = removal.squared_error(ensemble, likelihood, choosing)
        scale = scale if scale > 0 else 1.0
    values, rms = removal.two_orders(
        ensemble, likelihood, scale, choosing, key=order_key, num_samples=num_samples
    )
    silent = silent_connections(
        ensemble, choosing[0], key=silent_key, batch_size=batch_size
    )
    on_choosing, on_certifying = (
        removal.payoffs_without(
            ensemble, likelihood, payoff, scale, part, batch_size=batch_size
        )
        for part in (choosing, certifying)
    )
    search = NestedSets(
        on_choosing, on_certifying, ensemble.num_weights, alpha / 2, exact
    )
    going = ranks_of({n: np.where(silent[n], -1.0, rms[n]) for n in rms})
    num_absent, loss, absent_verdict = search.removable(going, epsilon)
    absent = {name: rank < num_absent for name, rank in going.items()}
    staying = ranks_of({n: np.where(absent[n], np.inf, -v) for n, v in values.items()})
    num_important, cost, important_verdict = search.carrying(staying, num_absent)
    important = {name: rank < num_important for name, rank in staying.items()}
    rest = {n: ~(absent[n] | important[n]) for n in absent}
    kinds = {"important": important, "absent": absent, "variable": rest}
    certificate = Certificate(
        payoff,
        float(search.full.mean()),
        float(search.empty.mean()),
        {kind: search.mean_without(masks) for kind, masks in kinds.items()},
        epsilon,
        loss,
        cost,
        1 - alpha,
        len(certified_on),
        chosen_on,
        certified_on,
        f"{absent_verdict}; {important_verdict}",
    )
    return CertifiedSets(absent, important, silent, values, rms, certificate)
