r"""A smaller ensemble: whole units are removed, and the others learn again.

Scattered zeros do not make a network faster; removing whole units does. A large layer
keeps the fraction ρ of its units with the largest r_j (see `unit_scores`). All
remaining connections start again with π = 0.3 (absent ones with m = 0 as well), and
learn at the temperature T of the run and a low price of 10 nats per connection:

    loss = mean NLL + T · Σ KL(q‖prior) / n,      ln((1 − p)/p) = 10,

with p the inclusion probability of the prior.

ρ is chosen on held-out examples. A network learns from the other examples at full
width. Copies of it learn again, each for the same number of epochs, at ρ = 1 and then
at 0.5, 0.65 and 0.8 until ρ is large enough; if 0.5 is, 0.375 is tried too. ρ is large
enough if the mean payoff on the held-out examples (accuracy, or for real targets
closeness, see `meanfield.credit.removal`) is at most the tolerance below that at ρ = 1.
Then the ensemble of the run, which learned from all examples, loses its units of
smallest r_j, and learns again from all examples.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from meanfield.checks import require
from meanfield.credit.removal import choose_payoff, earned, squared_error
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.likelihoods import Categorical
from meanfield.learning.results import FitResult
from meanfield.learning.selective import selective_start
from meanfield.program.entries import Entries
from meanfield.spikeslab import SpikeSlab

from .shipping.subnetworks import likely_params
from .shrinking.narrow import narrow
from .staged_learning import PROBE, fit_in_stages
from .unit_scores import count_units, removable_units, unit_scores

# Fractions ρ, in the order in which they are tried until one is large enough; if the
# first one is, `LESS` is tried too.
SHARES, LESS = (0.5, 0.65, 0.8), 0.375
# Products of matrices are fastest if their sizes are multiples of a vector's length. A
# pair (a, b): layers that keep a units or more keep a multiple of b.
MULTIPLES = ((48, 16), (16, 8))
# The price of a connection, in nats, and the probability of a spike and the largest
# slab variance with which connections start again.
PRICE, SPIKE_PROB, SLAB_VAR = 10.0, 0.3, 1e-2
# Steps of a trial, and number of examples over which r is averaged.
TRIAL_STEPS, SCORED = 2000, 4000
HELD_OUT = 0.15


@dataclasses.dataclass(frozen=True)
class Compacted:
    """The result of `compact`.

    Attributes:
        ensemble: in the shape of the given one, with π = 1 for all connections of
            removed units.
        likelihood: the likelihood with its learned parameters.
        share: ρ, the fraction of units that each large layer keeps, before rounding;
            1 if none could be removed.
        units: by layer, the numbers of units before and after.
        payoffs: mean held-out payoff by ρ; 1 is the full width.
        payoff: the name of the payoff.
    """

    ensemble: Ensemble
    likelihood: Any
    share: float
    units: dict[str, tuple[int, int]]
    payoffs: dict[float, float]
    payoff: str


def compact(
    ensemble: Ensemble,
    data: tuple[Any, Any],
    *,
    start: Ensemble,
    temperature: float,
    key: PRNGKeyArray,
    epochs: int,
    batch_size: int = 128,
    likelihood: Any = Categorical(),  # noqa: B008  (frozen)
    tolerance: float = 0.005,
    told: Callable[[str], Any] = lambda text: None,
) -> Compacted:
    """Remove as many units as the held-out payoff allows, and learn again.

    Args:
        ensemble: a trained ensemble.
        data: the examples (x, y) that it learned from.
        start: the ensemble before its training; the trials start from it, because they
            must not have learned from the examples that are held out.
        temperature: T of the run, as in `FitResult.search`.
        key: a `jax.random.key`.
        epochs: passes over the data after the removal.
        batch_size: examples per step.
        likelihood: likelihood of the targets, with the parameters that the run learned.
        tolerance: largest allowed decrease of the mean payoff, in [0, 1).
        told: called with a line before each step of the work.

    Returns:
        A `Compacted`; its ensemble is the given one if no unit can be removed.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> key = jax.random.key(0)
        >>> x = jax.random.normal(key, (80, 2))
        >>> data = x, (x[:, 0] > 0).astype(int)
        >>> start = mf.Ensemble.from_model(eqx.nn.MLP(2, 2, 8, 1, key=key), key=key)
        >>> result = mf.fit(start, data, key=key, prior=None, epochs=9, batch_size=16,
        ...                 progress=False)
        >>> small = mf.deploy.compact(result.ensemble, data, start=start, key=key,
        ...                           temperature=0.1, epochs=5, batch_size=16)
        >>> small.units
        {'layers/0': (8, 3)}
    """
    require(
        0 <= tolerance < 1,
        f"`tolerance` must be a decrease of the payoff in [0, 1); got {tolerance}.",
    )
    x, y = jax.tree.map(np.asarray, data)
    number = len(jax.tree.leaves(x)[0])
    layers = removable_units(ensemble, jax.tree.map(lambda leaf: leaf[:1], x))
    outputs = jax.eval_shape(
        lambda x: ensemble.apply_fn(ensemble.mean_params(), x),
        jax.tree.map(lambda leaf: leaf[:1], x),
    )
    payoff = choose_payoff(None, likelihood, outputs)
    nothing = Compacted(ensemble, likelihood, 1.0, {}, {}, payoff)
    keys = jax.random.split(key, 3)
    order = np.asarray(jax.random.permutation(keys[0], number))
    held = order[: int(HELD_OUT * number)]
    rest = order[len(held) :]
    if not layers or len(held) == 0 or len(rest) < batch_size:
        return nothing
    seen, unseen = (jax.tree.map(lambda a, r=r: a[r], (x, y)) for r in (rest, held))
    trial_epochs = -(-TRIAL_STEPS // (len(rest) // batch_size))
    trial_epochs = min(trial_epochs, max(epochs, 1))

    def learned(
        start: Ensemble, data: Any, epochs: int, likelihood: Any, key: PRNGKeyArray
    ) -> FitResult:
        return fit_in_stages(
            start,
            data,
            stages=[(epochs, 1.0)],
            temperature=temperature,
            price=PRICE,
            key=key,
            likelihood=likelihood,
            batch_size=batch_size,
            progress=False,
        )

    def again(
        known: Ensemble, likelihood: Any, share: float, data: Any, epochs: int
    ) -> tuple[Ensemble, Any]:
        """The ensemble with the units of largest r, after it has learned again."""
        some = jax.tree.map(lambda leaf: leaf[:SCORED], data)
        scores = unit_scores(known, likelihood, some, layers)
        gone = {name: _least(score, share) for name, score in scores.items()}
        probe = jax.tree.map(lambda leaf: leaf[:PROBE], data[0])
        smaller = narrow(_without(known, layers, gone), probe)
        renewed = _started_again(smaller.ensemble)
        result = learned(renewed, data, epochs, likelihood, keys[2])
        return smaller.widen(result.ensemble), result.likelihood

    told(f"finding how many units are needed: {trial_epochs} epochs at full width")
    fresh = selective_start(start)
    first = learned(fresh, seen, trial_epochs, likelihood, keys[1])
    scale, payoffs = 1.0, {}
    if payoff == "closeness":
        scale = squared_error(first.ensemble, first.likelihood, unseen)

    def enough(share: float) -> bool:
        told(f"training again with {100 * share:g} % of the units")
        tried, own = again(first.ensemble, first.likelihood, share, seen, trial_epochs)
        outputs = tried.apply_fn(likely_params(tried, "mean"), unseen[0])
        found = earned(payoff, own, outputs, unseen[1], scale)
        payoffs[share] = float(np.mean(found))
        return payoffs[1.0] - payoffs[share] <= tolerance

    enough(1.0)
    share = 1.0
    for candidate in SHARES:
        if enough(candidate):
            share = candidate
            break
    if share == SHARES[0] and enough(LESS):
        share = LESS
    if share == 1.0:
        return dataclasses.replace(nothing, payoffs=payoffs)
    told(f"{100 * share:g} % of the units learn again for {epochs} epochs")
    small, own = again(ensemble, likelihood, share, (x, y), epochs)
    counts = count_units(layers).items()
    units = {name: (count, _kept(count, share)) for name, count in counts}
    return Compacted(small, own, share, units, payoffs, payoff)


def _kept(count: int, share: float) -> int:
    """Number of units that a layer keeps, at least one."""
    kept = max(1, int(share * count))
    if share < 1:
        for least, multiple in MULTIPLES:
            if kept >= least:
                return kept - kept % multiple
    return kept


def _least(score: Float[np.ndarray, " units"], share: float) -> np.ndarray:
    """Indices of the units of smallest r, which are removed."""
    return np.argsort(-score, kind="stable")[_kept(len(score), share) :]


def _without(
    ensemble: Ensemble, layers: dict[str, list[Entries]], gone: dict[str, np.ndarray]
) -> Ensemble:
    """The ensemble with π = 1 for every outgoing connection of the removed units."""
    spikes = {
        name: np.broadcast_to(w.spike_prob, w.shape).copy().ravel()
        for name, w in ensemble.weights().items()
    }
    for name, parts in layers.items():
        for part in parts:
            spikes[part.name][part.places[np.isin(part.owner, gone[name])]] = 1.0
    return ensemble.with_weights(
        {
            name: SpikeSlab(_shared(spikes[name], w), w.slab_mean, w.slab_var)
            for name, w in ensemble.weights().items()
        }
    )


def _shared(spikes: np.ndarray, weight: SpikeSlab) -> Array:
    """Spikes in the shape in which a weight shares them."""
    whole = spikes.reshape(weight.shape)
    return jnp.asarray(whole.min(weight.shared, keepdims=True))


def _started_again(ensemble: Ensemble) -> Ensemble:
    """The ensemble with π = 0.3 and Ξ ≤ 0.01; absent connections get m = 0."""
    weights = {}
    for name, w in ensemble.weights().items():
        there = w.inclusion_prob > 0.5
        weights[name] = SpikeSlab(
            jnp.full_like(w.spike_prob, SPIKE_PROB),
            jnp.where(there, w.slab_mean, 0),
            jnp.minimum(w.slab_var, SLAB_VAR),
        )
    return ensemble.with_weights(weights)
