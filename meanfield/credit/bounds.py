r"""Confidence bounds on the mean of bounded differences, from independent examples.

| differences         | bound                                                        |
|---------------------|--------------------------------------------------------------|
| −1, 0 or 1          | exact: P(+1) and P(−1) by Clopper and Pearson, with α/2 each |
| anywhere in [a, b]  | empirical Bernstein (Maurer & Pontil), with n examples of    |
|                     | mean D̄ and variance V:                                       |
|                     | E D ≤ D̄ + √(2V ln(2/α)/n) + 7(b − a) ln(2/α)/(3(n−1))        |

Both hold for every distribution and every n; the second needs n ≥ 2.

References:
    Clopper & Pearson 1934, Biometrika 26:404. Maurer & Pontil 2009, COLT,
    arXiv:0907.3740.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy.stats import beta


def largest_prob(count: int, num_examples: int, alpha: float) -> float:
    """Upper confidence bound at level 1 − α on a probability (Clopper and Pearson).

    It is the largest p under which `count` successes or fewer have probability ≥ α.

    Args:
        count: number of successes.
        num_examples: independent trials.
        alpha: α in (0, 1).

    Example:
        >>> from meanfield.credit.bounds import largest_prob
        >>> round(largest_prob(0, 99, 0.05), 4) == round(1 - 0.05 ** (1 / 99), 4)
        True
    """
    if count == num_examples:
        return 1.0
    return float(beta.ppf(1 - alpha, count + 1, num_examples - count))


def smallest_prob(count: int, num_examples: int, alpha: float) -> float:
    """Lower confidence bound at level 1 − α on a probability; see `largest_prob`."""
    return 1 - largest_prob(num_examples - count, num_examples, alpha)


def upper_bound(
    differences: Float[np.ndarray, " examples"],
    alpha: float,
    *,
    exact: bool,
    width: float = 2.0,
) -> float:
    """Upper confidence bound at level 1 − α on the expected difference.

    Args:
        differences: one for each example.
        alpha: α in (0, 1).
        exact: whether the differences are −1, 0 or 1 and the exact bound is used.
        width: b − a, the width of the range of the differences, for the Bernstein
            bound.
    """
    number = len(differences)
    if exact:
        lost, won = int((differences > 0).sum()), int((differences < 0).sum())
        gain = smallest_prob(won, number, alpha / 2)
        return largest_prob(lost, number, alpha / 2) - gain
    log = math.log(2 / alpha)
    spread = math.sqrt(2 * float(np.var(differences, ddof=1)) * log / number)
    return float(differences.mean()) + spread + 7 * width * log / (3 * (number - 1))


def examples_needed(
    epsilon: float, alpha: float, *, exact: bool, width: float = 2.0
) -> int:
    """The fewest examples that can bound the mean by ε, if all differences are 0.

    Args:
        epsilon: ε > 0.
        alpha: α in (0, 1).
        exact: as in `upper_bound`.
        width: as in `upper_bound`.

    Example:
        >>> from meanfield.credit.bounds import examples_needed
        >>> examples_needed(0.01, 0.05, exact=True)
        368
    """
    if exact:
        return math.ceil(math.log(alpha / 2) / math.log1p(-epsilon))
    return math.ceil(1 + 7 * width * math.log(2 / alpha) / (3 * epsilon))


def smallest_epsilon(
    num_examples: int, alpha: float, *, exact: bool, width: float = 2.0
) -> float:
    """The smallest ε that this many examples can certify, if all differences are 0."""
    if exact:
        return 1 - (alpha / 2) ** (1 / num_examples)
    return 7 * width * math.log(2 / alpha) / (3 * (num_examples - 1))
