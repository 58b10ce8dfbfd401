r"""A gate on every connection, for the game whose players are the connections.

In a coalition the connections of the coalition have their distributions and the others
are zero. If a connection joins with probability s, its slab is multiplied by a
Bernoulli(s) variable. The slab then has

    mean s m,      variance s (Ξ + (1 − s) m²),

and the spike is unchanged. With the spike π, a connection is present with probability
s (1 − π), and the payoff is averaged over the sub-networks of the posterior. Without
spikes, a connection is present with probability s. At s = 1 the weight has exactly its
own distribution (without spikes, that of its slab); at s = 0 it is exactly zero.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from meanfield.checks import require
from meanfield.elementary import safe_sqrt
from meanfield.ensemble.ensemble import Ensemble
from meanfield.propagation import mean_field
from meanfield.propagation.noise import normal
from meanfield.spikeslab import SpikeSlab, is_spike_slab
from meanfield.trees import map_named, named_leaves

from .payoffs import payoff_measure

PATHS = ("posterior", "full")
NOISES = ("preactivations", "weights")
Where = Callable[[str, Any], bool]


def open_gates(
    ensemble: Ensemble, path: str, where: Where | None
) -> tuple[Ensemble, tuple[str, ...]]:
    """The ensemble with all gated arrays as `SpikeSlab`s, and their names.

    Args:
        ensemble: a trained ensemble, or an ordinary network (`Ensemble.from_points`).
        path: "posterior" keeps the spikes, "full" removes them.
        where: ``where(path_name, leaf)``, whether a leaf has gates. Default: the random
            weights; if there are none, the arrays of two or more dimensions.

    Raises:
        ValueError: an unknown path, or fewer than two connections.
    """
    require(
        path in PATHS,
        f"`path` must be 'posterior' (the sub-networks of the posterior) or 'full' "
        f"(all slabs); got {path!r}.",
    )
    random = bool(ensemble.weights())

    def chosen(name: str, leaf: Any) -> bool:
        if not (is_spike_slab(leaf) or eqx.is_inexact_array(leaf)):
            return False
        if where is not None:
            return where(name, leaf)
        if random:
            return is_spike_slab(leaf)
        return leaf.ndim >= 2 and name not in ensemble.frozen

    leaves = named_leaves(ensemble.params, is_spike_slab)
    players = tuple(name for name, leaf in leaves.items() if chosen(name, leaf))
    count = sum(leaves[name].size for name in players)
    require(
        count >= 2,
        f"`ensemble` must have at least 2 connections with a gate; got {count}. Choose "
        "other arrays with `where`; the value of a single connection is payoff − empty "
        "payoff.",
    )

    def open_gate(name: str, leaf: Any) -> Any:
        if name not in players:
            return leaf
        if not is_spike_slab(leaf):
            return SpikeSlab(jnp.zeros_like(leaf), leaf, jnp.zeros_like(leaf))
        if path == "posterior":
            return leaf
        return SpikeSlab(jnp.zeros_like(leaf.slab_mean), leaf.slab_mean, leaf.slab_var)

    params = map_named(open_gate, ensemble.params, is_spike_slab)
    return eqx.tree_at(lambda e: e.params, ensemble, params), players


def thin(
    weight: SpikeSlab, gate: Float[Array, "*shape"] | Float[Array, ""]
) -> SpikeSlab:
    """A weight whose slab has the two moments of slab times Bernoulli(`gate`)."""
    mean = gate * weight.slab_mean
    var = gate * (weight.slab_var + (1 - gate) * jnp.square(weight.slab_mean))
    dtype = weight.dtype
    return SpikeSlab(weight.spike_prob, mean.astype(dtype), var.astype(dtype))


class Game(eqx.Module):
    """The game of connections: the payoff of a network with gates.

    Args:
        network: the network with all gates at 1.
        names: the arrays whose connections have gates.
        likelihood: map from outputs to a distribution.
        payoff: name of the payoff.
        temperature: temperature of the payoff "free_energy".
        noise: "preactivations" or "weights".
    """

    network: Ensemble
    likelihood: Any
    names: tuple[str, ...] = eqx.field(static=True)
    payoff: str = eqx.field(static=True)
    temperature: float = eqx.field(static=True)
    noise: str = eqx.field(static=True)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of the gates of every array."""
        weights = self.network.weights()
        return {name: weights[name].shape for name in self.names}

    def earned(
        self, gates: dict[str, Array], x: Any, y: Any, key: PRNGKeyArray, sign: Any
    ) -> Float[Array, " examples"]:
        """Expected payoff of every example, estimated by one draw of the noise.

        Args:
            gates: by path name, the gate of each connection, in [0, 1].
            x: inputs.
            y: targets.
            key: a `jax.random.key`.
            sign: factor of all noise, 1 or −1.
        """
        weights = self.network.weights()
        noise_key, *keys = jax.random.split(key, len(self.names) + 1)
        placed = {name: thin(weights[name], gates[name]) for name in self.names}
        if self.noise == "weights":
            pairs = zip(self.names, keys, strict=True)
            placed = {
                name: draw_gaussian(placed[name], each, sign) for name, each in pairs
            }
        params = self.network.with_weights(placed).params
        outputs = mean_field(self.network.apply_fn, sign=sign)(params, x, key=noise_key)
        return self.measure(outputs, y)

    def grown(self, key: PRNGKeyArray) -> dict[str, tuple[Array, Array]]:
        """Weights of one sub-network, and the time when each connection joins."""
        drawn = {}
        for number, name in enumerate(self.names):
            weight_key, time_key = jax.random.split(jax.random.fold_in(key, number))
            weight = self.network.weights()[name]
            arrival = jax.random.uniform(time_key, weight.shape)
            drawn[name] = weight.sample(weight_key), arrival
        return drawn

    def earned_by(
        self,
        grown: dict[str, tuple[Array, Array]],
        times: Float[Array, " arrays"],
        x: Any,
        y: Any,
        key: PRNGKeyArray,
    ) -> Float[Array, " examples"]:
        """Payoff of a sub-network with the connections that joined before `times`."""
        placed = {}
        for number, name in enumerate(self.names):
            weight, arrival = grown[name]
            placed[name] = jnp.where(arrival < times[number], weight, 0)
        params = self.network.with_weights(placed).params
        outputs = mean_field(self.network.apply_fn)(params, x, key=key)
        return self.measure(outputs, y)

    def measure(self, outputs: Any, y: Any) -> Float[Array, " examples"]:
        """Payoff of every example."""
        return payoff_measure(self.payoff, self.likelihood, self.temperature)(
            outputs, y
        )


def draw_gaussian(
    weight: SpikeSlab, key: PRNGKeyArray, sign: Any
) -> Float[Array, "*shape"]:
    """Draw Gaussian weights with the mean and variance of `weight`.

    The draw is differentiable in both. Spikes that several connections share are drawn
    exactly.
    """
    spike_key, slab_key = jax.random.split(key)
    noise = sign * normal(slab_key, weight.shape, weight.dtype)
    if not weight.shared:
        return weight.mean + safe_sqrt(weight.var) * noise
    spike = weight.spike_prob
    present = jax.random.bernoulli(spike_key, 1 - spike, spike.shape)
    return jnp.where(present, weight.slab_mean + safe_sqrt(weight.slab_var) * noise, 0)
