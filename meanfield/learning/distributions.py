"""The kind of targets of a NumPyro distribution."""

from typing import Any

import numpyro.distributions as dist


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
    """Whether the targets are 0 or 1."""
    kinds = (dist.BernoulliLogits, dist.BernoulliProbs)
    return isinstance(base_of(distribution), kinds)


def has_labels(distribution: Any) -> bool:
    """Whether the targets are classes or binary, not quantities."""
    return is_categorical(distribution) or is_binary(distribution)


def has_cdf(distribution: Any) -> bool:
    """Whether the targets are continuous, with a known distribution function."""
    base = base_of(distribution)
    return not base.is_discrete and type(base).cdf is not dist.Distribution.cdf
