r"""Uncertainty of a predictive distribution, split into aleatoric and epistemic.

For classes (entropies, nats), with p̄ = ⟨p⟩ over draws of the ensemble:

    total H[p̄]  =  aleatoric ⟨H[p]⟩  +  epistemic H[p̄] − ⟨H[p]⟩

For real targets (variances), where each draw gives a mean and a noise variance:

    total  =  aleatoric ⟨noise variance⟩  +  epistemic Var[mean]

Both are computed from running sums, one draw at a time, so memory does not grow with
the number of draws.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import xlogy

from meanfield.checks import first_bad, require


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """A mean prediction, with its aleatoric and its epistemic uncertainty.

    Attributes:
        mean: predictive mean: class probabilities, or the expected target.
        total: aleatoric + epistemic, in nats (classes) or squared units (targets).
        aleatoric: the part that more data would not remove.
        epistemic: the part due to uncertain weights.
    """

    mean: Float[np.ndarray, "*shape"]
    total: Float[np.ndarray, "..."]
    aleatoric: Float[np.ndarray, "..."]
    epistemic: Float[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class ClassSums:
    """Running sums over draws of class probabilities.

    Attributes:
        num_samples: draws so far.
        probs: Σ p, (batch, classes).
        entropy: Σ H[p], (batch,).
    """

    num_samples: int = 0
    probs: Any = 0.0
    entropy: Any = 0.0

    def add(self, probs: Any) -> "ClassSums":
        """The sums with one more draw, (batch, classes).

        Raises:
            ValueError: rows that are not probabilities.
        """
        probs = check_probs(probs)
        return ClassSums(
            self.num_samples + 1,
            self.probs + probs,
            self.entropy + entropy(probs),
        )

    def decompose(self) -> Decomposition:
        """Entropies in nats, (batch,).

        Raises:
            ValueError: no draw was added.
        """
        require(self.num_samples > 0, "There must be a draw; call add(probs) first.")
        mean = self.probs / self.num_samples
        total, aleatoric = entropy(mean), self.entropy / self.num_samples
        # Jensen's inequality holds up to rounding.
        return Decomposition(mean, total, aleatoric, np.maximum(total - aleatoric, 0))


@dataclasses.dataclass(frozen=True)
class TargetSums:
    """Running sums over draws of predicted means and noise variances.

    Squared deviations of the means are summed about their running mean (Welford), which
    loses no digits, unlike a difference of sums of squares.

    Attributes:
        num_samples: draws so far.
        mean: running mean of the means.
        spread: Σ (mean − running mean)².
        noise: Σ noise variance.
    """

    num_samples: int = 0
    mean: Any = 0.0
    spread: Any = 0.0
    noise: Any = 0.0

    def add(self, mean: Any, variance: Any) -> "TargetSums":
        """The sums with one more draw: its mean and noise variance, (batch, ...).

        Raises:
            ValueError: a negative or NaN variance, or a mean that is not finite.
        """
        mean, variance = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
        good = np.isfinite(mean) & (variance >= 0)
        require(
            bool(good.all()),
            "`mean` must be finite and `variance` not negative; got other values, "
            f"first at index {first_bad(~good) if good.ndim else ()}.",
        )
        count = self.num_samples + 1
        step = mean - self.mean
        centre = self.mean + step / count
        return TargetSums(
            count,
            centre,
            self.spread + step * (mean - centre),
            self.noise + variance,
        )

    def decompose(self) -> Decomposition:
        """Variances in squared units of the target, (batch, ...).

        Raises:
            ValueError: no draw was added.
        """
        require(self.num_samples > 0, "There must be a draw; call add(mean, variance).")
        aleatoric = self.noise / self.num_samples
        epistemic = self.spread / self.num_samples
        return Decomposition(self.mean, aleatoric + epistemic, aleatoric, epistemic)


def entropy(probs: Any) -> Float[np.ndarray, "..."]:
    """Entropy −Σ p ln p over the last axis, in nats.

    Example:
        >>> from meanfield.prediction.uncertainty import entropy
        >>> round(float(entropy([0.5, 0.5])), 4)
        0.6931
    """
    probs = np.asarray(probs, np.float64)
    return np.asarray(-xlogy(probs, probs).sum(-1))


def decompose_classes(draws: Iterable[Any]) -> Decomposition:
    """Split the entropy of classes over draws of probabilities.

    Args:
        draws: probabilities (samples, batch, classes), or an iterable of arrays (batch,
            classes), of which only one is in memory at a time.

    Returns:
        Mean probabilities and entropies in nats.
    """
    sums = ClassSums()
    for probs in draws:
        sums = sums.add(probs)
    return sums.decompose()


def decompose_targets(draws: Iterable[tuple[Any, Any]]) -> Decomposition:
    """Split the variance of real targets over draws.

    Args:
        draws: pairs (mean, noise variance), each (batch, ...), of which only one is in
            memory at a time.

    Returns:
        Mean prediction and variances in squared units of the target.

    Example:
        >>> import numpy as np, meanfield as mf
        >>> noise = np.array([0.5])
        >>> draws = [(np.array([1.0]), noise), (np.array([3.0]), noise)]
        >>> parts = mf.prediction.decompose_targets(draws)
        >>> parts.aleatoric.tolist(), parts.epistemic.tolist()
        ([0.5], [1.0])
    """
    sums = TargetSums()
    for mean, variance in draws:
        sums = sums.add(mean, variance)
    return sums.decompose()


def credible_interval(
    samples: Any, level: float = 0.95
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Central interval that contains a given fraction of the samples.

    Args:
        samples: draws of the quantity, (samples, ...).
        level: probability inside the interval, in (0, 1).

    Returns:
        Lower and upper end, in the shape of one sample.

    Raises:
        ValueError: `level` is outside (0, 1), or there are no samples.

    Example:
        >>> import numpy as np, meanfield as mf
        >>> mf.prediction.credible_interval(np.arange(101.0), level=0.9)
        (array(5.), array(95.))
    """
    samples = np.asarray(samples)
    require(0 < level < 1, f"`level` must lie strictly between 0 and 1; got {level}.")
    require(
        samples.ndim >= 1 and len(samples) > 0,
        f"`samples` must have draws along its first axis; got shape {samples.shape}.",
    )
    tail = (1 - level) / 2
    lower, upper = np.quantile(samples, [tail, 1 - tail], axis=0)
    return np.asarray(lower), np.asarray(upper)


def coverage(levels: Any, nominal: Any = 0.95) -> Float[np.ndarray, "..."]:
    """Fraction of targets inside the central predictive interval of a nominal level.

    Args:
        levels: cumulative predictive probability at the targets, P(Y ≤ y), any shape.
        nominal: one or more levels in (0, 1).

    Returns:
        Measured coverage for each nominal level; the two are equal for a calibrated
        prediction.

    Raises:
        ValueError: a level is not a probability.
    """
    levels, nominal = np.asarray(levels, np.float64), np.asarray(nominal, np.float64)
    for name, value in (("levels", levels), ("nominal", nominal)):
        require(
            value.size > 0 and bool(((value >= 0) & (value <= 1)).all()),
            f"`{name}` must be probabilities in [0, 1]; got other values.",
        )
    distance = np.abs(2 * levels.reshape(-1) - 1)
    return np.asarray((distance <= nominal[..., None]).mean(-1))


def check_probs(probs: Any) -> Float[np.ndarray, "batch classes"]:
    """Class probabilities as float64, (batch, classes).

    Raises:
        ValueError: another shape, entries outside [0, 1], rows that do not sum to 1.
    """
    probs = np.asarray(probs, np.float64)
    require(
        probs.ndim == 2 and probs.shape[0] > 0 and probs.shape[1] > 1,
        "`probs` must have shape (batch, classes) with at least one example and two "
        f"classes; got {probs.shape}. For one probability p, stack [1 − p, p].",
    )
    bad = ~((probs >= 0).all(1) & (np.abs(probs.sum(1) - 1) < 1e-3))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            "`probs` must be probabilities that sum to 1 over the last axis; row "
            f"{row} is {probs[row]}. Apply softmax to logits first."
        )
    return probs
