r"""The KL divergence of a network's posterior from its prior.

KL(q‖P₀) = Σ_layers [ Σ_weights KL(q(w)‖P₀(w)) + cost of unknown hyperparameters ]
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from meanfield.checks import require
from meanfield.spikeslab import SpikeSlab

from .hyperpriors import LayerPrior
from .priors import SpikeSlabPrior, of_layer


def layer_kls(
    weights: Mapping[str, SpikeSlab],
    prior: Any,
    kl: Callable[[str, Any], Array] | None = None,
) -> dict[str, Float[Array, ""]]:
    """KL divergence of every weight tensor from its prior, in nats.

    Args:
        weights: posterior by path name, as `Ensemble.weights()` gives it.
        prior: a `SpikeSlabPrior`; or a mapping from the same names to such priors or to
            arguments of `SpikeSlab.kl`, such as the weights of an earlier posterior.
        kl: function from the path name and prior of a tensor to the divergence of every
            weight of this tensor; `SpikeSlab.kl` if not given.

    Returns:
        By path name, Σ KL(q‖P₀) with the cost of hyper-priors.

    Raises:
        ValueError: the prior has the name of a tensor that does not exist, or lacks a
            name.
    """
    if isinstance(prior, SpikeSlabPrior):
        unknown = prior.names - set(weights)
        priors = {name: prior.for_layer(name, w) for name, w in weights.items()}
    else:
        require(
            isinstance(prior, Mapping),
            "`prior` must be a SpikeSlabPrior or a mapping from path names to priors; "
            f"got {type(prior).__name__}.",
        )
        unknown = set(prior) - set(weights)
        priors = {name: of_layer("prior", prior, name) for name in weights}
        priors = {
            name: given.for_layer(name, weights[name])
            if isinstance(given, SpikeSlabPrior)
            else given
            for name, given in priors.items()
        }
    require(
        not unknown,
        f"`prior` must name only the random weights {sorted(weights)}; got "
        f"{sorted(unknown)}. Correct the names.",
    )
    kl = kl or (lambda name, prior: weights[name].kl(prior))
    return {name: _layer_kl(kl(name, prior), prior) for name, prior in priors.items()}


def total_kl(
    weights: Mapping[str, SpikeSlab],
    prior: Any,
    kl: Callable[[str, Any], Array] | None = None,
) -> Float[Array, ""]:
    """KL divergence of a network's posterior from its prior, in nats.

    Args:
        weights: posterior by path name, as `Ensemble.weights()` gives it.
        prior: a `SpikeSlabPrior`, or a mapping from the same names to priors.
        kl: as in `layer_kls`.

    Returns:
        Σ KL(q‖P₀) over all weights, with the cost of hyper-priors: expected
        log-likelihood minus this number is a lower bound on the log-evidence.

    Raises:
        ValueError: the prior has the name of a tensor that does not exist, or lacks a
            name.

    Example:
        >>> import meanfield as mf
        >>> from meanfield.learning.divergence import total_kl
        >>> weights = {"weight": mf.SpikeSlab([0.9], [0.0], [1.0])}
        >>> prior = mf.SpikeSlabPrior(inclusion_prob=0.1, slab_scale=1.0)
        >>> abs(float(total_kl(weights, prior))) < 1e-6
        True
    """
    costs = layer_kls(weights, prior, kl)
    return sum(costs.values(), start=jnp.zeros((), jnp.result_type(float)))


def _layer_kl(divergences: Array, prior: Any) -> Array:
    wide = jnp.promote_types(divergences.dtype, jnp.float32)
    cost = prior.hyper_cost if isinstance(prior, LayerPrior) else 0.0
    return divergences.sum(dtype=wide) + cost
