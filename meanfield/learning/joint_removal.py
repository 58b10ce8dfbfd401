r"""Remove groups of connections that keep each other in the network.

    Δ = Δ mean NLL + T · Δ KL(q‖prior) / n

Gradients remove connections one by one. So they keep connections whose effects cancel,
such as those from an uninformative input: the loss increases if one of them is removed,
but not if all are. At the end of a run under the selective rule, whole slices of a
weight tensor are therefore removed wherever this decreases the loss of the run: Δ < 0
by more than one standard error over examples, as long as the NLL does not increase by
more than min(T, 1) times the tolerance of the rule in total. (The rule's tolerance is
meant for held-out examples. The colder a run, the more closely it fits the examples
that it learns from, and the more an increase of their NLL means for others.) A slice
has one index along one axis: the connections into or out of one unit, from one input,
or at one place of a kernel.

Slices are tried in the order of a second-order estimate from the gradients of single
examples b in the network of means,

    Δ̂ = mean_b(−d_b + ½ d_b²) + T · Δ KL / n,    d_b = Σ_i w_i ∂NLL_b/∂w_i,

with the sum over the connections i of the slice. The curvature is that of the empirical
Fisher information (for single weights: LeCun, Denker & Solla 1990, OBD). Before the
slices, the single connections with Δ̂ < 0 are tried all at once, then the better half
of them, and so on until some are removed. Learning leaves such connections because the
logit of a small π hardly changes any more.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from meanfield.ensemble.ensemble import Ensemble
from meanfield.keys import numpy_generator
from meanfield.spikeslab import SpikeSlab
from meanfield.trees import map_named

from .divergence import total_kl
from .priors import SpikeSlabPrior
from .targets import log_prob
from .training import Weighted
from .validation import CHUNK, example_losses

# Numbers of examples for the estimate and for Δ.
ESTIMATED, EXAMPLES = 256, 4 * CHUNK
# A round ends after this number of consecutive slices that are kept; the next round
# starts with a new estimate.
IN_A_ROW, ROUNDS = 48, 10


def remove_jointly(
    ensemble: Ensemble,
    likelihood: Any,
    data: tuple[Any, Any],
    prior: SpikeSlabPrior,
    price: float,
    tolerance: float,
    part: int,
    *,
    key: PRNGKeyArray,
) -> Ensemble:
    """The ensemble with π = 1 wherever removal decreases the loss.

    Args:
        ensemble: a trained ensemble.
        likelihood: its likelihood.
        data: examples (x, y); the NLL is compared on at most 8,192 random ones, or one
            part if that is larger. If there are more, connections without any effect on
            these stay.
        prior: the prior of the run.
        price: T / n.
        tolerance: largest increase of the mean NLL, in nats per example.
        part: number of examples for which `example_losses` is already compiled. The NLL
            is computed on whole parts of this size.
        key: a `jax.random.key`; every NLL uses the same draws.
    """
    number = len(jax.tree.leaves(data)[0])
    order = numpy_generator(key).permutation(number)
    count = min(number // part, max(EXAMPLES // part, 1))
    parts = [
        jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf)[rows], data)
        for rows in order[: count * part].reshape(count, part)
    ]
    few = jax.tree.map(lambda leaf: leaf[:ESTIMATED], parts[0])

    def losses(ensemble: Ensemble) -> tuple[Float[np.ndarray, " examples"], float]:
        """NLL of every example, and the price of the divergence."""
        found = [example_losses(ensemble, likelihood, x, y, key=key) for x, y in parts]
        divergence = price * float(_divergence(ensemble.weights(), prior))
        return np.concatenate(found), divergence

    nll, divergence = losses(ensemble)
    most = nll.mean() + tolerance

    def remove(masks: Masks) -> bool:
        """Remove some connections if this decreases the loss; return whether it did."""
        nonlocal ensemble, nll, divergence
        tried = _without(ensemble, masks)
        if tried is None:
            return False
        found, less = losses(tried)
        # A removal without effect on these examples may affect others (a rare word).
        if count * part < number and (found == nll).all():
            return False
        change = found - nll + less - divergence
        improves = change.mean() + change.std() / len(change) ** 0.5 < 0
        if not improves or found.mean() > most:
            return False
        ensemble, nll, divergence = tried, found, less
        return True

    for _ in range(ROUNDS):
        # As an array: a number would be part of the program, and compile it anew.
        factor = jnp.asarray(np.float32(price))
        estimates = _estimates(ensemble, likelihood, few, prior, factor)
        estimates, weights = jax.device_get(estimates), ensemble.weights()
        singles = _singles(estimates, weights)
        while len(singles) and not remove(_masks(singles, weights)):
            singles = singles[: len(singles) // 2]
        removed, refused = len(singles), 0
        for name, axis, index in _order(estimates, ensemble.weights()):
            present = _is_present(ensemble.weights()[name])
            mask = np.zeros(present.shape, bool)
            np.moveaxis(mask, axis, 0)[index] = True
            if not present[mask].any():
                continue
            left = remove({name: mask})
            removed, refused = removed + left, 0 if left else refused + 1
            if refused == IN_A_ROW:
                break
        if removed == 0:
            break
    return ensemble


@eqx.filter_jit
def _divergence(
    weights: dict[str, SpikeSlab], prior: SpikeSlabPrior
) -> Float[Array, ""]:
    return total_kl(weights, prior)


# Δ̂ by path name: of every index along an axis, and of all single connections.
SINGLE = -1
Estimates = dict[str, dict[int, Float[Array | np.ndarray, "..."]]]
# Connections to remove, by path name, in the shape of the tensor's π.
Masks = dict[str, Bool[np.ndarray, "..."]]


@eqx.filter_jit
def _estimates(
    ensemble: Ensemble,
    likelihood: Any,
    data: Any,
    prior: Any,
    price: Any,
) -> Estimates:
    means = {name: weight.mean for name, weight in ensemble.weights().items()}
    params = ensemble.mean_params()

    def nll(means: Any, x: Any, y: Any) -> Float[Array, ""]:
        changed = map_named(lambda name, leaf: means.get(name, leaf), params)
        y, weights = (y.targets, y.weights) if isinstance(y, Weighted) else (y, 1.0)
        outputs = ensemble.apply_fn(changed, x)
        return -(weights * log_prob(likelihood, outputs, y)).sum()

    def along(name: str, values: Array) -> dict[int, Array]:
        """Sums of the values of a tensor's connections over all axes but one.

        Also the values themselves; those of connections that share a spike are added.
        """
        shape = ensemble.weights()[name].spike_prob.shape
        shared = [axis for axis, size in enumerate(shape) if size == 1]
        return {SINGLE: values.sum(shared, keepdims=True)} | {
            axis: values.sum([other for other in range(len(shape)) if other != axis])
            for axis, size in enumerate(shape)
            if size > 1 and len(shape) > 1
        }

    def add(sums: Any, example: Any) -> tuple[Any, None]:
        gradient = jax.grad(nll)(means, *jax.tree.map(lambda a: a[None], example))
        parts = {n: along(n, mean * gradient[n]) for n, mean in means.items()}
        return jax.tree.map(lambda s, d: s - d + 0.5 * d**2, sums, parts), None

    start = {n: along(n, jnp.zeros_like(mean)) for n, mean in means.items()}
    sums, _ = lax.scan(add, start, data)
    number = jax.tree.leaves(data)[0].shape[0]
    saved = {
        name: along(name, weight.kl(prior.for_layer(name, weight)))
        for name, weight in ensemble.weights().items()
    }
    estimates = jax.tree.map(lambda s, kl: s / number - price * kl, sums, saved)
    for name, axes in estimates.items():
        # A connection without an effect on these examples may have one on others.
        used = sums[name][SINGLE] != 0
        estimates[name] = axes | {SINGLE: jnp.where(used, axes[SINGLE], 0.0)}
    return estimates


def _is_present(weight: SpikeSlab) -> Bool[np.ndarray, "..."]:
    return np.asarray(weight.spike_prob) < 0.5


def _order(
    estimates: Estimates, weights: dict[str, SpikeSlab]
) -> list[tuple[str, int, int]]:
    """Path name, axis and index of all slices, in increasing order of the estimates.

    Slices in which nothing is present are left out: to try one means to copy a whole
    tensor, and a wide layer has thousands of them.
    """
    found = []
    for name, axes in estimates.items():
        present = _is_present(weights[name])
        for axis, values in axes.items():
            if axis == SINGLE:
                continue
            others = tuple(other for other in range(present.ndim) if other != axis)
            found += [
                (float(values[index]), name, axis, int(index))
                for index in np.flatnonzero(present.any(others))
            ]
    return [(name, axis, index) for _, name, axis, index in sorted(found)]


def _singles(
    estimates: Estimates, weights: dict[str, SpikeSlab]
) -> Int[np.ndarray, " _"]:
    """Positions of connections with Δ̂ < 0 among all, in increasing order of Δ̂."""
    values = np.concatenate(
        [
            np.where(_is_present(weight), estimates[name][SINGLE], 0.0).ravel()
            for name, weight in weights.items()
        ]
    )
    return np.argsort(values, kind="stable")[: int((values < 0).sum())]


def _masks(positions: Int[np.ndarray, " _"], weights: dict[str, SpikeSlab]) -> Masks:
    """Masks of the connections at some positions among all."""
    shapes = {name: weight.spike_prob.shape for name, weight in weights.items()}
    sizes = [math.prod(shape) for shape in shapes.values()]
    chosen = np.zeros(sum(sizes), bool)
    chosen[positions] = True
    parts = np.split(chosen, np.cumsum(sizes)[:-1])
    return {
        name: part.reshape(shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
        if part.any()
    }


def _without(ensemble: Ensemble, masks: Masks) -> Ensemble | None:
    """The ensemble without some connections.

    None if a tensor would lose all that are present: a network without a layer would be
    constant.
    """
    changed = {}
    for name, mask in masks.items():
        weight = ensemble.weights()[name]
        if not (_is_present(weight) & ~mask).any():
            return None
        spikes = jnp.asarray(np.where(mask, 1.0, weight.spike_prob), weight.dtype)
        changed[name] = eqx.tree_at(lambda w: w.spike_prob, weight, spikes)
    return ensemble.with_weights(changed)
