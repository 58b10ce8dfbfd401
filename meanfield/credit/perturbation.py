r"""Change some connections of each label, and measure how the error changes.

| arm         | what is done to a fraction f, in every chosen layer                  |
|-------------|----------------------------------------------------------------------|
| `important` | ⌊f · #important⌋ important connections are removed (π := 1)          |
| `variable`  | the same number of variable ones is removed (or all, if fewer)       |
| `random`    | the same number is removed, whatever the labels                      |
| `absent`    | ⌊f · #absent⌋ absent ones are given fresh weights ~ N(0, s²)         |

Connections are chosen at random without replacement. Every repetition draws one
sub-network and, for every arm, one order in which connections are changed as f goes
from 0 to 1. All arms and fractions of a repetition use the same sub-network, so that
two curves differ only by the changes. Repetitions are independent, so the intervals
cover the randomness of both the sub-networks and the orders.

Intended differences from the published code: connections are drawn without replacement
and from the whole array (there the last row and column were never drawn), the random
arm removes exactly as many connections as the important arm, and s is the scale of the
present weights (there s = 1; `absent_scale=1.0` gives that).

Source: Li & Huang 2020, Learning credit assignment, arXiv:2001.03354, and its code.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from scipy import stats

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.batches import array_pair, check_batch
from meanfield.learning.distributions import (
    base_of,
    has_labels,
    is_binary,
    is_categorical,
)
from meanfield.learning.likelihoods import Categorical
from meanfield.learning.targets import align_targets, output_distribution

from .changes import (
    apply_changes,
    candidates_of,
    draw_changes,
    fresh_scale,
    numbers_of,
)
from .labels import ConnectionLabels

ARMS = ("important", "variable", "random", "absent")
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """The result of `perturb_connections`.

    Attributes:
        fractions: the fractions f, increasing.
        errors: by arm, the error of every fraction and repetition.
        num_changed: by arm, how many connections were changed at every fraction.
        num_available: by arm, how many connections could be changed.
        metric: name of the error.
        layers: path names of the layers that were changed.
    """

    fractions: Float[np.ndarray, " fractions"]
    errors: dict[str, Float[np.ndarray, "fractions samples"]]
    num_changed: dict[str, Int[np.ndarray, " fractions"]]
    num_available: dict[str, int]
    metric: str
    layers: tuple[str, ...]

    @property
    def mean(self) -> dict[str, Float[np.ndarray, " fractions"]]:
        """Mean error of every arm over the repetitions."""
        return {arm: errors.mean(1) for arm, errors in self.errors.items()}

    @property
    def intervals(self) -> dict[str, Float[np.ndarray, "fractions 2"]]:
        """95 % confidence intervals of the means (Student's t over the repetitions)."""
        return {arm: _interval(errors) for arm, errors in self.errors.items()}

    def damage(self, arm: str, than: str) -> Float[np.ndarray, "fractions 2"]:
        """95 % interval of the mean error of one arm minus that of another.

        Both arms of a repetition change the same sub-network, so the differences are
        paired.
        """
        for name in (arm, than):
            require(
                name in self.errors,
                f"`arm` and `than` must be among {list(self.errors)}; got {name!r}.",
            )
        return _interval(self.errors[arm] - self.errors[than])


def perturb_connections(
    ensemble: Ensemble,
    labels: ConnectionLabels,
    data: tuple[Any, Any],
    *,
    key: PRNGKeyArray,
    layers: Sequence[str] | None = None,
    fractions: Sequence[float | int] = tuple(i / 10 for i in range(11)),
    arms: Sequence[str] = ARMS,
    num_samples: int = 10,
    likelihood: Any = Categorical(),  # noqa: B008  (frozen)
    absent_scale: float | int | None = None,
    batch_size: int = 2048,
) -> Perturbation:
    r"""The error as a function of the fraction of connections changed, by label.

    Args:
        ensemble: a trained ensemble.
        labels: its labels; connections in their `never_learned` masks are not changed,
            because they have no effect.
        data: arrays (x, y) to measure the error on.
        key: a `jax.random.key`; an arm's curve does not depend on which other arms run.
        layers: path names of the layers to change; all by default.
        fractions: increasing numbers in [0, 1].
        arms: some of "important", "variable", "random", "absent".
        num_samples: repetitions, each with its own sub-network; at least 2.
        likelihood: as in `fit`. The error is the fraction of wrong classes, or the root
            mean square error of the predicted mean for real targets.
        absent_scale: s, the scale of the weights given to absent connections. Default:
            the root mean square √⟨(1 − π)(Ξ + m²)⟩ over the layer's connections with
            π < 1, so that new weights are as large as the present ones.
        batch_size: examples in memory at once.

    Returns:
        A `Perturbation`: errors by arm, their means and 95 % intervals.

    Raises:
        ValueError: an argument does not fit; the message says which and why.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(2, 2, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> data = jnp.ones((4, 2)), jnp.array([0, 1, 1, 0])
        >>> labels = mf.label_connections(ensemble)
        >>> result = mf.credit.perturb_connections(ensemble, labels, data,
        ...                                 key=jax.random.key(2), num_samples=3)
        >>> result.errors["variable"].shape
        (11, 3)

    References:
        Li & Huang 2020, Learning credit assignment, arXiv:2001.03354.
    """
    x, y = array_pair(data)
    weights = ensemble.weights()
    layers = tuple(weights) if layers is None else tuple(layers)
    _check(weights, labels, layers, fractions, arms, num_samples, absent_scale)
    require(batch_size >= 1, f"`batch_size` must be at least 1; got {batch_size}.")
    check_batch(ensemble, likelihood, x, y)
    candidates = {arm: candidates_of(labels, layers, arm) for arm in arms}
    counts = {
        arm: {name: numbers_of(labels, name, arm, fractions) for name in layers}
        for arm in arms
    }
    scales = {n: jnp.asarray(fresh_scale(weights[n], absent_scale)) for n in layers}
    errors = {arm: np.zeros((len(fractions), num_samples)) for arm in arms}
    for sample in range(num_samples):
        sample_key, order_key = jax.random.split(jax.random.fold_in(key, sample))
        subnetwork = _draw(ensemble, sample_key)
        measure = (likelihood, x, y, batch_size)
        intact = _error(ensemble.apply_fn, subnetwork, *measure)
        for arm in arms:
            arm_key = jax.random.fold_in(order_key, ARMS.index(arm))
            changes = draw_changes(candidates[arm], scales, arm == "absent", arm_key)
            for row in range(len(fractions)):
                numbers = {name: jnp.asarray(counts[arm][name][row]) for name in layers}
                if not any(numbers.values()):
                    errors[arm][row, sample] = intact
                    continue
                params = apply_changes(subnetwork, changes, numbers)
                errors[arm][row, sample] = _error(ensemble.apply_fn, params, *measure)
    return Perturbation(
        np.asarray(fractions, float),
        errors,
        {arm: np.sum(list(counts[arm].values()), axis=0) for arm in arms},
        {arm: sum(int(m.sum()) for m in candidates[arm].values()) for arm in arms},
        "error" if _has_classes(ensemble, likelihood, x) else "RMSE",
        layers,
    )


@eqx.filter_jit
def _draw(ensemble: Ensemble, key: PRNGKeyArray) -> Any:
    return ensemble.sample_params(key)


def _error(
    apply_fn: Any, params: Any, likelihood: Any, x: Any, y: Any, batch_size: int
) -> float:
    examples = jax.tree.leaves(x)[0].shape[0]
    total, count, classes = 0.0, 0, False
    for start in range(0, examples, batch_size):
        batch = jax.tree.map(lambda a, s=start: a[s : s + batch_size], (x, y))
        classes, part, size = _error_sum(apply_fn, params, likelihood, *batch)
        total, count = total + float(part), count + size
    return total / count if classes else math.sqrt(total / count)


@eqx.filter_jit
def _error_sum(
    apply_fn: Any, params: Any, likelihood: Any, x: Any, y: Any
) -> tuple[bool, Array, int]:
    """Sum of wrong classes or of squared errors, and the number of terms."""
    distribution = output_distribution(likelihood, apply_fn(params, x))
    targets = align_targets(distribution, y)
    if is_categorical(distribution):
        wrong = base_of(distribution).probs.argmax(-1) != targets
        return True, wrong.sum(), targets.size
    if is_binary(distribution):
        wrong = (base_of(distribution).probs > 0.5) != (targets > 0.5)
        return True, wrong.sum(), targets.size
    return False, jnp.square(distribution.mean - targets).sum(), targets.size


def _has_classes(ensemble: Ensemble, likelihood: Any, x: Any) -> bool:
    one = jax.tree.map(lambda a: a[:1], x)
    params = _draw(ensemble, jax.random.key(0))
    distribution = output_distribution(likelihood, ensemble.apply_fn(params, one))
    return has_labels(distribution)


def _interval(errors: np.ndarray) -> Float[np.ndarray, "fractions 2"]:
    mean, samples = errors.mean(1), errors.shape[1]
    half = stats.t.ppf((1 + LEVEL) / 2, samples - 1) * stats.sem(errors, axis=1)
    return np.stack([mean - half, mean + half], axis=1)


def _check(weights, labels, layers, fractions, arms, num_samples, absent_scale) -> None:
    unknown = [name for name in layers if name not in weights]
    require(
        not unknown and len(layers) > 0,
        f"`layers` must name random weights of the ensemble, {list(weights)}; got "
        f"{list(layers)}.",
    )
    bad = [
        name
        for name in layers
        if name not in labels.labels or labels.labels[name].shape != weights[name].shape
    ]
    require(
        not bad,
        f"`labels` must have labels of the right shape for {bad}. Make them with "
        "label_connections(ensemble).",
    )
    values = list(fractions)
    require(
        len(values) > 0
        and all(0 <= f <= 1 for f in values)
        and all(a < b for a, b in zip(values, values[1:], strict=False)),
        f"`fractions` must increase and lie in [0, 1]; got {values}.",
    )
    require(
        len(arms) > 0 and set(arms) <= set(ARMS) and len(set(arms)) == len(arms),
        f"`arms` must be some of {ARMS}, each once; got {list(arms)}.",
    )
    require(
        num_samples >= 2,
        f"`num_samples` must be at least 2 to give an interval; got {num_samples}.",
    )
    require(
        absent_scale is None or (math.isfinite(absent_scale) and absent_scale >= 0),
        f"`absent_scale` must be a finite number ≥ 0; got {absent_scale}. Leave it out "
        "for the scale of the weights that are present.",
    )
