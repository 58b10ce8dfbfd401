r"""Connections that never learn: their gradient is exactly zero on all the data.

A pre-activation is z_i = G_i + ε_i Δ_i, with mean G_i, standard deviation Δ_i and noise
ε_i. With K_i = ∂C/∂z_i, a connection of mean weight μ_ik to an input a_k has

    ∂C/∂μ_ik = K_i (a_k + ...),       every further term proportional to a_k too,

so the gradients of π, m and Ξ are multiples of K_i a_k too. They vanish when the input
a_k is zero (a black pixel, a dead unit) or when no output depends on z_i (the unit is
never active, or nothing uses it). One backward pass, with slabs without spikes that
have the weights' means and variances, finds whether K_i a_k = 0. This works for any
contraction of any model: in a convolution, a recurrence or a look-up.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.spikeslab import SpikeSlab


def silent_connections(
    ensemble: Ensemble,
    x: Any,
    *,
    key: PRNGKeyArray,
    num_samples: int = 1,
    batch_size: int = 1024,
) -> dict[str, Bool[np.ndarray, "..."]]:
    r"""Where K_i a_k = 0 for every example and every draw of the noise.

    The backward pass starts from random numbers in place of ∂C/∂outputs, so that the
    contributions of two examples do not cancel, whatever the targets are.

    Args:
        ensemble: the ensemble.
        x: inputs, first axis the examples.
        key: a `jax.random.key`.
        num_samples: noise draws for each example.
        batch_size: examples in memory at once.

    Returns:
        A mask by path name: True where the connection never learns.

    Raises:
        ValueError: there is no example, or the network does not accept the inputs.
    """
    examples = _count(ensemble, x)
    size = min(batch_size, examples)
    silent = {name: np.ones(w.shape, bool) for name, w in ensemble.weights().items()}
    for start in range(0, examples, size):
        # The last batch is padded with the last row, whose repetition changes nothing.
        rows = np.minimum(np.arange(start, start + size), examples - 1)
        batch = jax.tree.map(lambda array, rows=rows: jnp.asarray(array[rows]), x)
        for sample in range(num_samples):
            draw_key = jax.random.fold_in(jax.random.fold_in(key, start), sample)
            found = _no_gradient(ensemble, batch, draw_key)
            for name, mask in found.items():
                silent[name] &= np.asarray(mask)
    return silent


@eqx.filter_jit
def _no_gradient(ensemble: Ensemble, x: Any, key: PRNGKeyArray) -> dict[str, Array]:
    noise_key, start_key = jax.random.split(key)
    network = ensemble.network
    weights = ensemble.weights()

    def outputs(means: dict[str, Array]) -> Any:
        # A slab with the mean μ and the variance V of the weight and π = 0: the
        # derivative for μ is then not multiplied by 1 − π, which may be 0.
        slabs = {
            name: SpikeSlab(jnp.zeros_like(mean), mean, weights[name].var)
            for name, mean in means.items()
        }
        results = network(ensemble.with_weights(slabs).params, x, key=noise_key)
        return [leaf for leaf in jax.tree.leaves(results) if eqx.is_inexact_array(leaf)]

    means = {name: weight.mean for name, weight in weights.items()}
    results, backward = jax.vjp(outputs, means)
    keys = jax.random.split(start_key, len(results))
    starts = [
        jax.random.normal(each, result.shape, result.dtype)
        for each, result in zip(keys, results, strict=True)
    ]
    (gradient,) = backward(starts)
    return {name: partial == 0 for name, partial in gradient.items()}


def _count(ensemble: Ensemble, x: Any) -> int:
    leaves = jax.tree.leaves(x)
    counts = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in leaves}
    require(
        len(counts) == 1 and min(counts) > 0,
        "`data` must be inputs x with the examples along the first axis, at least one; "
        f"got shapes {[np.shape(leaf) for leaf in leaves[:4]]}.",
    )
    network = ensemble.network
    one = jax.tree.map(lambda array: jnp.asarray(array[:1]), x)
    try:
        jax.eval_shape(
            lambda x: network(ensemble.params, x, key=jax.random.key(0)), one
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`data` must be inputs x that the network can take (no targets); got "
            f"shapes {[np.shape(leaf) for leaf in leaves[:4]]}: {error}"
        ) from error
    return counts.pop()
