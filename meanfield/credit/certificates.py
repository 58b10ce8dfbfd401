r"""Labels with a promise: what may go at once, and what the payoff rests on.

| label     | the set                                  | the promise                |
|-----------|------------------------------------------|----------------------------|
| absent    | the largest, in rising order of r, that  | the payoff falls by at     |
|           | can be removed at once                   | most ε                     |
| important | the smallest, in falling order of φ      | it falls by at least four  |
|           | among the rest, that the payoff rests on | fifths of v(N) − v(∅)      |

One half of the examples chooses the orders and where to look, the other half certifies.
Each kind is tested at α/2, so that both promises hold at once with confidence 1 − α.

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
    """What the certified labels promise, and on what grounds.

    Attributes:
        payoff: name of the payoff, which lies in [0, 1].
        full: mean payoff of the whole network of posterior means.
        empty: mean payoff without any connection.
        without: mean payoff without the absent, the important and the variable
            connections, by kind.
        epsilon: ε, the fall of the payoff that is allowed.
        loss_bound: the fall when the absent ones go is at most this, at `level`.
        cost_bound: the fall when the important ones go is at least this, at `level`;
            NaN where none were found.
        level: 1 − α, the confidence that both hold at once.
        num_examples: number of examples that certified.
        chosen_on: rows of the data that chose the orders.
        certified_on: rows that certified.
        verdict: in words, what could be certified and what not, and why.
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
        """By how much the payoff falls when all of a kind are removed at once."""
        return {kind: self.full - after for kind, after in self.without.items()}


@dataclasses.dataclass(frozen=True)
class CertifiedSets:
    """The two sets and their certificate.

    Attributes:
        absent: by path name, what can be removed at once.
        important: by path name, what the payoff rests on.
        never_learned: by path name, whose gradient is zero on all choosing examples.
        values: φ of every connection, in units of the payoff.
        rms: r of every connection, in nats.
        certificate: the promise.
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
    """Find what can go and what must stay, and certify both.

    Args:
        ensemble: a trained ensemble.
        data: inputs and targets, not those that it learned from.
        likelihood: from outputs to a distribution.
        key: a `jax.random.key`, for the split of the data and the noise.
        epsilon: ε in (0, 1). None: 0.005, or twice the least that so many examples can
            certify where that is more.
        alpha: α in (0, 1).
        payoff: "accuracy" (classes, default), "probability" or "closeness" (real
            targets, default); see `meanfield.credit.removal`.
        num_samples: noise draws for each example of the choosing half.
        batch_size: examples in memory at once.

    Returns:
        `CertifiedSets`. Where the examples are too few, nothing can go, or all can,
        the verdict says so.

    Raises:
        ValueError: an argument out of its range, a payoff that is not bounded, or data
            that do not fit.
    """
    for name, value in (("epsilon", epsilon), ("alpha", alpha)):
        require(
            (name == "epsilon" and value is None)
            or (value is not None and 0 < value < 1),
            f"`{name}` must lie strictly between 0 and 1; got {value}.",
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
