r"""Test whether ln|w| is normal: several measures, and a rule for the verdict.

A histogram fit with R² near 1 is not enough: Laplace and Student weights reach .98 to
.999. The verdict is "lognormal" only if every measure passes.

| measure of x = ln|w|                    | passes               | fails              |
|-----------------------------------------|----------------------|--------------------|
| skewness s                              | |s| < 0.2            | 2 s.e. beyond      |
| excess kurtosis k                       | |k| < 0.5            | 2 s.e. beyond      |
| normal Q-Q correlation r²               | r² > 0.995           | below its 1 % value|
| Kolmogorov distance D to N(μ̂, σ̂)       | D < max(D₉₉(n), 0.02)| otherwise          |
| BIC(rival) − BIC(lognormal), six rivals | > 10                 | < −10              |
| the same, two near rivals               | otherwise            | < −10              |

Any failure gives "not lognormal"; a measure between passing and failing gives "cannot
tell". A near rival (inverse Gaussian, Birnbaum-Saunders) can lead to "not lognormal",
but not to "cannot tell", because few or narrowly distributed weights cannot distinguish
it from the lognormal. The reason for a verdict "lognormal" names such rivals, with the
difference of the log-likelihoods in nats per weight. If ln w of a near rival has
standard deviation 0.65, half of the samples of 2,000 weights and all of 40 samples of
20,000 get "not lognormal"; at standard deviation 0.3, one in five of 20,000
(experiments/benchmarks/microstructure_power.py).

The standard errors are those under the lognormal, √(6/n) and √(24/n). D₉₉ is the 99 %
value for estimated parameters (Lilliefors), so that one in a hundred true lognormals
fails; a distance below 0.02 passes for every n. The rule, and its use of the sampling
error, are this project's own.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special

from .rivals import NEAR_RIVALS

MAX_SKEWNESS = 0.2
MAX_KURTOSIS = 0.5
MIN_QQ = 0.995
CLOSE_ENOUGH = 0.02
STRONG_EVIDENCE = 10.0
LOGNORMAL, NOT_LOGNORMAL, CANNOT_TELL = "lognormal", "not lognormal", "cannot tell"


@dataclass(frozen=True)
class Measures:
    """The measures that the rule uses.

    Args:
        size: number of weights n.
        skewness: skewness of ln|w|.
        excess_kurtosis: excess kurtosis of ln|w|.
        qq_r_squared: r² of the normal Q-Q plot of ln|w|.
        ks: Kolmogorov distance D from the fitted normal.
        bic_margin: BIC(rival) − BIC(lognormal) by rival.
    """

    size: int
    skewness: float
    excess_kurtosis: float
    qq_r_squared: float
    ks: float
    bic_margin: dict[str, float]


def judge(measures: Measures) -> tuple[str, str]:
    """Verdict and reason in words, by the module's table.

    Example:
        >>> judge(Measures(5000, -1.5, 4.0, 0.9, 0.1, {"half-normal": -900.0}))[0]
        'not lognormal'
    """
    n = measures.size
    far = {k: v for k, v in measures.bic_margin.items() if k not in NEAR_RIVALS}
    near = {k: v for k, v in measures.bic_margin.items() if k in NEAR_RIVALS}
    skew, kurtosis = abs(measures.skewness), abs(measures.excess_kurtosis)
    qq_limit, ks_limit = qq_lower_limit(n), ks_upper_limit(n)
    rival = min(far, key=lambda name: far[name])
    margin = far[rival]
    rows = [
        (
            skew < MAX_SKEWNESS,
            skew - 2 * (6 / n) ** 0.5 > MAX_SKEWNESS,
            f"skewness {measures.skewness:.2f} (needs under {MAX_SKEWNESS})",
        ),
        (
            kurtosis < MAX_KURTOSIS,
            kurtosis - 2 * (24 / n) ** 0.5 > MAX_KURTOSIS,
            f"excess kurtosis {measures.excess_kurtosis:.2f} "
            f"(needs under {MAX_KURTOSIS})",
        ),
        (
            measures.qq_r_squared > MIN_QQ,
            measures.qq_r_squared < qq_limit,
            f"Q-Q r² {measures.qq_r_squared:.4f} (needs above {MIN_QQ})",
        ),
        (
            measures.ks < ks_limit,
            measures.ks >= ks_limit,
            f"Kolmogorov distance {measures.ks:.4f} (needs under {ks_limit:.4f})",
        ),
        (
            margin > STRONG_EVIDENCE,
            margin < -STRONG_EVIDENCE,
            f"BIC against {rival} {margin:+.0f} (needs above {STRONG_EVIDENCE:+.0f})",
        ),
        *(
            (
                gap >= -STRONG_EVIDENCE,
                gap < -STRONG_EVIDENCE,
                f"BIC against {name} {gap:+.0f} (needs above {-STRONG_EVIDENCE:+.0f})",
            )
            for name, gap in near.items()
        ),
    ]
    failed = [text for _, fails, text in rows if fails]
    unsure = [text for passes, fails, text in rows if not passes and not fails]
    if failed:
        return NOT_LOGNORMAL, "Fails on " + "; ".join(failed) + "."
    if unsure:
        return CANNOT_TELL, f"Undecided at n = {n}: " + "; ".join(unsure) + "."
    tied = [
        f"{name} (BIC {gap:+.1f}, {gap / (2 * n):+.1g} nats per weight)"
        for name, gap in near.items()
        if abs(gap) <= STRONG_EVIDENCE
    ]
    alike = f"Not distinguished from {' or '.join(tied)} at n = {n}. " if tied else ""
    return LOGNORMAL, alike + f"Passes all: {'; '.join(row[-1] for row in rows)}."


def qq_r_squared(standard: Float[np.ndarray, " weights"]) -> float:
    """Squared correlation of sorted values with normal scores.

    The score of the i-th of n values is Φ⁻¹((i − 3/8)/(n + 1/4)).
    """
    n = standard.size
    scores = np.arange(1, n + 1, dtype=np.float64)
    scores -= 0.375
    scores /= n + 0.25
    special.ndtri(scores, out=scores)
    cross = float(standard @ scores)
    return cross**2 / float(standard @ standard) / float(scores @ scores)


def kolmogorov_distance(standard: Float[np.ndarray, " weights"]) -> float:
    """Largest gap between the distribution functions of sorted values and N(0, 1)."""
    n = standard.size
    gap = special.ndtr(standard)
    gap -= np.arange(n) / n
    return float(max(gap.max(), 1 / n - gap.min()))


def ks_upper_limit(size: int) -> float:
    """Largest Kolmogorov distance that passes: the larger of D₉₉(n) and 0.02.

    D₉₉ (√n − 0.01 + 0.85/√n) = 1.035, for a normal with both parameters estimated.

    References:
        Stephens 1974, J. Am. Stat. Assoc. 69, 730.
    """
    root = size**0.5
    return max(1.035 / (root - 0.01 + 0.85 / root), CLOSE_ENOUGH)


def qq_lower_limit(size: int) -> float:
    """Limit below which Q-Q r² fails: the 1 % value for normal data, at most 0.995.

    ln(1 − r²) is nearly N(m, s²), with u = ln n, v = ln u,
    m = −1.2725 + 1.0521 (v − u) and s = 1.0308 − 0.26758 (v + 2/u).

    References:
        Royston 1993, Statistics and Computing 3, 117 (valid for 5 ≤ n ≤ 5000; beyond
        that the limit is 0.995 in any case).
    """
    u = np.log(min(size, 5000))
    v = np.log(u)
    mean = -1.2725 + 1.0521 * (v - u)
    deviation = 1.0308 - 0.26758 * (v + 2 / u)
    one_percent = 1 - np.exp(mean + special.ndtri(0.99) * deviation)
    return float(min(one_percent, MIN_QQ))
