r"""Gates for training in which only strong coalitions of units act.

In every step unit i of layer l acts with probability g_i, its membership, and is silent
otherwise. A membership of 0 or 1 is a fixed gate; any other gate is drawn again at
every step, which is dropout with probabilities set by credit. With λ > 0 the loss has
the term

    λ Σ_l Σ_i (1 − g_i) ⟨h_i²⟩

over the activations h of the network of posterior means; if every g_i is 0 or 1, only
units outside the coalitions contribute. It shrinks the activations of weak units before
the units are removed.

Source: the ideas of regularization by Shapley values and of propagating only strong
coalitions are from Bouchaffra et al. 2024, arXiv:2410.12264; the formulas are this
project's own.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.training import AbstractRestriction
from meanfield.neurons.silence import silence
from meanfield.program.sources import UnitSource
from meanfield.program.steps import trace
from meanfield.program.units import find_units

Sources = tuple[tuple[str, tuple[tuple[str, UnitSource], ...]], ...]


class CoalitionRestriction(AbstractRestriction):
    """Gates on the units of some layers.

    Args:
        memberships: by layer, g in [0, 1] for each unit.
        sources: by layer, the parameters that feed its units; see
            `meanfield.program.units.Units`.
        strength: λ ≥ 0, in nats per example and squared activation.
    """

    memberships: dict[str, Float[Array, " units"]]
    sources: Sources = eqx.field(static=True)
    strength: float = eqx.field(static=True)

    def restrict(self, ensemble: Ensemble, key: PRNGKeyArray) -> Ensemble:
        """The ensemble in which units act with the probability of their membership."""
        keys = jax.random.split(key, len(self.memberships))
        masks = {
            layer: jax.random.uniform(one, gate.shape) < gate
            for (layer, gate), one in zip(self.memberships.items(), keys, strict=True)
        }
        return silence(ensemble, masks, self._sources)

    def penalty(self, ensemble: Ensemble, x: Any) -> Float[Array, ""]:
        """λ Σ_l Σ_i (1 − g_i) ⟨h_i²⟩ over a batch; later layers read g_i h_i."""
        total = jnp.zeros(())
        if self.strength == 0:
            return total
        points = ensemble.mean_params()
        program = trace(ensemble.apply_fn, points, x)
        units = {}
        for layer in self.memberships:
            own = find_units(program, layer)
            units[own.place] = (layer, own.axis)
        costs = []

        def gate(place: int, value: Any) -> Any:
            if place not in units:
                return value
            layer, axis = units[place]
            others = tuple(a for a in range(value.ndim) if a != axis)
            member = self.memberships[layer].astype(value.dtype)
            costs.append(((1 - member) * jnp.square(value).mean(others)).sum())
            return value * jnp.expand_dims(member, others)

        program.advance(program.start(points, x), change=gate)
        return self.strength * sum(costs, start=total)

    @property
    def _sources(self) -> Mapping[str, Mapping[str, UnitSource]]:
        return {layer: dict(names) for layer, names in self.sources}
