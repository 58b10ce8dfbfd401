r"""A permutation test of whether strong neurons hold more credit than the others.

Let c_i be the credit of the connections of unit i, or the number of important ones, and
S a coalition such as the strong one:

    T = mean_{i∈S} c_i − mean_{i∉S} c_i        p = (1 + #{T* ≥ T}) / (1 + shuffles)

with T* the value of T after a shuffle of c. The effect size is Cliff's
δ = P(c_i > c_j) − P(c_i < c_j), i in S, j outside: 0 for no association, 1 if every
unit inside has more than every other unit.

References:
    Cliff 1993, Psychological Bulletin 114:494. Phipson & Smyth 2010, arXiv:1603.05766
    (the 1 + in the p-value).
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, PRNGKeyArray

from meanfield.checks import require
from meanfield.keys import numpy_generator

from .links import NeuronLinks


@dataclasses.dataclass(frozen=True)
class LinkTest:
    """Whether members of a coalition have more credit than the other units.

    Attributes:
        difference: T, mean inside − mean outside.
        effect: Cliff's δ in [−1, 1].
        p_value: one-sided p-value of T, by shuffling.
        inside, outside: the two means.
        compared: the compared quantity: "credit", "important connections", or "numbers"
            if `links` were numbers.
    """

    difference: float
    effect: float
    p_value: float
    inside: float
    outside: float
    compared: str = "numbers"


def link_test(
    mask: Bool[Any, " units"],
    links: Any,
    *,
    key: PRNGKeyArray,
    num_shuffles: int = 9_999,
) -> LinkTest:
    """Test whether units of a coalition have more credit than the others.

    Args:
        mask: mask of the units in the coalition.
        links: the result of `neuron_links`: units are compared by the credit of all
            their connections, or by the number of important ones if the links were made
            without `values`. Or a number for every unit, such as ``links.value_in``.
        key: a `jax.random.key`.
        num_shuffles: shuffles of the coalition.

    Returns:
        A `LinkTest`: effect size, p-value and the compared means.

    Raises:
        ValueError: shapes differ, or no unit or every unit is in the coalition.

    Example:
        >>> import jax, numpy as np, meanfield as mf
        >>> mask = np.array([True] * 5 + [False] * 5)
        >>> numbers = np.arange(10)[::-1]
        >>> found = mf.neurons.link_test(mask, numbers, key=jax.random.key(0))
        >>> found.effect, found.p_value < 0.05
        (1.0, True)
    """
    known = isinstance(links, NeuronLinks)
    numbers = links.strength if known else links
    inside, c = np.asarray(mask, bool), np.asarray(numbers, np.float64)
    require(
        inside.ndim == 1 and inside.shape == c.shape,
        f"`links` must have one number for each of the {inside.size} units; got shape "
        f"{c.shape}.",
    )
    require(
        bool(inside.any() and not inside.all()),
        "`mask` must have units inside and outside the coalition; got "
        f"{int(inside.sum())} of {inside.size} units inside.",
    )
    require(
        num_shuffles >= 1, f"`num_shuffles` must be at least 1; got {num_shuffles}."
    )
    count = int(inside.sum())
    seen = c[inside].mean() - c[~inside].mean()
    rng = numpy_generator(key)
    shuffled = rng.permuted(np.tile(c, (num_shuffles, 1)), axis=1)
    sums = shuffled[:, :count].sum(1)
    drawn = sums / count - (c.sum() - sums) / (c.size - count)
    # Sums of the same numbers in another order may differ in the last digit.
    reached = int((drawn >= seen - 1e-9 * np.abs(c).max()).sum())
    sign = np.sign(c[inside][:, None] - c[~inside])
    return LinkTest(
        float(seen),
        float(sign.mean()),
        (1 + reached) / (1 + num_shuffles),
        float(c[inside].mean()),
        float(c[~inside].mean()),
        links.measure if known else "numbers",
    )
