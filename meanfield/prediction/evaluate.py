"""Scores and predictions of a trained ensemble."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.batches import (
    array_pair,
    check_batch,
    check_inputs,
    input_arrays,
    outputs_of,
)
from meanfield.learning.distributions import (
    base_of,
    has_cdf,
    is_binary,
    is_categorical,
)
from meanfield.learning.likelihoods import Categorical
from meanfield.learning.targets import output_distribution
from meanfield.trees import zeros_of

from .metrics import class_scores
from .predictive import average

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Scores of the predictive distribution on data.

    Attributes:
        nll: mean of −ln p(y | x), in nats per example.
        accuracy: fraction of the examples whose most probable class is the true one.
        brier: mean of Σ_k (p_k − 1[y = k])², between 0 and 2.
        ece: expected calibration error over 15 bins of confidence of equal width.
        rmse: root mean square error of the predictive mean.
        coverage: fraction of the targets inside the central 95 % predictive interval;
            None if the distribution has no cumulative distribution function.
        num_samples: noise draws averaged in the prediction.
        by_output: scores of each target if there are several: accuracy, Brier score and
            ECE of binary targets, RMSE and coverage of real numbers. The scores above
            are over all targets together (RMSE in mixed units, if the units differ).
    """

    nll: float
    accuracy: float | None = None
    brier: float | None = None
    ece: float | None = None
    rmse: float | None = None
    coverage: float | None = None
    num_samples: int = 1
    by_output: tuple[dict[str, float], ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The scores that are defined for the task, by name."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Mean and uncertainty of the predictive distribution for some inputs.

    For classes the uncertainties are entropies in nats, for real targets variances.

    Attributes:
        mean: class probabilities (batch, classes), P(y = 1), or the expected target.
        total: uncertainty of the predictive distribution.
        aleatoric: the part of `total` that more data would not remove.
        epistemic: the part due to uncertain weights; total − aleatoric.
        lower: lower end of the central credible interval of the target; None unless
            `level` was given.
        upper: upper end of that interval.
    """

    mean: Float[np.ndarray, "batch ..."]
    total: Float[np.ndarray, "batch ..."]
    aleatoric: Float[np.ndarray, "batch ..."]
    epistemic: Float[np.ndarray, "batch ..."]
    lower: Float[np.ndarray, "batch ..."] | None = None
    upper: Float[np.ndarray, "batch ..."] | None = None


def evaluate(
    ensemble: Ensemble,
    data: tuple[Any, Any],
    *,
    likelihood: Any = Categorical(),  # noqa: B008  (frozen)
    num_samples: int = 32,
    key: PRNGKeyArray,
    mesh: Mesh | None = None,
    reading: Any = "sampled",
    of: str = "ensemble",
    scales: Mapping[str, Any] | None = None,
) -> Metrics:
    r"""Score the predictive distribution p(y | x) = ⟨p(y | x; ε)⟩_ε on data.

    Args:
        ensemble: a trained ensemble.
        data: arrays (x, y).
        likelihood: as in `fit`; for learned noise pass `result.likelihood`.
        num_samples: noise draws to average over.
        key: a `jax.random.key`.
        mesh: devices to spread the examples over, as in `fit`.
        reading: "sampled" (default), a pass through the network for every draw; or
            "moments", a single pass, in which only the last contraction is drawn; or
            "delta", the fastest, linearised about the mean network. See
            `meanfield.mean_field` for their approximations.
        of: "ensemble" (default), the average over the ensemble's noise; or
            "subnetworks", the average over the networks that ``ensemble.sample(key)``
            draws with the keys ``jax.random.split(key, num_samples)``, as exported by
            `mf.deploy`. The two differ if an example uses a weight several times; see
            `Ensemble.with_noise`.
        scales: for a single pass, factors of the layers' variances from `fit_scales`.

    Returns:
        `Metrics`: accuracy, NLL, Brier score and ECE for classes; RMSE, NLL and
        coverage for real targets.

    Raises:
        ValueError: the data do not fit the model or the likelihood, or a
            log-likelihood is NaN.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(2, 3, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> data = jnp.zeros((4, 2)), jnp.array([0, 1, 2, 0])
        >>> mf.evaluate(ensemble, data, key=jax.random.key(2)).accuracy <= 1
        True
    """
    x, y = array_pair(data)
    check_batch(ensemble, likelihood, x, y)
    means = average(
        ensemble,
        likelihood,
        x,
        y,
        num_samples=num_samples,
        key=key,
        mesh=mesh,
        reading=reading,
        of=of,
        scales=scales,
    )
    nll = -float(means["log_prob"].mean(dtype=np.float64))
    y = np.asarray(y)
    kind = output_distribution(likelihood, _example_outputs(ensemble, x))
    scores: dict[str, Any]
    if is_categorical(kind):
        probs = means["mean"].reshape(-1, means["mean"].shape[-1])
        scores = class_scores(probs, y.reshape(-1))
    else:
        score = _answer_scores if is_binary(kind) else _number_scores
        parts = [means["mean"], y.reshape(means["mean"].shape)]
        parts += [means["level"]] if "level" in means else []
        scores = score(*parts)
        if parts[0].ndim == 2 and parts[0].shape[1] > 1:
            columns = zip(*(part.T for part in parts), strict=True)
            scores["by_output"] = tuple(score(*column) for column in columns)
    return Metrics(nll=nll, num_samples=num_samples, **scores)


def predict(
    ensemble: Ensemble,
    x: Any,
    *,
    likelihood: Any = Categorical(),  # noqa: B008  (frozen)
    num_samples: int = 32,
    key: PRNGKeyArray,
    mesh: Mesh | None = None,
    reading: Any = "sampled",
    level: float | None = None,
    of: str = "ensemble",
    scales: Mapping[str, Any] | None = None,
) -> Prediction:
    r"""The predictive distribution for some inputs, and its two kinds of uncertainty.

    For classes (entropies, in nats), with p̄ = ⟨p⟩_ε:

        total H[p̄]  =  aleatoric ⟨H[p]⟩  +  epistemic H[p̄] − ⟨H[p]⟩

    For real targets (variances):  Var[y]  =  ⟨σ²(ε)⟩  +  Var_ε[mean(ε)].

    Args:
        ensemble: a trained ensemble.
        x: inputs, first axis the examples.
        likelihood: as in `fit`; for learned noise pass `result.likelihood`.
        num_samples: noise draws to average over.
        key: a `jax.random.key`.
        mesh: devices to spread the examples over, as in `fit`.
        reading: "sampled" (default), a pass through the network for every draw; or
            "moments", a single pass, in which only the last contraction is drawn; or
            "delta", the fastest, linearised about the mean network. See
            `meanfield.mean_field` for their approximations.
        of: "ensemble" (default), the average over the ensemble's noise; or
            "subnetworks", the average over the networks that ``ensemble.sample(key)``
            draws with the keys ``jax.random.split(key, num_samples)``, as exported by
            `mf.deploy`. The two differ if an example uses a weight several times; see
            `Ensemble.with_noise`.
        scales: for a single pass, factors of the layers' variances from `fit_scales`.
        level: for continuous targets, the probability of the central credible interval
            to compute, which includes the noise and the uncertainty of the weights.
            None for no interval.

    Returns:
        A `Prediction`.

    Raises:
        ValueError: the inputs do not fit the model, or `level` is given for targets
            without an interval.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> x = jax.random.normal(jax.random.key(2), (5, 4))
        >>> prediction = mf.predict(ensemble, x, key=jax.random.key(3))
        >>> prediction.mean.shape, bool((prediction.epistemic >= 0).all())
        ((5, 3), True)
    """
    x = input_arrays(x, "x")
    check_inputs(ensemble, x, "x")
    if level is not None:
        require(0 < level < 1, f"`level` must lie in (0, 1); got {level}.")
        kind = output_distribution(likelihood, _example_outputs(ensemble, x))
        require(
            has_cdf(kind),
            "`level` must be left out unless targets are continuous and their "
            "distribution has a cumulative distribution function; got "
            f"{type(base_of(kind)).__name__}.",
        )
    means = average(
        ensemble,
        likelihood,
        x,
        None,
        num_samples=num_samples,
        key=key,
        mesh=mesh,
        reading=reading,
        level=level,
        of=of,
        scales=scales,
    )
    aleatoric, epistemic = means["aleatoric"], means["epistemic"]
    ends = means.get("lower"), means.get("upper")
    return Prediction(means["mean"], aleatoric + epistemic, aleatoric, epistemic, *ends)


def _example_outputs(ensemble: Ensemble, x: Any) -> Any:
    """Zeros in the shape of the outputs for one example."""
    one = jax.tree.map(lambda a: a[:1], x)
    return zeros_of(jax.eval_shape(outputs_of(ensemble), one))


def _answer_scores(p: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Scores of predicted probabilities of y = 1."""
    p = p.reshape(-1)
    return class_scores(np.stack([1 - p, p], 1), y.reshape(-1).astype(int))


def _number_scores(
    mean: np.ndarray, y: np.ndarray, level: np.ndarray | None = None
) -> dict[str, Any]:
    """Scores of predictive means and, if it is known, of P(Y ≤ y)."""
    error = np.square(mean - y)
    scores = {"rmse": float(np.sqrt(error.mean(dtype=np.float64)))}
    if level is not None:
        tail = (1 - LEVEL) / 2
        scores["coverage"] = float(((level >= tail) & (level <= 1 - tail)).mean())
    return scores
