r"""The predictive distribution, averaged over noise draws in a stream.

    p(y | x) = ⟨ p(y | network(x; ε)) ⟩_ε

Only running sums are kept, so memory depends neither on the number of draws nor on the
number of examples.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax
from jax.scipy.special import xlogy
from jaxtyping import Array, PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble import Ensemble
from meanfield.learning.targets import align_targets, output_distribution
from meanfield.propagation import mean_field

CHUNK = 2048


def base_of(distribution: Any) -> Any:
    """The distribution under any number of `Independent` wrappers."""
    while isinstance(distribution, dist.Independent):
        distribution = distribution.base_dist
    return distribution


def is_categorical(distribution: Any) -> bool:
    """Whether the targets are classes."""
    kinds = (dist.CategoricalLogits, dist.CategoricalProbs)
    return isinstance(base_of(distribution), kinds)


def is_binary(distribution: Any) -> bool:
    """Whether the targets are answers 0 or 1."""
    kinds = (dist.BernoulliLogits, dist.BernoulliProbs)
    return isinstance(base_of(distribution), kinds)


def average(
    ensemble: Ensemble,
    likelihood: Any,
    x: Any,
    y: Any,
    *,
    num_samples: int,
    key: PRNGKeyArray,
) -> dict[str, np.ndarray]:
    """Averages over noise draws, for every example.

    Args:
        ensemble: a trained ensemble.
        likelihood: from outputs to a distribution.
        x: inputs, first axis the examples.
        y: targets, or None.
        num_samples: draws of the noise.
        key: a `jax.random.key`.

    Returns:
        `mean` (class probabilities for classes), `aleatoric`, `total` and, with
        targets, `log_prob` = ln ⟨p(y)⟩ and for real targets `level` = ⟨P(Y ≤ y)⟩.
    """
    require(num_samples >= 1, f"`num_samples` must be at least 1; got {num_samples}.")
    examples = jax.tree.leaves(x)[0].shape[0]
    require(examples >= 1, "`x` is empty; at least one example is needed.")
    chunk = min(CHUNK, examples)
    parts = []
    for number, start in enumerate(range(0, examples, chunk)):
        rows = np.minimum(np.arange(start, start + chunk), examples - 1)
        some_x, some_y = jax.tree.map(lambda a, r=rows: jnp.asarray(a[r]), (x, y))
        chunk_key = jax.random.fold_in(key, number)
        part = _average_chunk(
            ensemble, likelihood, some_x, some_y, chunk_key, num_samples
        )
        parts.append(jax.tree.map(np.asarray, part))
    joined = {
        name: np.concatenate([part[name] for part in parts])[:examples]
        for name in parts[0]
    }
    return joined


@eqx.filter_jit
def _average_chunk(
    ensemble: Ensemble,
    likelihood: Any,
    x: Any,
    y: Any,
    key: PRNGKeyArray,
    num_samples: int,
) -> dict[str, Array]:
    network = mean_field(ensemble.apply_fn)

    def draw(key: PRNGKeyArray) -> dict[str, Array]:
        outputs = network(ensemble.params, x, key=key)
        return _summary(output_distribution(likelihood, outputs), y)

    def add(sums: dict[str, Array], key: PRNGKeyArray) -> tuple[dict[str, Array], None]:
        new = draw(key)
        log_prob = {
            name: jnp.logaddexp(sums[name], new[name])
            for name in ("log_prob",)
            if name in new
        }
        return {k: sums[k] + new[k] for k in new} | log_prob, None

    first, *rest = jax.random.split(key, num_samples)
    sums = draw(first)
    if rest:
        sums, _ = lax.scan(add, sums, jnp.stack(rest))
    means = {k: v / num_samples for k, v in sums.items() if k != "log_prob"}
    if "log_prob" in sums:
        means["log_prob"] = sums["log_prob"] - jnp.log(num_samples)
    return _decompose(means)


def _summary(distribution: Any, y: Any) -> dict[str, Array]:
    """What one draw adds to the sums."""
    base = base_of(distribution)
    if is_categorical(distribution):
        probs = base.probs
        summary = {"mean": probs, "inner": -xlogy(probs, probs).sum(-1)}
    elif is_binary(distribution):
        p = base.probs
        summary = {"mean": p, "inner": -xlogy(p, p) - xlogy(1 - p, 1 - p)}
    else:
        mean = distribution.mean
        square = jnp.square(mean)
        summary = {"mean": mean, "inner": distribution.variance, "square": square}
    if y is None:
        return summary
    targets = align_targets(distribution, y)
    summary["log_prob"] = distribution.log_prob(targets)
    if "square" in summary and not base.is_discrete:
        summary["level"] = base.cdf(targets)
    return summary


def _decompose(means: dict[str, Array]) -> dict[str, Array]:
    """Total = aleatoric + epistemic: of entropies for classes, of variances else."""
    mean, aleatoric = means["mean"], means.pop("inner")
    if "square" in means:
        spread = jnp.maximum(means.pop("square") - jnp.square(mean), 0)
        total = aleatoric + spread
    elif mean.shape == aleatoric.shape:
        total = -xlogy(mean, mean) - xlogy(1 - mean, 1 - mean)
    else:
        total = -xlogy(mean, mean).sum(-1)
    return means | {"aleatoric": aleatoric, "total": total}
