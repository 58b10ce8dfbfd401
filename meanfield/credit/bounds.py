r"""Confidence bounds on the mean of bounded differences, from independent examples.

| differences                  | bound                                              |
|------------------------------|----------------------------------------------------|
| −1, 0 or 1                   | exact: P(+1) and P(−1) by Clopper and Pearson, half |
|                              | of α each                                          |
| anywhere in [a, b]           | empirical Bernstein (Maurer & Pontil), with n       |
|                              | examples of mean D̄ and variance V:                 |
|                              | E D ≤ D̄ + √(2V ln(2/α)/n) + 7(b − a) ln(2/α)/3(n−1) |

Both hold at any number of examples, whatever the distribution.

References:
    Clopper & Pearson 1934, Biometrika 26:404. Maurer & Pontil 2009, COLT,
    arXiv:0907.3740.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy.stats import beta


def largest_prob(count: int, num_examples: int, alpha: float) -> float:
    """The largest probability under which so few successes are not rarer than α.

    Args:
        count: successes seen.
        num_examples: independent trials.
        alpha: in (0, 1).

    Example:
        >>> from meanfield.credit.bounds import largest_prob
        >>> round(largest_prob(0, 99, 0.05), 4) == round(1 - 0.05 ** (1 / 99), 4)
        True
    """
    if count == num_examples:
        return 1.0
    return float(beta.ppf(1 - alpha, count + 1, num_examples - count))


def smallest_prob(count: int, num_examples: int, alpha: float) -> float:
    """The smallest probability under which so many successes are not rarer than α."""
    return 1 - largest_prob(num_examples - count, num_examples, alpha)


def upper_bound(
    differences: Float[np.ndarray, " examples"],
    alpha: float,
    *,
    exact: bool,
    width: float = 2.0,
) -> float:
    """A number that the expected difference exceeds with probability at most α.

    Args:
        differences: one for each example.
        alpha: in (0, 1).
        exact: the differences are −1, 0 or 1, for the exact bound.
        width: b − a of the range that the differences lie in, for the other.
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
    """The fewest examples that can bound the mean below ε: all differences are 0.

    Args:
        epsilon: ε > 0.
        alpha: in (0, 1).
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
    """The least ε that so many examples can certify."""
    if exact:
        return 1 - (alpha / 2) ** (1 / num_examples)
    return 7 * width * math.log(2 / alpha) / (3 * (num_examples - 1))
