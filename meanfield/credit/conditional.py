r"""Draws of each input from its conditional distribution given the other inputs.

The inputs are jointly normal, with a mean and a covariance that nobody knows. With H
the projection on a constant and the other inputs S,

    x̃_j = H x_j + ‖(1 − H) x_j‖ u,      u uniform among unit vectors with H u = 0.

Given x_S, H x_j and ‖(1 − H) x_j‖, which are sufficient statistics, x̃_j and x_j have
the same distribution. So nothing has to be estimated. (An estimate with shrinkage would
leave in (1 − H) x_j a part that the other inputs determine.) An input that the others
determine (a duplicate, or a one-hot column if every category has one) stays as it is.

With n examples, H x_j also contains about the fraction |S| / n of the part of x_j that
is independent of S, so the test loses power. Therefore S is all other inputs only if
they are at most n / 5. Otherwise S consists of the inputs correlated with x_j
(|r| > 2 / √n) and then of those correlated with the remaining (1 − H) x_j
(|r| > 3 / √n), at most n / 5 in all, and the distribution is approximate.

References:
    Huang & Janson 2020, Annals of Statistics 48:3021.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

# S has at most this fraction of the number of examples.
LARGEST_SHARE = 0.2
# Least |r| √n of an input that is correlated with x_j, and with (1 − H) x_j.
SIGNIFICANT = 2.0, 3.0
# A residual that is shorter than this part of its input is rounding.
ROUNDING = 1e-6

# (1 − H) x_j, and the projection on x_S.
Split = tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]


def conditional_draws(
    x: Float[np.ndarray, "examples inputs"], num_samples: int, rng: np.random.Generator
) -> Iterator[Float[np.ndarray, "samples examples"]]:
    """Draws of x̃_j for every input j in turn.

    Warns of inputs that others determine.

    Args:
        x: the inputs of all examples.
        num_samples: draws for each input.
        rng: a generator.
    """
    number, inputs = x.shape
    spread = x.std(0)
    table = (x - x.mean(0)) / np.where(spread > 0, spread, 1)
    gram, determined = table.T @ table / number, []
    if inputs - 1 <= LARGEST_SHARE * number:
        split = _by_all_others(table, gram)
    else:
        split = partial(_by_neighbours, table, gram)
    for j in range(inputs):
        rest, project = split(j)
        length = np.linalg.norm(rest)
        if length <= ROUNDING * number**0.5:
            if spread[j] > 0:
                determined.append(j)
            yield np.repeat(x[None, :, j], num_samples, 0)
            continue
        noise = rng.normal(size=(number, num_samples))
        u = noise - noise.mean(0) - project(noise)
        u *= length / np.linalg.norm(u, axis=0)
        yield x[:, j] + spread[j] * (u.T - rest)
    if determined:
        warnings.warn(
            f"`data` inputs {determined[:8]} are determined by others (duplicates, or "
            "one column for each category): none of them can be selected. Leave one "
            "of each such group out.",
            stacklevel=3,
        )


def _by_all_others(
    table: Float[np.ndarray, "examples inputs"],
    gram: Float[np.ndarray, "inputs inputs"],
) -> Callable[[int], Split]:
    """(1 − H) x_j and H for all other inputs, from one decomposition."""
    values, vectors = np.linalg.eigh(gram)
    present = values > ROUNDING**2 * max(values.max(), 1)
    values, vectors = values[present], vectors[:, present]
    inverse = (vectors / values) @ vectors.T
    # Inputs in no linear dependence; for them (1 − H) x_j is along column j of `dual`.
    alone = (vectors**2).sum(1) > 1 - ROUNDING
    dual = table @ inverse

    def split(j: int) -> Split:
        if not alone[j]:
            return np.zeros(len(table)), lambda a: a
        rest = dual[:, j] / inverse[j, j]
        unit = rest / np.linalg.norm(rest)
        return (
            rest,
            lambda a: dual @ (table.T @ a) / len(table) - np.outer(unit, unit @ a),
        )

    return split


def _by_neighbours(
    table: Float[np.ndarray, "examples inputs"],
    gram: Float[np.ndarray, "inputs inputs"],
    j: int,
) -> Split:
    """(1 − H) x_j and H for the inputs that are correlated with input j."""
    number, most = len(table), int(LARGEST_SHARE * len(table))
    chosen = np.zeros(0, int)
    rest, project = table[:, j], np.zeros_like
    for bar in SIGNIFICANT:
        length = np.linalg.norm(rest) * number**0.5
        related = np.abs(table.T @ rest) / max(length, ROUNDING * number)
        related[[j, *chosen]] = 0
        order = np.argsort(-related)[: most - len(chosen)]
        more = order[related[order] > bar / number**0.5]
        chosen = np.concatenate([chosen, more])
        columns = table[:, chosen]
        inverse = np.linalg.pinv(
            gram[np.ix_(chosen, chosen)], rcond=ROUNDING**2, hermitian=True
        )
        project = partial(_projected, columns, inverse)
        rest = table[:, j] - project(table[:, j])
    return rest, project


def _projected(columns: Any, inverse: Any, a: Any) -> np.ndarray:
    """The projection on centered columns; `inverse` is that of their covariance."""
    return columns @ (inverse @ (columns.T @ a)) / len(columns)
