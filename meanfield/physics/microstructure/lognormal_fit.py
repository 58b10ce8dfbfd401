r"""Lognormal microstructure: fit a lognormal to |w|, and test whether it holds.

    ln|w| ~ N(μ, σ²),     fitted by maximum likelihood: mean and deviation of ln|w|

Every tensor gets a verdict, "lognormal", "not lognormal" or "cannot tell", by the rule
of `lognormality`. Only exact zeros are left out, because they have no logarithm. Small
weights are kept, because without them a Gaussian would look lognormal. A Gaussian has
σ = π/(2√2) = 1.1107, so this value of σ is no evidence for a lognormal.

The tested claim is that of Venkatasubramanian et al. 2023, arXiv:2310.06960. The rule
for the verdict is this project's own.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from meanfield.checks import require
from meanfield.physics.named_weights import read_tensors

from .arbitrage import Arbitrage, measure_arbitrage
from .lognormality import (
    CANNOT_TELL,
    Measures,
    judge,
    kolmogorov_distance,
    ks_upper_limit,
    qq_r_squared,
)
from .rivals import chunks, fit_rivals

MIN_WEIGHTS = 50
MAX_TIE_SHARE = 0.01
MIN_TIES = 5
MIN_SIGMA = 1e-5


@dataclass(frozen=True)
class Microstructure:
    """Distribution of a tensor's magnitudes |w|; undefined numbers are `None`.

    Args:
        verdict: "lognormal", "not lognormal" or "cannot tell".
        reason: the reason for the verdict, in words.
        kind: "connections", "embedding", "vector" or "values".
        num_weights: number of entries, including zeros.
        num_zeros: number of exact zeros, which are left out of everything below.
        mu: μ, mean of ln|w|, natural logarithm.
        sigma: σ, standard deviation of ln|w|.
        mu_error: standard error of `mu`.
        sigma_error: standard error of `sigma`, valid for any kurtosis.
        skewness: skewness of ln|w|.
        excess_kurtosis: excess kurtosis of ln|w|.
        qq_r_squared: squared correlation of ordered ln|w| with normal quantiles.
        ks: Kolmogorov distance D of ln|w| from the fitted normal.
        ks_limit: value below which D passes for this number of weights.
        bic_margin: BIC(rival) − BIC(lognormal) by rival; positive favours lognormal.
        log_likelihood_margin: difference of log-likelihoods, lognormal − rival, in nats
            per weight, by rival.
        vuong_z: the same difference divided by its standard error, by rival.
        rivals: fitted parameters by rival.
        positive_fraction: fraction of positive signs among nonzero weights.
        sign_z: (positive − negative)/√n, standard normal for symmetric signs.
        arbitrage: effective utilities of the connections and their spread.
    """

    verdict: str
    reason: str
    kind: str
    num_weights: int
    num_zeros: int | None = None
    mu: float | None = None
    sigma: float | None = None
    mu_error: float | None = None
    sigma_error: float | None = None
    skewness: float | None = None
    excess_kurtosis: float | None = None
    qq_r_squared: float | None = None
    ks: float | None = None
    ks_limit: float | None = None
    bic_margin: dict[str, float] | None = None
    log_likelihood_margin: dict[str, float] | None = None
    vuong_z: dict[str, float] | None = None
    rivals: dict[str, dict[str, float]] | None = None
    positive_fraction: float | None = None
    sign_z: float | None = None
    arbitrage: Arbitrage | None = None

    @property
    def best_rival(self) -> str | None:
        """Name of the rival with the lowest BIC."""
        margins = self.bic_margin
        return None if margins is None else min(margins, key=lambda name: margins[name])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and words, ready for JSON."""
        plain = dataclasses.asdict(self) | {"best_rival": self.best_rival}
        if self.arbitrage is not None:
            plain["arbitrage"] = self.arbitrage.to_dict()
        return plain


def analyze_microstructure(
    weights: Any,
    *,
    key: PRNGKeyArray | None = None,
    important: Mapping[str, Any] | None = None,
) -> dict[str, Microstructure]:
    """Test the microstructure of every tensor of a network separately.

    Layers are never pooled: a mixture of Gaussians of several scales has a heavy tail
    and looks more lognormal than any of them. For neuron outputs, pass a mapping of
    layer names to arrays of activations.

    Args:
        weights: an array, a mapping of names to arrays or `SpikeSlab`s
            (`ensemble.weights()`), an open npz file, or any JAX parameter tree.
        key: a typed key; if given, each `SpikeSlab` is also drawn once.
        important: boolean masks by name for the important connections of `SpikeSlab`s;
            by default the published rule π = 0 and Ξ = 0.

    Returns:
        One `Microstructure` by tensor name. A `SpikeSlab` has one for each reading:
        ``name:slab_mean``, ``name:posterior_mean``, ``name:drawn``, ``name:important``.

    Raises:
        ValueError: there are no numeric arrays, or a number is complex.

    Example:
        >>> import numpy as np
        >>> w = np.random.default_rng(0).normal(size=(100, 100))
        >>> analyze_microstructure({"gaussian": w})["gaussian"].verdict
        'not lognormal'

    References:
        Venkatasubramanian et al. 2023, arXiv:2310.06960 (the claim).
    """
    tensors = read_tensors(weights, key=key, important=important)
    return {t.title: fit_microstructure(t.values, kind=t.kind) for t in tensors}


def fit_microstructure(values: Any, kind: str = "values") -> Microstructure:
    r"""Fit ln|w| ~ N(μ, σ²) by maximum likelihood and judge the fit.

    Args:
        values: real numbers of any shape: weights, or outputs of neurons.
        kind: kind of the values, copied to the result.

    Returns:
        The fit, the measures of `lognormality`, and the verdict in words. Unusable
        numbers (fewer than 50 that are not zero, one value, NaN, a few rounded
        levels) give the verdict "cannot tell" and no numbers.

    Raises:
        ValueError: the values are not real numbers (texts, flags, complex numbers, a
            tree).

    Example:
        >>> import numpy as np
        >>> w = np.random.default_rng(0).lognormal(-3.0, 0.65, size=4000)
        >>> fit = fit_microstructure(w)
        >>> fit.verdict, round(fit.sigma, 2)
        ('lognormal', 0.65)
    """
    array = np.asarray(values)
    require(
        bool(jnp.issubdtype(array.dtype, jnp.number))
        and not jnp.issubdtype(array.dtype, jnp.complexfloating),
        f"`values` must be real numbers; got an array of {array.dtype}. Pass weights "
        "or activations; for a network use analyze_microstructure.",
    )
    flat = array.ravel().astype(np.float64)
    num_weights = flat.size
    bad = num_weights - int(np.count_nonzero(np.isfinite(flat)))
    if bad:
        reason = f"{bad} of {num_weights} values are NaN or infinite."
        return Microstructure(CANNOT_TELL, reason, kind, num_weights)
    flat = flat[flat != 0]
    size, num_positive = flat.size, int(np.count_nonzero(flat > 0))
    num_zeros = num_weights - size
    logs = np.log(np.abs(flat, out=flat), out=flat)
    logs.sort()
    refusal = _refusal(logs, num_zeros)
    if refusal is not None:
        return Microstructure(CANNOT_TELL, refusal, kind, num_weights, num_zeros)
    mu, sigma = float(logs.mean()), float(logs.std())
    standard = (logs - mu) / sigma
    skewness, kurtosis = _third_and_fourth(standard)
    comparison = _compare(standard * sigma, mu, sigma)
    measures = Measures(
        size=size,
        skewness=skewness,
        excess_kurtosis=kurtosis,
        qq_r_squared=qq_r_squared(standard),
        ks=kolmogorov_distance(standard),
        bic_margin=comparison["bic_margin"],
    )
    verdict, reason = judge(measures)
    if num_zeros:
        share = num_zeros / num_weights
        reason += f" {num_zeros} exact zeros ({share:.1%}) are left out."
    return Microstructure(
        verdict=verdict,
        reason=reason,
        kind=kind,
        num_weights=num_weights,
        num_zeros=num_zeros,
        mu=mu,
        sigma=sigma,
        mu_error=sigma / size**0.5,
        sigma_error=sigma * ((kurtosis + 2) / (4 * size)) ** 0.5,
        skewness=skewness,
        excess_kurtosis=kurtosis,
        qq_r_squared=measures.qq_r_squared,
        ks=measures.ks,
        ks_limit=ks_upper_limit(size),
        positive_fraction=num_positive / size,
        sign_z=(2 * num_positive - size) / size**0.5,
        arbitrage=measure_arbitrage(logs),
        **comparison,
    )


def _refusal(logs: Float[np.ndarray, " weights"], num_zeros: int) -> str | None:
    """Why sorted logarithms do not allow a verdict, or None."""
    size = logs.size
    if size == 0:
        return f"All {num_zeros} values are exactly zero." if num_zeros else "Empty."
    if size < MIN_WEIGHTS:
        zeros = f" ({num_zeros} more are exactly zero)" if num_zeros else ""
        return f"Only {size} weights{zeros}; a verdict needs {MIN_WEIGHTS} or more."
    if logs[-1] - logs[0] < MIN_SIGMA:
        return f"All {size} weights have one magnitude, {np.exp(logs[0]):.4g}."
    starts = np.flatnonzero(np.diff(logs, prepend=-np.inf))
    most = int(np.diff(starts, append=size).max())
    if most > max(MIN_TIES, MAX_TIE_SHARE * size):
        return (
            f"{most} of {size} weights ({most / size:.1%}) share one magnitude, as "
            "after rounding to few levels, which distorts the left tail of ln|w|."
        )
    return None


def _third_and_fourth(standard: np.ndarray) -> tuple[float, float]:
    """Skewness and excess kurtosis of standardised values, in bounded memory."""
    sums = np.zeros(2)
    for part in chunks(standard):
        square = np.square(part)
        sums += float(square @ part), float(square @ square)
    return float(sums[0] / standard.size), float(sums[1] / standard.size - 3)


def _compare(centred: np.ndarray, mu: float, sigma: float) -> dict[str, Any]:
    """Likelihood of the lognormal compared with every rival, on all weights."""
    size = centred.size
    rivals = fit_rivals(centred)
    sums, squares = np.zeros(len(rivals)), np.zeros(len(rivals))
    for part in chunks(centred):
        magnitudes = np.exp(part)
        ours = -0.5 * np.square(part / sigma) - part
        ours -= np.log(sigma) + 0.5 * np.log(2 * np.pi)
        for index, rival in enumerate(rivals):
            gain = ours - rival.log_density(magnitudes)
            sums[index] += gain.sum()
            squares[index] += float(gain @ gain)
    mean = sums / size
    deviation = np.sqrt(np.maximum(squares / size - np.square(mean), 0))
    scale = float(np.exp(mu))
    result: dict[str, Any] = {
        "bic_margin": {},
        "log_likelihood_margin": {},
        "vuong_z": {},
        "rivals": {},
    }
    for rival, total, per_weight, spread in zip(
        rivals, sums, mean, deviation, strict=True
    ):
        extra = rival.num_parameters - 2
        result["bic_margin"][rival.name] = float(2 * total + extra * np.log(size))
        result["log_likelihood_margin"][rival.name] = float(per_weight)
        result["vuong_z"][rival.name] = float(per_weight / spread * size**0.5)
        result["rivals"][rival.name] = rival.parameters | {
            "scale": rival.parameters["scale"] * scale
        }
    return result
