r"""The predictive distribution, averaged over noise draws one at a time.

    p(y | x) = ⟨ p(y | network(x; ε)) ⟩_ε

Only running sums are kept, for one chunk of examples at a time, so working memory
depends neither on the number of draws nor on the number of examples.

In the moments reading the network runs once and propagates mean and variance. Only the
last contraction is drawn, so that outputs keep their covariance.
"""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import xlogy
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray

from meanfield.checks import require, require_whole
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.distributions import (
    base_of,
    has_cdf,
    has_labels,
    is_categorical,
)
from meanfield.learning.sharding import Layout, gathered
from meanfield.learning.targets import align_targets, output_distribution
from meanfield.propagation import joint_output_distribution
from meanfield.propagation.transformation import check_reading
from meanfield.trees import zeros_of

from .quantile_search import central_interval

CHUNK = 2048


def average(
    ensemble: Ensemble,
    likelihood: Any,
    x: Any,
    y: Any,
    *,
    num_samples: int,
    key: PRNGKeyArray,
    mesh: Mesh | None = None,
    reading: Any = "sampled",
    level: float | None = None,
    of: str = "ensemble",
    scales: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Averages over noise draws, for every example.

    Args:
        ensemble: a trained ensemble.
        likelihood: map from outputs to a distribution.
        x: inputs, first axis the examples.
        y: targets, or None.
        num_samples: draws of the noise.
        key: a `jax.random.key`.
        mesh: devices to spread the examples over, as in `fit`.
        reading: "sampled", a pass through the network for every draw; or "moments" or
            "delta", one pass, and draws of its outputs.
        level: probability of the central interval, or None.
        of: "ensemble"; or "subnetworks", where draw i uses the network
            ``ensemble.sample(jax.random.split(key, num_samples)[i])``.
        scales: factors of variances in one pass, as for `meanfield.mean_field`.

    Returns:
        Always `mean` (class probabilities for classes), `aleatoric` and `epistemic`;
        with targets, `log_prob` = ln ⟨p(y)⟩, and `level` = ⟨P(Y ≤ y)⟩ if the
        distribution has a cumulative distribution function; with the argument `level`,
        `lower` and `upper`.

    Raises:
        ValueError: there are no draws or examples, `reading` or `of` is unknown, or a
            log-likelihood is NaN.
    """
    check_reading(reading)
    require(
        scales is None or reading != "sampled",
        "`scales` must be left out in the sampled reading, which has no variances.",
    )
    require(
        of in ("ensemble", "subnetworks"),
        f"`of` must be 'ensemble' or 'subnetworks'; got {of!r}.",
    )
    require(
        of == "ensemble" or reading == "sampled",
        "`reading` must be left out with `of='subnetworks'`, because the moments "
        "reading draws no networks.",
    )
    require_whole("num_samples", num_samples)
    require(num_samples >= 1, f"`num_samples` must be at least 1; got {num_samples}.")
    examples = jax.tree.leaves(x)[0].shape[0]
    require(examples >= 1, "`x` must have at least one example; got none.")
    layout = Layout(mesh, None)
    chunk = layout.whole(min(CHUNK, examples))
    ensemble, likelihood, key = layout.everywhere((ensemble, likelihood, key))
    parts = []
    for number, start in enumerate(range(0, examples, chunk)):
        rows = np.minimum(np.arange(start, start + chunk), examples - 1)
        # Indexing compiles a program of its own, and a single chunk does not need it.
        look_up = (lambda a: a) if chunk == examples else (lambda a, r=rows: a[r])
        some = jax.tree.map(lambda a, f=look_up: jnp.asarray(f(a)), (x, y))
        some_x, some_y = layout.split(some)
        # All chunks use the same sub-networks, and each has its own noise.
        chunk_key = key if of == "subnetworks" else jax.random.fold_in(key, number)
        way = of if of == "subnetworks" else reading
        part = average_chunk(
            ensemble, likelihood, some_x, some_y, chunk_key, num_samples, way, scales
        )
        if level is not None:
            part |= _interval_chunk(
                ensemble, likelihood, some_x, chunk_key, num_samples, way, level, scales
            )
        parts.append(jax.tree.map(np.asarray, gathered(part)))
    found = {
        name: np.concatenate([part[name] for part in parts])[:examples]
        for name in parts[0]
    }
    bad = np.isnan(found.get("log_prob", np.zeros(1)))
    require(
        not bad.any(),
        f"`likelihood` gave a log-likelihood of NaN for example {int(bad.argmax())}. "
        "Look for numbers that are not finite in the ensemble, or parameters outside "
        "the distribution's range.",
    )
    return found


@eqx.filter_jit
def average_chunk(
    ensemble: Ensemble,
    likelihood: Any,
    x: Any,
    y: Any,
    key: PRNGKeyArray,
    num_samples: int,
    way: str = "sampled",
    scales: Mapping[str, Any] | None = None,
) -> dict[str, Array]:
    """The averages of `average`, for examples that are computed together."""
    outputs_of = _drawer(ensemble, x, way, scales)

    def draw(key: PRNGKeyArray) -> dict[str, Array]:
        summary = _summary(output_distribution(likelihood, outputs_of(key)), y)
        return jax.tree.map(_at_least_float32, summary)

    def add(kept: dict[str, Array], numbered: Any) -> tuple[dict[str, Array], None]:
        number, key = numbered
        new = draw(key)
        log_prob, scatter = kept.get("log_prob"), kept["scatter"]
        means = {
            name: kept[name] + _difference(value, kept[name]) / number
            for name, value in new.items()
            if name != "log_prob"
        }
        before = _difference(new["mean"], kept["mean"])
        means["scatter"] = scatter + before * _difference(new["mean"], means["mean"])
        if log_prob is not None:
            means["log_prob"] = jnp.logaddexp(log_prob, new["log_prob"])
        return means, None

    kind = output_distribution(likelihood, zeros_of(jax.eval_shape(outputs_of, key)))
    start = {
        name: jnp.full(shape.shape, -jnp.inf if name == "log_prob" else 0, shape.dtype)
        for name, shape in jax.eval_shape(draw, key).items()
    }
    start["scatter"] = jnp.zeros_like(start["mean"])
    numbers = jnp.arange(1, num_samples + 1, dtype=jnp.float32)
    means, _ = lax.scan(add, start, (numbers, jax.random.split(key, num_samples)))
    if "log_prob" in means:
        means["log_prob"] -= jnp.log(num_samples)
    aleatoric, scatter = means.pop("inner"), means.pop("scatter")
    if has_labels(kind):
        epistemic = jnp.maximum(_entropy(kind, means["mean"]) - aleatoric, 0)
    else:
        epistemic = scatter / num_samples
    return means | {"aleatoric": aleatoric, "epistemic": epistemic}


@eqx.filter_jit
def _interval_chunk(
    ensemble: Ensemble,
    likelihood: Any,
    x: Any,
    key: PRNGKeyArray,
    num_samples: int,
    way: str,
    level: float,
    scales: Mapping[str, Any] | None = None,
) -> dict[str, Array]:
    """Ends of the central interval, from the same draws."""
    outputs_of = _drawer(ensemble, x, way, scales)
    keys = jax.random.split(key, num_samples)
    shapes = jax.eval_shape(outputs_of, key)
    example = base_of(output_distribution(likelihood, zeros_of(shapes)))

    def distribution_of(key: PRNGKeyArray) -> Any:
        return base_of(output_distribution(likelihood, outputs_of(key)))

    return central_interval(distribution_of, keys, level, example.batch_shape)


def _drawer(
    ensemble: Ensemble, x: Any, way: str, scales: Mapping[str, Any] | None
) -> Callable[[Any], Any]:
    """A function from a key to one draw of the outputs."""
    if way == "subnetworks":
        return lambda key: ensemble.apply_fn(ensemble.sample_params(key), x)
    if way in ("moments", "delta"):
        distribution = joint_output_distribution(ensemble.apply_fn, way, scales)
        return distribution(ensemble.params, x)
    network = ensemble.network
    return lambda key: network(ensemble.params, x, key=key)


def _at_least_float32(array: Array) -> Array:
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _difference(new: Array, old: Array) -> Array:
    """new − old, but 0 if both are the same infinity."""
    return jnp.where(new == old, 0, new - old)


def _entropy(distribution: Any, mean: Array) -> Array:
    """Entropy in nats of class probabilities, or of P(y = 1)."""
    if is_categorical(distribution):
        return -xlogy(mean, mean).sum(-1)
    return -xlogy(mean, mean) - xlogy(1 - mean, 1 - mean)


def _summary(distribution: Any, y: Any) -> dict[str, Array]:
    """The contribution of one draw to the averages."""
    base = base_of(distribution)
    if has_labels(distribution):
        summary = {"mean": base.probs, "inner": _entropy(distribution, base.probs)}
    else:
        mean, variance = _mean_and_variance(distribution)
        summary = {"mean": mean, "inner": variance}
    if y is None:
        return summary
    targets = align_targets(distribution, y)
    summary["log_prob"] = distribution.log_prob(targets)
    if has_cdf(base):
        summary["level"] = base.cdf(targets)
    return summary


def _mean_and_variance(distribution: Any) -> tuple[Array, Array]:
    try:
        return distribution.mean, distribution.variance
    except NotImplementedError as error:
        kind = type(base_of(distribution)).__name__
        raise ValueError(
            f"`likelihood` gives {kind}, for which NumPyro has no mean or no variance; "
            "a prediction needs both. Give the distribution's class these properties, "
            "or use `to_arviz`, which needs only samples and log-likelihoods."
        ) from error
