"""Train an ensemble without its dead units, and restore its whole shape afterwards.

A connection is dead if its probability of being present is at most a threshold. As in
`shrink`, the parts that the network of the other connections does not use are removed:
units without a path to an output, units without a path from an input (their constants
are added to the biases that they feed), and inputs that no unit reads. `Narrowed.widen`
restores the whole shape, with π = 1 for every removed connection.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.spikeslab import SpikeSlab, is_spike_slab
from meanfield.trees import map_named, named_leaves

from .shrink import shrink


@dataclasses.dataclass(frozen=True)
class Narrowed:
    """An ensemble without its dead units.

    Attributes:
        ensemble: the smaller ensemble. It takes whole inputs; a network drawn from it
            takes `select_inputs(x)`.
        whole: the ensemble that it was made from.
        kept: for each array, the indices kept along each of its axes.
        kept_inputs: for each axis of one example from which entries were removed, the
            indices that are read.
    """

    ensemble: Ensemble
    whole: Ensemble
    kept: dict[str, tuple[np.ndarray, ...]]
    kept_inputs: dict[int, np.ndarray]

    def select_inputs(self, x: Any) -> Any:
        """The entries of a batch that the smaller networks read."""
        return _select(x, self.kept_inputs)

    def widen(self, ensemble: Ensemble) -> Ensemble:
        """A smaller ensemble, such as a trained `self.ensemble`, in the whole shape.

        Args:
            ensemble: an ensemble with the structure of `self.ensemble`.

        Returns:
            The ensemble in the whole shape. Removed connections have π = 1, and the m
            and Ξ that they had in `whole`.
        """
        smaller = named_leaves(ensemble.params, is_spike_slab)

        def put(name: str, leaf: Any) -> Any:
            if name not in self.kept:
                return leaf
            if is_spike_slab(leaf):
                return _put_weight(leaf, smaller[name], self.kept[name])
            return leaf.at[np.ix_(*self.kept[name])].set(smaller[name])

        params = map_named(put, self.whole.params, is_spike_slab)
        return dataclasses.replace(self.whole, params=params)


def narrow(ensemble: Ensemble, probe: Any, *, threshold: float = 0.01) -> Narrowed:
    """Remove the units and inputs that no live connection needs.

    Args:
        ensemble: an ensemble whose networks `shrink` can shrink.
        probe: a batch on which the network of the live connections, at their posterior
            means, is compared before and after the removal.
        threshold: connections that are present with this probability or less are dead.

    Returns:
        A `Narrowed`. A network without a live path from input to output keeps one unit
        in each layer.

    Raises:
        ValueError: `threshold` is not in [0, 1).

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> first = ensemble.weights()["layers/0/weight"]
        >>> gone = mf.SpikeSlab(
        ...     first.spike_prob.at[3].set(1), first.slab_mean, first.slab_var)
        >>> ensemble = ensemble.with_weights({"layers/0/weight": gone})
        >>> smaller = mf.deploy.narrow(ensemble, jnp.ones((5, 4)))  # without unit 3
        >>> smaller.ensemble.weights()["layers/0/weight"].shape
        (7, 4)
        >>> smaller.widen(smaller.ensemble).weights()["layers/0/weight"].shape
        (8, 4)
    """
    require(
        0 <= threshold < 1,
        f"`threshold` must be a probability in [0, 1); got {threshold}.",
    )
    weights = ensemble.weights()
    live = ensemble.model(
        lambda _, weight: jnp.where(weight.inclusion_prob > threshold, weight.mean, 0)
    )
    shrunk = shrink(live, probe, call=ensemble.call, allow_constant=True)
    smaller = Ensemble.from_model(
        shrunk.model,
        call=ensemble.call,
        initial=lambda name, *_: _cut_weight(weights[name], shrunk.kept[name]),
        where=lambda name, _: name in weights,
        frozen=ensemble.frozen,
        noise=ensemble.noise,
    )
    if shrunk.kept_inputs:
        window = tuple((a, tuple(map(int, i))) for a, i in shrunk.kept_inputs.items())
        training = smaller.training
        if training is not None:
            seen = _Window(training.apply, window)
            training = dataclasses.replace(training, apply=seen)
        smaller = dataclasses.replace(
            smaller, apply_fn=_Window(smaller.apply_fn, window), training=training
        )
    return Narrowed(smaller, ensemble, shrunk.kept, shrunk.kept_inputs)


@dataclasses.dataclass(frozen=True)
class _Window:
    """A network that reads only some entries of its inputs."""

    apply: Callable[..., Any]
    kept: tuple[tuple[int, tuple[int, ...]], ...]

    def __call__(self, params: Any, x: Any, *rest: Any) -> Any:
        return self.apply(params, _select(x, dict(self.kept)), *rest)


def _select(x: Any, kept: Mapping[int, Any]) -> Any:
    for axis, indices in kept.items():
        x = x.take(np.asarray(indices), axis=axis + 1)
    return x


def _places(spike: jax.Array, kept: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Positions of the kept entries in spikes, which may have axes of length 1."""
    sizes = zip(spike.shape, kept, strict=True)
    return np.ix_(*(indices if n > 1 else np.zeros(1, int) for n, indices in sizes))


def _cut_weight(weight: SpikeSlab, kept: tuple[np.ndarray, ...]) -> SpikeSlab:
    spike = weight.spike_prob
    return SpikeSlab(
        spike[_places(spike, kept)],
        weight.slab_mean[np.ix_(*kept)],
        weight.slab_var[np.ix_(*kept)],
    )


def _put_weight(
    whole: SpikeSlab, part: SpikeSlab, kept: tuple[np.ndarray, ...]
) -> SpikeSlab:
    spike, place = whole.spike_prob, np.ix_(*kept)
    return SpikeSlab(
        jnp.ones_like(spike).at[_places(spike, kept)].set(part.spike_prob),
        whole.slab_mean.at[place].set(part.slab_mean),
        whole.slab_var.at[place].set(part.slab_var),
    )
